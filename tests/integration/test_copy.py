"""The first copy, on real servers, under the roles that users are told to make."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from connectors.postgres.pgtools import find_pgtools
from connectors.postgres.replica.progress import ReplicaState, read
from connectors.postgres.session import connect
from pipeline.config import Initial
from pipeline.copy import CopyPhase, copy_replica
from schemas.errors import HistoryBroken, OperatorNeeded, RetryLater
from schemas.lsn import Lsn, Position
from tests.copying import STREAM, ZOO, contents, copy, copy_options
from tests.fix_postgres import Database

TOOLS = ("pg_dump", "pg_restore")


def waiting_tools(folder: Path) -> Path:
    """pg_dump and pg_restore that wait, 20 s at most, until a file says that their command line was seen."""
    real = find_pgtools(0, connections=[]).folder
    for tool in TOOLS:
        waiting = folder / tool
        waiting.write_text(
            f"""#!/bin/sh
tries=0
until [ "$1" = --version ] || [ -e {folder}/{tool}.seen ] || [ $tries -ge 400 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
exec {real}/{tool} "$@"
"""
        )
        waiting.chmod(0o755)
    return folder


def names(replica: Database, kind: str) -> set[str]:
    """Names of one kind of object of the replica, `relkind` or `f` for foreign keys."""
    if kind == "f":
        return {n for (n,) in replica.execute("select conname from pg_constraint where contype = 'f'")}
    rows = replica.execute(
        """select relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where relkind = %s and nspname !~ '^pg_'
              and nspname not in ('information_schema', 'keepstream')""",
        [kind],
    )
    return {name for (name,) in rows}


def test_a_copy_holds_every_row_and_every_object_of_the_source(source: Database, replica: Database) -> None:
    source.execute(ZOO)

    position, told = copy(source, replica)

    assert contents(replica.admin_dsn) == contents(source.admin_dsn)
    assert names(replica, "f") == {"customer_parent_fkey", "deal_customer_fkey"}
    for kind in ("i", "v", "m", "S", "p", "I"):
        assert names(replica, kind) == names(source, kind), kind
    assert told[-1].phase is CopyPhase.DONE
    assert told[-1].attempt == 1
    with connect(replica.dsn, purpose="test") as session:
        progress = read(session, "crm")
    assert progress is not None
    assert (progress.state, progress.position, progress.place) == (ReplicaState.STREAMING, position, "17")
    assert progress.stream == STREAM


def test_bookkeeping_is_gone_and_nothing_stays_on_the_source_after_a_copy(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (a int); insert into t values (1)")

    copy(source, replica)

    tables = replica.execute("select tablename from pg_tables where schemaname = 'keepstream' order by 1")
    assert tables == [("audit",), ("deferred_ddl",), ("progress",)]
    assert source.execute_as_admin("select slot_name from pg_replication_slots") == []


def test_rows_that_name_an_index_are_left_to_the_applier_s_copy_with_the_keys_to_them(
    source: Database, replica: Database
) -> None:
    """Indexes are made behind the rows; the applier copies such a table when it is at the log's end."""
    source.execute(
        "create table t (id int primary key, named regclass);"
        " insert into t select i, 'pg_class' from generate_series(1, 9000) i;"
        " insert into t values (0, 't_pkey');"
        " create table u (id int primary key references t); insert into u values (1)"
    )
    copy(source, replica, part_bytes=100_000)
    left = "select table_name, awaits_copy from keepstream.schema_left_out"
    assert replica.execute(left) == [("t", True)]
    assert replica.execute("select (select count(*) from t), (select count(*) from u)") == [(0, 1)]
    assert replica.execute("select object, reason from keepstream.deferred_ddl") == [
        ("public.u.u_id_fkey", "it refers to public.t, whose rows are still to be copied")
    ]


def test_a_value_that_names_what_the_replica_lacks_is_told_with_a_way_out(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (id int primary key, named regclass); insert into t values (1, 't_pkey')")
    replica.execute("create table t (id int, named regclass, unique (id))")
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)
    assert (refused.value.code, refused.value.message) == (
        "replica-schema",
        'copying public.t: relation "public.t_pkey" does not exist',
    )
    assert "empty the replica's database, make the schema yourself" in refused.value.hint


def test_a_replica_that_is_read_only_for_everybody_else_is_copied_into(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (id int primary key); insert into t values (1)")
    replica.execute_as_admin(f"alter database {replica.name} set default_transaction_read_only = on")
    copy(source, replica)
    assert replica.execute("select id from t") == [(1,)]


def test_sequences_go_on_behind_the_last_value_that_the_source_gave_out(
    source: Database, replica: Database
) -> None:
    source.execute(ZOO)
    source.execute("alter sequence customer_id_seq restart 5000")

    copy(source, replica)

    assert replica.execute("select nextval('counter'), nextval('customer_id_seq')") == [(80, 5000)]
    assert replica.execute("insert into single default values returning id") == [(2,)]


def test_a_large_table_is_cut_into_parts_that_hold_each_row_once(source: Database, replica: Database) -> None:
    source.execute(
        "create table big as select g as id, md5(g::text) as a from generate_series(1, 50000) g; analyze big"
    )

    _, told = copy(source, replica, part_bytes=100_000)

    (table,) = told[-1].tables
    assert table.parts > 20
    assert (table.rows_done, table.rows_estimated, table.parts_done) == (50000, 50000, table.parts)
    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


@pytest.mark.slow
def test_a_bytea_too_long_for_text_is_copied_in_binary(source: Database, replica: Database) -> None:
    source.execute("create table t (id int, b bytea)")
    source.execute("insert into t select 1, decode(repeat('00ff', 135000000), 'hex')")

    copy(source, replica)

    assert replica.execute("select id, length(b), md5(b) from t") == source.execute(
        "select id, length(b), md5(b) from t"
    )


def test_a_row_of_1600_columns_is_copied(source: Database, replica: Database) -> None:
    columns = ", ".join(f"c{n} bool" for n in range(1600))
    source.execute(f"create table wide ({columns}); insert into wide (c0, c1599) values (true, false)")

    copy(source, replica)

    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


def test_tables_that_are_not_replicated_get_their_schema_only_and_keys_to_them_are_left_out(
    source: Database, replica: Database
) -> None:
    source.execute(ZOO)

    _, told = copy(source, replica, tables=(("public", "deal"), ("public", "single")))

    assert replica.execute("select count(*) from customer") == [(0,)]
    assert replica.execute("select count(*) from deal") == [(5000,)]
    assert names(replica, "f") == {"customer_parent_fkey"}
    assert told[-1].left_out == (
        "foreign key public.deal.deal_customer_fkey: it refers to public.customer, "
        "whose rows are not replicated",
    )
    ((statement,),) = replica.execute("select statement from keepstream.deferred_ddl")
    assert statement == (
        'alter table only "public"."deal" add constraint "deal_customer_fkey" '
        "FOREIGN KEY (customer) REFERENCES public.customer(id) ON DELETE CASCADE;"
    )


def test_a_publication_says_which_tables_have_their_rows_copied(source: Database, replica: Database) -> None:
    source.execute(ZOO)
    source.execute_as_admin("create publication p for table customer, event")

    copy(source, replica, publication="p")

    assert replica.execute("select count(*) from customer") == [(300,)]
    assert replica.execute("select count(*) from event") == [(600,)]
    assert replica.execute("select count(*) from deal") == [(0,)]
    assert replica.execute("select count(*) from pg_publication") == [(0,)]


def test_objects_that_act_on_servers_are_left_out(source: Database, replica: Database) -> None:
    source.execute("create table t (a int primary key)")
    source.execute_as_admin(
        """create publication p for table t;
           create function ddl() returns event_trigger language plpgsql as 'begin end';
           create event trigger e on ddl_command_end execute function ddl();
           comment on schema public is 'ours'; comment on extension plpgsql is 'x';
           create schema keepstream; create table keepstream.mine (a int)"""
    )

    _, told = copy(source, replica)

    assert replica.execute(
        "select (select count(*) from pg_event_trigger), to_regclass('keepstream.mine')"
    ) == [(0, None)]
    assert [text for text in told[-1].left_out if text.startswith("EVENT TRIGGER")]


def test_without_session_replication_role_keys_are_deferred_and_triggers_disabled(
    source: Database, new_replica: Callable[..., Database]
) -> None:
    replica = new_replica()
    replica.execute_as_admin("revoke set on parameter session_replication_role from keepstream")
    source.execute(ZOO)
    source.execute("create rule noted as on delete to empty do also notify gone")

    copy(source, replica)

    assert contents(replica.admin_dsn) == contents(source.admin_dsn)
    assert names(replica, "f") == set()
    assert replica.execute("select tgenabled from pg_trigger where tgname = 'touched'") == [("D",)]
    for (statement,) in replica.execute("select statement from keepstream.deferred_ddl order by id"):
        replica.execute(statement)
    assert names(replica, "f") == {"customer_parent_fkey", "deal_customer_fkey"}
    assert replica.execute("select tgenabled from pg_trigger where tgname = 'touched'") == [("O",)]
    assert replica.execute("select ev_enabled from pg_rewrite where rulename = 'noted'") == [("O",)]


def test_a_trigger_that_would_fire_on_a_replica_is_disabled_there(
    source: Database, replica: Database
) -> None:
    source.execute(ZOO)
    source.execute("alter table deal enable always trigger touched")

    copy(source, replica)

    assert contents(replica.admin_dsn) == contents(source.admin_dsn)
    assert replica.execute("select tgenabled from pg_trigger where tgname = 'touched'") == [("D",)]
    assert replica.execute("select statement from keepstream.deferred_ddl") == [
        ('alter table only "public"."deal" enable always trigger "touched";',)
    ]


def test_rows_alone_are_copied_into_a_prepared_schema(source: Database, replica: Database) -> None:
    source.execute(ZOO)
    replica.execute(ZOO.split("insert into")[0])
    replica.execute("alter table customer add column extra text default 'ours'; drop table event")
    replica.execute("create table event (what text, id int, at date, primary key (at, id))")

    copy(source, replica, initial=Initial.DATA)

    assert replica.execute("select id, name, parent from customer order by id") == source.execute(
        "select id, name, parent from customer order by id"
    )
    assert replica.execute("select at, id, what from event order by 1, 2") == source.execute(
        "select at, id, what from event order by 1, 2"
    )
    assert replica.execute("select * from deal order by id") == source.execute(
        "select * from deal order by id"
    )
    assert replica.execute("select distinct extra from customer") == [("ours",)]
    assert replica.execute("select nextval('customer_id_seq')") == [(301,)]


def test_rows_alone_are_not_copied_where_a_trigger_of_the_replica_would_fire(
    source: Database, replica: Database
) -> None:
    """On a partition, too, whose parent takes the rows."""
    source.execute("create table t (a int); insert into t values (1)")
    replica.execute(
        """create table t (a int) partition by range (a); create table part partition of t default;
           create trigger loud before update on part for each row
               execute function suppress_redundant_updates_trigger();
           alter table part enable always trigger loud"""
    )

    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)

    assert refused.value.code == "replica-triggers"
    assert refused.value.message == "copying into public.t of the replica would fire trigger loud"
    mending = 'alter table only "public"."part" enable trigger "loud";'
    assert refused.value.hint.endswith(mending)
    assert replica.execute("select to_regnamespace('keepstream')") == [(None,)]
    replica.execute(mending)
    copy(source, replica, initial=Initial.DATA)
    assert replica.execute("select a from t") == [(1,)]


def test_a_prepared_table_with_rows_is_refused(source: Database, replica: Database) -> None:
    source.execute("create table t (a int)")
    replica.execute("create table t (a int); insert into t values (1)")

    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)

    assert refused.value.code == "replica-not-empty"
    assert refused.value.message == "the replica has rows in public.t"
    assert replica.execute("select to_regclass('keepstream.progress')") == [(None,)]


