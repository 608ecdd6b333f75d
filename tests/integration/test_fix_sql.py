"""What `check --fix-sql` prints, piped into psql: on the server that it is for, and on another one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from connectors.postgres.instance import Instance, read_instance
from connectors.postgres.session import Session
from pipeline.cli import main
from pipeline.cli.serversql import ServerSql, choose
from pipeline.config import load_config
from tests.fix_postgres import Database, psql
from tests.postgres_releases import needs_release

PREPARED = "create table customer (id int primary key, amount numeric(12,4), keyless int)"
_GROWTH = (r"grew [\d.]+ \w+ a day|size = '\d+[kMGT]B'", "grew")
"""How fast WAL grows is measured anew by each look, and what is enough for it."""


@pytest.fixture
def path(source: Database, replica: Database, tmp_path: Path) -> Path:
    """Both servers need SQL, and so does each have rows that the other's would destroy or misses."""
    source.grant_ownership()
    source.execute(f"{PREPARED}; insert into customer values (1, 1, 1); create table keyless (x int)")
    replica.execute(PREPARED.replace("12,4", "12,2"))
    replica.execute("insert into customer values (2, 2, 2); create table keyless (x int)")
    path = tmp_path / "keepstream.yaml"
    path.write_text(
        f"name: crm\nsource: {source.dsn}\nlog: file://{tmp_path}/log\n"
        f"replicas: {{standby: {{url: '{replica.dsn}', initial: data}}}}\n"
    )
    path.chmod(0o600)
    return path


