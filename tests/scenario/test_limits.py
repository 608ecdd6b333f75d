"""Publications that send some columns or rows of a table: replicas have exactly these."""

from __future__ import annotations

import pytest

from tests.fix_pipeline import Pipeline
from tests.limited import LISTED, ORDERS, PEOPLE, publish, rows, told
from tests.tracked import install_triggers


def test_a_replica_has_what_the_publications_column_list_names_and_null_elsewhere(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute(PEOPLE)
    publish(pipeline, LISTED, "plain")
    check = pipeline.run("check", "--json")
    assert "of 1 of them some columns or rows only" in check.stdout
    pipeline.start("run")
    pipeline.wait()
    pipeline.source.execute(
        "insert into person (name, secret, doc) values ('new', 'secret new', 'd');"
        " update person set secret = 'changed' || id where id < 10;"
        " update person set name = 'renamed' where id = 11;"
        " delete from person where id = 12; insert into plain values (2)"
    )
    pipeline.wait()
    pipeline.verify()
    assert rows(pipeline, "select count(*), count(name), count(secret) from person") == [(500, 500, 0)]
    assert rows(pipeline, "select name from person where id in (11, 12)") == [("renamed",)]
    assert rows(pipeline, "select * from plain order by id") == [(1, "kept"), (2, "kept")]
    events = told(pipeline)
    assert "renamed" in events
    assert "secret new" not in events


def test_schema_changes_of_columns_that_are_listed_and_of_others_are_followed(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    source.execute(PEOPLE)
    source.execute("create domain filled as text default 'f'; alter table person add d filled, add r text")
    publish(pipeline, LISTED)
    install_triggers(source)
    pipeline.settings["schema"] = {"policies": {"drop_column": "apply", "alter_type": "apply"}}
    pipeline.write_config()
    pipeline.start("run")
    pipeline.wait()
    source.execute(
        "alter table person rename name to called; update person set called = 'renamed' where id = 1;"
        " alter table person add kept int not null default 7 check (kept > 0);"
        " alter table person drop constraint person_kept_check, alter kept drop default;"
        " alter table person alter kept type text using 'made up ' || kept;"
        " insert into person (called, doc, kept) values ('later', 'd', 'made up');"
        " alter table person add primary_ int unique, alter primary_ set default 5, drop age;"
        " alter table person add e filled, alter r type filled; alter table person drop secret"
    )
    source.execute("insert into person (called, doc, kept) values ('last', 'd', 'l')")
    source.execute("update person set primary_ = id, called = called || '!' where id < 5")
    pipeline.wait()
    pipeline.verify()
    assert rows(pipeline, "select id, called, kept from person where id in (1, 501) order by 1") == [
        (1, "renamed!", None),
        (501, "later", None),
    ]
    assert rows(pipeline, "select count(*), num_nulls(d, e, r) from person group by 2") == [(502, 3)]
    assert rows(pipeline, "select to_regclass('person_primary__key') is not null") == [(True,)]
    events = told(pipeline)
    assert "renamed!" in events
    assert "made up" not in events


def test_capture_goes_on_after_ddl_of_columns_that_are_not_listed_and_the_table_can_be_mended(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    source.execute(PEOPLE)
    publish(pipeline, LISTED)
    replica.execute("create table person (id int primary key, name text, doc text, own text default 'own')")
    pipeline.settings["replicas"]["standby"]["initial"] = "data"
    pipeline.settings["source"]["tables"] = {"include": ["*.person"]}
    pipeline.write_config()
    run = pipeline.start("run")
    pipeline.wait()
    run.end()
    source.execute(
        "alter table person drop age, alter secret drop default, drop constraint person_secret_check,"
        " add late text default random()::text;"
        " alter table person alter secret type bytea using secret::bytea, drop late;"
        " alter table person add later int; insert into person (name, secret, doc) values ('new', 'x', 'd')"
    )
    pipeline.start("run")
    pipeline.wait()
    replica.execute("update person set name = 'ruined' where id < 3; delete from person where id = 9")
    mended = pipeline.run("verify", "standby", "--repair", "--json")
    assert mended.code == 0, mended.stderr
    assert [(each["changed"], each["missing"]) for each in mended.json["repairs"]] == [(2, 1)]
    replica.execute("update person set own = null, name = 'ruined'")
    assert pipeline.run("snapshot", "standby", "public.person").code == 0
    pipeline.verify()
    assert rows(pipeline, "select count(*), count(own), count(doc) from person") == [(501, 501, 501)]


def test_ddl_of_columns_that_a_prepared_replica_lacks_stops_nothing(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    source.execute("create table t (id int primary key, n text, s text, r text)")
    replica.execute("create table t (id int primary key, n text)")
    pipeline.settings["source"]["tables"] = {"limits": {"public.t": {"columns": ["id", "n"]}}}
    install_triggers(source)
    pipeline.settings["replicas"]["standby"]["initial"] = "data"
    pipeline.settings["schema"] = {"policies": {"drop_column": "apply", "alter_type": "apply"}}
    pipeline.write_config()
    pipeline.start("run")
    pipeline.wait()
    source.execute(
        "create index i on t (s); create index on t (n) where s is null;"
        " alter table t add constraint u unique (s); create policy p on t using (s <> '');"
        " create trigger g after update of s on t for each row execute function"
        " suppress_redundant_updates_trigger();"
        " create sequence q owned by t.s; alter table t add z int generated always as (length(s)) stored"
    )
    source.execute(
        "comment on column t.s is 's'; comment on index i is 'i'; alter index i rename to j;"
        " alter table t alter s set statistics 9, alter s set storage external, alter s set default 'x',"
        " alter r type bytea using r::bytea;"
        " alter policy p on t using (s <> 'q'); alter trigger g on t rename to h;"
        " alter table t disable trigger h; alter table t rename s to s2; alter table t rename n to m;"
        " drop index j; alter table t drop r"
    )
    source.execute("alter table t add late text; insert into t (id, m) values (1, 'one')")
    pipeline.wait()
    assert rows(pipeline, "select id, m, late from t") == [(1, "one", None)]
    kept = rows(pipeline, "select object from keepstream.deferred_ddl where kind = 'ignored'")
    assert {"public.t.i", "public.t.u", "public.t.p", "public.t.g", "public.t.z"} <= {of for (of,) in kept}


def test_what_a_parent_gives_a_table_with_a_list_is_not_told_of_its_unlisted_columns(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    source.execute(
        "create table p (id int, d int, s text not null default 's', primary key (id, d)) partition by"
        " range (d);"
        " create table p1 partition of p for values from (0) to (10);"
        " create table p2 partition of p for values from (10) to (20);"
        " create table h (id int primary key, n text); create table c (primary key (id)) inherits (h);"
        " insert into p values (1, 1), (2, 11); insert into h values (1, 'h');"
        " insert into c values (2, 'c')"
    )
    publish(pipeline, "only p1 (id, d)", "only p2", "only h", "only c (id)")
    install_triggers(source)
    pipeline.start("run")
    pipeline.wait()
    source.execute(
        "alter table p add u text default 'D', add v text not null default 'V';"
        " insert into p (id, d) values (3, 3), (4, 14);"
        " alter table p alter u set default 'E', alter u set not null;"
        " alter table p add check (s <> ''), add unique nulls not distinct (d, s);"
        " alter table h alter n set default 'N', add w int default 7;"
        " update h set n = 'n' where n is null; alter table h alter n set not null;"
        " insert into c (id) values (5)"
    )
    source.execute(
        "alter table p add r text default random()::text; insert into p (id, d) values (6, 6), (7, 17)"
    )
    pipeline.wait()
    pipeline.verify()
    assert rows(pipeline, "select id, s, u, v, r from p1 order by 1") == [(i, *[None] * 4) for i in (1, 3, 6)]
    assert rows(pipeline, "select id, s, u, v, r is null from p2 order by 1") == [
        (2, "s", "D", "V", False),
        (4, "s", "D", "V", False),
        (7, "s", "E", "V", False),
    ]
    assert rows(pipeline, "select id, n, w from only c order by 1") == [(2, None, None), (5, None, None)]


def test_a_table_whose_columns_are_to_be_listed_gets_nothing_else_from_its_parent(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    listing = {"columns": ["id", "d"]}
    pipeline.settings["source"]["tables"] = {
        "limits": {f"public.{name}": listing for name in ("p2", "c", "e")}
    }
    pipeline.write_config()
    pipeline.source.execute(
        "create domain filled as text default 'f';"
        " create table p (id int, d int, s text not null default 's', f filled, primary key (id, d))"
        " partition by range (d);"
        " create table h (id int, d int, s text not null default 's' check (s <> ''), f filled);"
        " create table k (like h including all)"
    )
    install_triggers(pipeline.source)
    pipeline.start("run")
    pipeline.wait()
    pipeline.source.execute(
        "create table p2 partition of p for values from (10) to (20);"
        " create table c (primary key (id)) inherits (h);"
        " create table e (like k including all, primary key (id)); alter table e inherit k;"
        " insert into p values (1, 11); insert into c values (2, 2); insert into e values (3, 3)"
    )
    pipeline.source.execute("insert into p values (4, 14)")
    found = " union all ".join(f"select id, coalesce(s, f) from {name}" for name in "phk") + " order by 1"
    pipeline.until(lambda: len(rows(pipeline, found)) == 4, "the rows")
    assert rows(pipeline, found) == [(i, None) for i in range(1, 5)]


def test_another_list_or_filter_is_a_change_of_the_publication(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute(PEOPLE)
    publish(pipeline, LISTED, "plain where (id > 0)")
    capture = pipeline.start("capture")
    pipeline.until(lambda: "log begun" in capture.output, "the log")
    pipeline.source.execute(f"alter publication {pipeline.slot} set table {LISTED}, plain")
    assert capture.wait(30) == 4
    assert (
        f"publication {pipeline.slot} was changed by somebody else: 1 entries gone, 1 new" in capture.output
    )
    again = pipeline.start("capture")
    assert again.wait(30) == 4
    assert "error[publication-changed]" in again.output


FILTERED = (
    "orders (id, region, note, photo) where (region = 'eu')",
    "ticket where (status <> 'closed' and id % 100 <> 50)",
    "line",
    "log_a where (id > 50)",
    "log_b",
)
CROSSING = """
    update ticket set status = 'closed' where id <= 20; update ticket set status = 'open' where id = 21;
    update ticket set status = null where id = 22; update ticket set id = 1050 where id = 48;
    update ticket set id = 48 where id = 50; delete from ticket where id in (23, 24);
    update orders set region = 'us' where id in (3, 6); update orders set region = 'eu' where id in (1, 2);
    update orders set note = 'changed' where id in (7, 9, 12); delete from orders where id in (15, 16);
    update orders set id = 1000, note = note || '!' where id = 18;
    insert into orders values (2000, 'eu', 'new'), (2001, 'us', 'new');
    insert into log values (200, 'a'), (21, 'a'), (3, 'a');
    update log set kind = 'b' where kind = 'a' and id % 10 = 4;
    update log set id = id + 100 where kind = 'a' and id < 30
"""


def test_a_replica_has_the_rows_of_the_publications_filter_however_they_come_and_go(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    source.execute(f"{ORDERS}; alter table line drop constraint line_order_id_region_fkey")
    source.execute(
        "alter table line add constraint fk foreign key (order_id, region) references orders not valid"
    )
    publish(pipeline, *FILTERED)
    pipeline.start("run")
    pipeline.wait()
    assert rows(pipeline, "select count(*), count(distinct region) from orders") == [(100, 1)]
    source.execute("alter table line drop constraint fk")
    source.execute(CROSSING)
    pipeline.wait()
    pipeline.verify()
    assert rows(pipeline, "select id from ticket where status is null or status = 'closed'") == []
    replica.execute(
        "insert into orders values (7, 'us', 'only here'); delete from ticket where id = 30;"
        " update log_a set id = 999 where id = 60"
    )
    assert pipeline.run("verify", "standby").code == 6
    assert pipeline.run("verify", "standby", "--repair").code == 0
    replica.execute("insert into orders values (7, 'us', 'only here'); truncate ticket")
    assert pipeline.run("snapshot", "standby", "public.orders", "public.ticket").code == 0
    pipeline.verify()
    source.execute("truncate orders")
    pipeline.wait()
    pipeline.verify()


def test_rows_that_a_schema_change_rewrote_come_anew_as_the_filter_has_them(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    source.execute(ORDERS)
    publish(pipeline, *(each for each in FILTERED if not each.startswith("line")))
    install_triggers(source)
    pipeline.settings["schema"] = {"policies": {"alter_type": "apply"}}
    pipeline.write_config()
    pipeline.start("run")
    pipeline.wait()
    source.execute(
        "alter table ticket alter body type varchar(99) using left(body, 99);"
        " alter table orders add made text default 'x' || random(); update ticket set body = 'y' where id < 5"
    )
    pipeline.wait()
    pipeline.verify()
    assert rows(pipeline, "select count(*), max(length(body)) from ticket") == [(49, 99)]


LIMITS = {
    "public.orders": {"columns": ["id", "region", "note"], "where": "region = 'eu'"},
    "public.ticket": {"where": "status <> 'closed'"},
    "public.late": {"columns": ["id", "note"], "where": "id % 2 = 0"},
}
LATE = """
    create table late (id int primary key, secret text not null default 'x' check (secret <> ''),
                       note text, n serial);
    insert into late (id, note) select i, repeat('note ' || i, 9) from generate_series(1, 99) i
"""


@pytest.mark.parametrize("is_tracked", [False, True], ids=["untracked", "tracked"])
def test_the_configurations_limits_hold_for_the_first_tables_and_for_those_that_join(
    directory_pipeline: Pipeline,
    is_tracked: bool,
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    source.grant_ownership()
    source.execute(ORDERS)
    if is_tracked:
        install_triggers(source)
    pipeline.settings["source"]["tables"] = {"limits": LIMITS}
    pipeline.write_config()
    pipeline.start("run")
    pipeline.wait()
    source.execute(LATE)
    source.execute("insert into orders values (1001, 'eu', 'new'), (1002, 'us', 'new')")
    joined = "select count(*) from pg_publication_tables where pubname = %s and tablename = 'late'"
    pipeline.until(lambda: source.execute(joined, [pipeline.slot]) == [(1,)], "the table's joining", 60)
    source.execute("update late set id = id + 1001 where id > 90")
    source.execute("insert into late values (200, 's', 'new')")
    pipeline.wait()
    pipeline.verify()
    assert rows(pipeline, "select count(*), count(secret), count(n), count(note) from late") == [
        (51, 0, 0, 51)
    ]
    assert rows(pipeline, "select count(*), count(photo) from orders") == [(101, 0)]
    other = LIMITS | {"public.late": {"columns": ["id", "note"], "where": "id % 3 = 0"}}
    pipeline.settings["source"]["tables"] = {"limits": other}
    pipeline.write_config()
    assert "limit-differs" in pipeline.run("check", "--json").stdout