def test_a_prepared_table_without_a_column_of_the_source_is_refused(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (a int, b int)")
    replica.execute("create table t (a int)")

    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)

    assert (refused.value.code, refused.value.message) == (
        "replica-schema",
        "public.t of the replica cannot hold what public.t holds: it lacks column b (integer)",
    )


def test_a_prepared_table_whose_types_would_round_is_refused(source: Database, replica: Database) -> None:
    source.execute("create table t (a numeric(12,4)); insert into t values (1.2345)")
    replica.execute("create table t (a numeric(12,2))")
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)
    assert refused.value.code == "replica-schema"
    replica.execute(refused.value.hint.split("start again:\n")[1])
    copy(source, replica, initial=Initial.DATA)
    assert replica.execute("select a::text from t") == [("1.2345",)]


def test_initial_none_only_records_the_position_that_the_caller_vouches_for(
    source: Database, replica: Database
) -> None:
    vouched = Position(Lsn(0x1234), xid=9, commit_time=1_700_000_000_000_000)

    position, _ = copy(source, replica, initial=Initial.NONE, position=vouched)

    assert position == vouched
    with connect(replica.dsn, purpose="test") as session:
        progress = read(session, "crm")
    assert progress is not None
    assert (progress.position, progress.state) == (vouched, ReplicaState.STREAMING)