def fixes(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    main(["-c", str(path), "check", "--fix-sql", *options])
    return capsys.readouterr().out.removesuffix("\n")


def state(database: Database) -> Sequence[object]:
    return database.execute(
        "select (select array_agg(id) from customer), (select relreplident::text from pg_class"
        " where relname = 'keyless'), format_type(atttypid, atttypmod)"
        " from pg_attribute where attrelid = 'customer'::regclass and attname = 'amount'"
    )


@pytest.mark.parametrize("options", [(), ("-f", "-"), ("-1", "-f", "-"), ("-v", "ON_ERROR_STOP=0")])
def test_the_sql_of_several_servers_changes_none(
    path: Path,
    source: Database,
    replica: Database,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    before, printed = [state(source), state(replica)], fixes(path, capsys)
    for database in (source, replica):
        ended = psql(database, printed, *options)
        assert (ended.returncode, ended.stdout) == (3, "")
        assert ended.stderr.startswith(
            "Nothing was run: there are several servers."
            " Print the SQL of one: keepstream check --fix-sql --for source or --for standby\n"
        )
    assert [state(source), state(replica)] == before


def test_the_sql_of_one_server_mends_that_and_destroys_nothing(
    path: Path, source: Database, replica: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    for server, database, title in (
        ("source", source, "-- To be run on the source: "),
        ("standby", replica, "-- To be run on the replica standby: "),
    ):
        printed = fixes(path, capsys, "--for", server)
        assert printed.startswith(title)
        assert printed.count("-- To be run on ") == 1
        ended = psql(database, printed, "-v", "ON_ERROR_STOP=1")
        assert (ended.returncode, ended.stderr) == (0, "")
    assert state(source) == [([1], "f", "numeric(12,4)")]
    assert state(replica) == [([2], "d", "numeric(12,4)")]


def test_where_there_is_one_server_it_is_named_and_nothing_is_guarded(
    path: Path, source: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(path.read_text().split("replicas:")[0])
    printed = fixes(path, capsys)
    assert printed.startswith(
        f"-- To be run on the source: 127.0.0.1:{source.server.port}/{source.name}\n\n--"
    )
    chosen = fixes(path, capsys, "--for", "source")
    assert re.sub(*_GROWTH, chosen) == re.sub(*_GROWTH, printed)
    assert psql(source, printed, "-v", "ON_ERROR_STOP=1").returncode == 0
    assert state(source) == [([1], "f", "numeric(12,4)")]


def test_what_only_a_replica_needs_is_not_run_where_nobody_said_on_which_server(
    path: Path, source: Database
) -> None:
    config, verb = load_config(path), "keepstream check --fix-sql"
    part = ServerSql("replica standby", "create table ours (x int);")
    ended = psql(source, choose([part], None, config, verb=verb))
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith(
        "Nothing was run: there are several servers. Print the SQL of one: keepstream check --fix-sql"
        " --for standby\n"
    )
    assert source.execute("select to_regclass('ours')") == [(None,)]
    assert choose([part], part.where, config, verb=verb) == part.text
    assert choose([], None, config, verb=verb) == ""


def test_a_rollback_of_a_prepared_transaction_is_no_more_than_a_comment(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_old_one(session: Session) -> Instance:
        return replace(read_instance(session), old_prepared=("one",))

    monkeypatch.setattr(import_module("pipeline.check.preflight"), "read_instance", with_old_one)
    printed = fixes(path, capsys, "--for", "source")
    assert "\n-- loses what it wrote: rollback prepared 'one';\n-- or: commit prepared 'one';\n" in printed


def test_the_summary_names_the_servers_that_have_sql(
    path: Path, source: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    def last_line() -> str:
        main(["-c", str(path), "check"])
        return capsys.readouterr().out.splitlines()[-1]

    verbs = "`keepstream check --fix-sql --for source` or `keepstream check --fix-sql --for standby`"
    assert last_line().endswith(f"; {verbs} prints the SQL.")
    path.write_text(path.read_text().split("replicas:")[0].replace(f":{source.server.port}/", ":1/"))
    assert last_line() == "1 error and 0 warnings."


def test_the_summary_sends_nobody_for_sql_that_is_all_comments(
    path: Path, replica: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    replica.execute("drop table keyless; alter table customer alter amount type numeric(12,4)")
    assert "-- loses " in fixes(path, capsys, "--for", "standby")
    main(["-c", str(path), "check"])
    summary = capsys.readouterr().out.splitlines()[-1]
    assert summary.endswith("; `keepstream check --fix-sql --for source` prints the SQL.")


def test_a_server_is_chosen_among_those_of_the_file_and_only_for_sql(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["-c", str(path), "check", "--for", "source"]) == 2
    monkeypatch.setattr(import_module("pipeline.check"), "preflight", None)  # nothing is looked at first
    assert main(["-c", str(path), "check", "--fix-sql", "--for", "nobody"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "error[server-unknown]: --for nobody names no server of this pipeline\n" in told.err
    assert "hint: Give one of: --for source, --for standby\n" in told.err


SAME = """
    create domain filled as int not null;
    create table parted (id int not null, v numeric(12,4), note text, total int) partition by range (id);
    create table middle partition of parted for values from (0) to (100) partition by range (id);
    create table low partition of middle for values from (0) to (10);
    create table high partition of middle for values from (10) to (100);
    create table rest partition of parted default;
    create table base (id int not null, v numeric(12,4), note text, total int);
    create table a_child (mine text) inherits (base); create table z_child () inherits (a_child)
"""
UNLIKE = SAME.replace("12,4", "8,2").replace(" note text,", "")
COMPUTING = "total int generated always as (id * 2)"


@pytest.mark.parametrize(
    ("source_s", "replica_s", "errors"),
    [
        (SAME, SAME.replace("12,4", "8,2"), 6),
        (SAME, SAME.replace(" note text,", ""), 6),
        (SAME, SAME.replace("mine text", ""), 2),
        (SAME, SAME.replace("total int", f"{COMPUTING} stored"), 6),
        pytest.param(
            SAME, SAME.replace("total int", f"{COMPUTING} virtual"), 6, marks=needs_release("replica", 18)
        ),
        (SAME, SAME.replace("total int", "total int, ours int not null"), 6),
        (SAME, SAME.replace("total int", "total int, ours filled"), 6),
        (
            SAME,
            UNLIKE.replace("total int", f"{COMPUTING} stored, ours int not null").replace("mine text", ""),
            6,
        ),
        (SAME.replace("total int", f"{COMPUTING} stored"), SAME, 6),
    ],
    ids=["type", "column", "own column", "stored", "virtual", "NOT NULL", "domain", "all", "computed"],
)
def test_what_partitions_and_children_inherit_is_mended_where_it_comes_from(
    path: Path,
    source: Database,
    replica: Database,
    capsys: pytest.CaptureFixture[str],
    source_s: str,
    replica_s: str,
    errors: int,
) -> None:
    config = (
        path.read_text().replace("source: ", "source: {keyless: full, url: ").replace("\nlog: ", "}\nlog: ")
    )
    path.write_text(config)
    for database, schema in ((source, source_s), (replica, replica_s)):
        database.execute(f"drop table customer, keyless; {schema}")
    main(["-c", str(path), "check", "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [each["code"] for each in findings if each["severity"] == "error"] == ["replica-schema"] * errors
    printed = re.sub("^-- loses [^:]*: ", "", fixes(path, capsys, "--for", "standby"), flags=re.MULTILINE)
    statements = [line for line in printed.splitlines() if line and not line.startswith("--")]
    assert len(statements) == len(set(statements))
    ended = psql(replica, printed, "-v", "ON_ERROR_STOP=1", "-1")
    assert ended.returncode == 0, ended.stderr
    assert main(["-c", str(path), "check"]) == 0, capsys.readouterr().out
