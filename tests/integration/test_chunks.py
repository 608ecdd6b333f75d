"""Rows that go from one server to another in one COPY for each chunk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from connectors.postgres.copy import copystream
from connectors.postgres.copy.copystream import stream_in_chunks
from connectors.postgres.session import Session, connect
from tests.fix_postgres import Database

ROWS = """
    select i, case when i % 7 > 0 then e'a\\tb\\\\\\n' || i end, repeat('x', i % 50 * 1000)::bytea
      from generate_series(1, 300) i
"""


@pytest.fixture
def pair(source: Database, replica: Database) -> Iterator[tuple[Session, Session]]:
    """Both have a table `t`; the second session is in a transaction."""
    for side in (source, replica):
        side.execute("create table t (id int, v text, b bytea)")
    source.execute(f"insert into t {ROWS}; insert into t values (0, '', repeat('y', 1000000)::bytea)")
    with (
        closing(connect(source.dsn, purpose="test")) as ours,
        closing(connect(replica.dsn, purpose="test")) as theirs,
    ):
        theirs.execute("begin")
        yield ours, theirs


def _stream(pair: tuple[Session, Session], form: str, query: str = "select * from public.t") -> int:
    return stream_in_chunks(
        *pair,
        read=f"copy ({query}) to stdout (format {form})",
        write=f"copy public.t from stdin (format {form})",
        binary=form == "binary",
        tick=lambda rows, size: None,
    )


@pytest.mark.parametrize("form", ["text", "binary"])
def test_every_row_arrives_once_and_unchanged(pair: tuple[Session, Session], form: str) -> None:
    assert _stream(pair, form) == 301
    digest = "select count(*), md5(string_agg(t::text, ',' order by id)) from public.t"
    ours, theirs = (side.execute(digest).fetchall() for side in pair)
    assert ours == theirs
    assert _stream(pair, form, "select * from public.t where false") == 0


def test_a_slow_source_does_not_let_the_target_idle(
    pair: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copystream, "_AWAKE_S", 0.2)
    pair[1].execute("set idle_in_transaction_session_timeout = '800ms'")
    slow = "select 1, 'v', null::bytea from (select pg_sleep(2) offset 0) s"
    assert _stream(pair, "text", slow) == 1


def test_a_chunk_that_takes_too_long_is_cancelled(pair: tuple[Session, Session]) -> None:
    pair[1].execute(
        "create function public.slow() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(5); return new; end $$;"
        " create trigger slow before insert on public.t for each row execute function public.slow();"
        " set local statement_timeout = '200ms'"
    )
    with pytest.raises(psycopg.errors.QueryCanceled):
        _stream(pair, "text")