@pytest.mark.parametrize(
    ("made", "seen"),
    [
        ("create table t (a int)", "the replica is not empty: it has table public.t"),
        ("create type t as (a int)", "the replica is not empty: it has type public.t"),
        (
            "create schema s; create function s.f() returns int language sql return 1",
            "the replica is not empty: it has function s.f()",
        ),
    ],
)
def test_a_replica_that_is_not_empty_is_refused_untouched(
    source: Database, replica: Database, made: str, seen: str
) -> None:
    replica.execute(made)

    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica)

    assert (refused.value.code, refused.value.message) == ("replica-not-empty", seen)
    assert "initial: data" in refused.value.hint
    assert replica.execute("select to_regnamespace('keepstream')") == [(None,)]


def test_a_replica_that_follows_a_log_is_refused(source: Database, replica: Database) -> None:
    source.execute("create table t (a int)")
    copy(source, replica)

    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica)

    assert refused.value.code == "replica-in-use"


def test_an_extension_that_only_a_superuser_may_create_is_asked_for(
    source: Database, replica: Database
) -> None:
    source.execute_as_admin(
        "create schema ext; create extension pageinspect schema ext; create extension citext"
    )
    source.execute_as_admin("create table t (a public.citext); grant all on t to keepstream")

    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica)

    assert refused.value.code == "extension-needs-admin"
    assert refused.value.hint == (
        'Run in the replica\'s database as a superuser: create schema if not exists "ext"; '
        'create extension "pageinspect" schema "ext";'
    )
    assert replica.execute("select to_regnamespace('keepstream')") == [(None,)]
    replica.execute_as_admin(refused.value.hint.partition(": ")[2])
    copy(source, replica)
    assert replica.execute("select extname from pg_extension order by 1") == [
        ("citext",),
        ("pageinspect",),
        ("plpgsql",),
    ]


def test_a_role_that_a_policy_names_is_asked_for(source: Database, replica: Database) -> None:
    source.execute("create table t (a int)")
    source.execute_as_admin("create role auditor; create policy p on t to auditor using (true)")
    try:
        with pytest.raises(OperatorNeeded) as refused:
            copy(source, replica)
    finally:
        source.execute_as_admin("drop policy p on t; drop role auditor")

    assert refused.value.code == "policy-role-missing"
    assert refused.value.hint == 'Run on the replica\'s server as a superuser: create role "auditor";'


def test_row_level_security_that_hides_rows_is_refused(source: Database, replica: Database) -> None:
    source.execute(
        "create table t (a int); alter table t enable row level security; insert into t values (1)"
    )

    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica)

    assert refused.value.code == "row-security-hides-rows"
    assert refused.value.message == ("row-level security hides rows of public.t from our role on the source")


def test_a_replica_is_made_without_forced_row_level_security_which_would_bind_only_our_role(
    source: Database, replica: Database
) -> None:
    source.execute(
        "create table t (a int); insert into t values (1); create policy none on t using (false);"
        " alter table t enable row level security, force row level security"
    )
    source.execute_as_admin("alter role keepstream bypassrls")
    try:
        _, told = copy(source, replica)
    finally:
        source.execute_as_admin("alter role keepstream nobypassrls")

    security = "select relrowsecurity, relforcerowsecurity from pg_class where relname = 't'"
    assert replica.execute(security) == [(True, False)]
    assert told[-1].left_out == (
        "row security public.t: FORCE would apply the policies to our role, which owns the table here",
    )
    replica.execute("update t set a = 2")
    assert replica.execute("select a from t") == [(2,)]
    ((statement,),) = replica.execute("select statement from keepstream.deferred_ddl")
    replica.execute(statement)
    assert replica.execute(security) == [(True, True)]


def test_a_replica_keeps_forced_row_level_security_that_our_role_bypasses(
    source: Database, new_replica: Callable[..., Database]
) -> None:
    replica = new_replica()
    source.execute(
        "create table t (a int); alter table t enable row level security, force row level security"
    )
    for each in (source, replica):
        each.execute_as_admin("alter role keepstream bypassrls")
    try:
        _, told = copy(source, replica)
    finally:
        source.execute_as_admin("alter role keepstream nobypassrls")

    assert replica.execute("select relforcerowsecurity from pg_class where relname = 't'") == [(True,)]
    assert told[-1].left_out == ()


def test_rows_alone_are_not_copied_where_a_policy_of_the_replica_would_refuse_them(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (a int); insert into t values (1)")
    replica.execute(
        "create table t (a int); alter table t enable row level security, force row level security"
    )

    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)

    assert refused.value.code == "replica-row-security"
    assert replica.execute("select to_regnamespace('keepstream')") == [(None,)]
    replica.execute(refused.value.hint.split("owner: ")[1])
    copy(source, replica, initial=Initial.DATA)
    assert replica.execute("select a from t") == [(1,)]


def test_a_table_that_our_role_may_not_read_is_refused(
    source: Database, replica: Database, new_source: Callable[..., Database]
) -> None:
    poor = new_source()
    poor.execute_as_admin("revoke pg_read_all_data from keepstream")
    poor.execute("create table t (a int, b int); grant select (a) on t to keepstream")

    with pytest.raises(OperatorNeeded) as refused:
        copy(poor, replica)

    assert refused.value.code == "select-denied"
    assert 'Run as the owner: grant select on "public"."t" to "keepstream";' in refused.value.hint


def test_a_publication_that_is_missing_is_said_and_nothing_is_copied(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (a int)")

    with pytest.raises(HistoryBroken) as refused:
        copy(source, replica, publication="gone")

    assert refused.value.code == "publication-missing"
    assert replica.execute("select to_regnamespace('keepstream')") == [(None,)]


def test_a_replica_that_cannot_hold_the_sources_characters_is_refused(
    source: Database, replica: Database
) -> None:
    name = f"{replica.name}_latin"
    with psycopg.connect(replica.server.dsn(), autocommit=True) as admin:
        options = "encoding 'LATIN1' locale 'C' template template0 owner keepstream"
        admin.execute(f"create database {name} {options}".encode())
        try:
            with pytest.raises(OperatorNeeded) as refused:
                copy(source, replica, replica_conninfo=make_conninfo(replica.dsn, dbname=name))
        finally:
            admin.execute(f"drop database {name}".encode())

    assert (refused.value.code, refused.value.message) == (
        "encoding-differs",
        "the replica's encoding is LATIN1, the source's is UTF8",
    )


def test_a_missing_pg_dump_is_said_before_anything_is_made(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute("create table t (a int)")
    monkeypatch.setattr("connectors.postgres.pgtools._folders", lambda configured: iter([]))

    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica)

    assert refused.value.code == "pg-dump-too-old"
    assert refused.value.message.endswith("no pg_dump here is as new; found: none")
    assert replica.execute("select to_regnamespace('keepstream')") == [(None,)]


def test_no_password_shows_in_the_process_list(
    source: Database, replica: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(ZOO)
    tools = waiting_tools(tmp_path)
    monkeypatch.setattr("connectors.postgres.pgtools._folders", lambda configured: iter([tools]))
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(line := path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue
                for tool in TOOLS:
                    if f"{tools}/{tool} " in line and "--version" not in line:
                        (tools / f"{tool}.seen").touch()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        copy(source, replica)
    finally:
        done.set()
        looking.join()
    assert all((tools / f"{tool}.seen").exists() for tool in TOOLS)
    assert not [line for line in seen if source.password in line or replica.password in line]


def test_progress_tells_rows_bytes_and_what_the_snapshot_holds_back(
    source: Database, replica: Database
) -> None:
    source.execute("create table t as select g, md5(g::text) from generate_series(1, 300000) g; analyze t")

    position, told = copy(source, replica, part_bytes=1_000_000)

    rows = [p for p in told if p.phase is CopyPhase.ROWS]
    assert all(p.snapshot_lsn == str(position) for p in rows)
    assert all(p.snapshot_age_s is not None for p in rows)
    assert all(p.source_xmin_age is not None for p in rows)
    assert rows[0].rows_estimated == 300000
    assert [p.rows_done for p in told] == sorted(p.rows_done for p in told)
    end = told[-1]
    assert (end.rows_done, end.tables_done, end.tables_total) == (300000, 1, 1)
    assert end.bytes_done == end.bytes_estimated
    assert end.items_done == end.items_total


def test_an_open_transaction_is_named_while_the_snapshot_waits_for_it(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (a int)")
    stop = threading.Event()
    blocked: list[str] = []

    def told(progress: object) -> None:
        blockers = getattr(progress, "blockers", ())
        if blockers and not blocked:
            blocked.extend(map(str, blockers))
            idle.rollback()

    with psycopg.connect(source.owner_dsn, application_name="nightly report") as idle:
        idle.execute("insert into t values (1)")
        pid = idle.info.backend_pid
        position = copy_replica(copy_options(source, replica), told, stop)
    assert position.lsn > 0
    named = rf"pid {pid} \(nightly report, crm, idle in transaction(, open for \d+ s)?\)"
    assert re.fullmatch(named, blocked[0])
    assert replica.execute("select count(*) from t") == [(0,)]


def test_waiting_for_a_prepared_transaction_is_bounded(source: Database, replica: Database) -> None:
    source.execute("create table t (a int)")
    source.execute("begin; insert into t values (1); prepare transaction 'left behind'")

    with pytest.raises(RetryLater) as given_up:
        copy(source, replica, snapshot_limit_s=1.0)

    assert given_up.value.code == "snapshot-blocked"
    assert "prepared transaction 'left behind' of crm" in given_up.value.message
    assert "rollback prepared 'left behind';" in given_up.value.hint
    assert source.execute_as_admin("select count(*) from pg_replication_slots") == [(0,)]


@pytest.mark.parametrize("phase", [CopyPhase.SNAPSHOT, CopyPhase.SCHEMA, CopyPhase.ROWS, CopyPhase.INDEXES])
def test_a_copy_stops_soon_and_starts_again(source: Database, replica: Database, phase: CopyPhase) -> None:
    source.execute(ZOO)
    stop = threading.Event()

    def told(progress: object) -> None:
        if getattr(progress, "phase", None) is phase:
            stop.set()

    started = time.monotonic()
    with pytest.raises(RetryLater) as stopped:
        copy_replica(copy_options(source, replica), told, stop)
    assert stopped.value.code == "copy-stopped"
    assert time.monotonic() - started < 10
    copy(source, replica)
    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


@pytest.mark.parametrize("phase", [CopyPhase.PREPARING, CopyPhase.SNAPSHOT, CopyPhase.SCHEMA, CopyPhase.ROWS])
def test_a_copy_that_waits_for_a_lock_names_its_holder_and_can_be_stopped(
    source: Database, replica: Database, phase: CopyPhase
) -> None:
    source.execute("create table t (a int)")
    stop = threading.Event()
    named: list[str] = []

    def told(progress: object) -> None:
        named.extend(map(str, getattr(progress, "blockers", ())))
        if named:
            stop.set()

    with psycopg.connect(source.owner_dsn, application_name="migration") as migration:

        def lock_after_snapshot(progress: object) -> None:
            if getattr(progress, "phase", None) is phase and not named:
                migration.execute("lock table t in access exclusive mode")
            told(progress)

        with pytest.raises(RetryLater) as stopped:
            copy_replica(copy_options(source, replica), lock_after_snapshot, stop)
    assert stopped.value.code == "copy-stopped"
    assert "migration" in named[0]


def test_a_second_copy_into_the_same_replica_waits_while_the_first_lives(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (a int); insert into t values (1)")
    refused: list[RetryLater] = []

    def told(progress: object) -> None:
        if getattr(progress, "phase", None) is CopyPhase.ROWS and not refused:
            with pytest.raises(RetryLater) as second:
                copy(source, replica)
            refused.append(second.value)

    copy_replica(copy_options(source, replica), told, threading.Event())

    assert refused[0].code == "copy-running"
    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


def test_a_copy_whose_token_was_voided_stops(source: Database, replica: Database) -> None:
    source.execute(ZOO)

    def told(progress: object) -> None:
        if getattr(progress, "phase", None) is CopyPhase.ROWS:
            replica.execute("update keepstream.progress set token = gen_random_uuid()")

    with pytest.raises(OperatorNeeded) as replaced:
        copy_replica(copy_options(source, replica), told, threading.Event())

    assert replaced.value.code == "copy-replaced"


def test_the_mode_of_an_unfinished_copy_cannot_be_changed(source: Database, replica: Database) -> None:
    source.execute("create table t (a int)")
    stop = threading.Event()
    with pytest.raises(RetryLater):
        copy_replica(copy_options(source, replica), lambda p: stop.set() if p.snapshot_lsn else None, stop)

    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.NONE, position=Position(Lsn(1)))

    assert refused.value.code == "copy-mode-changed"
