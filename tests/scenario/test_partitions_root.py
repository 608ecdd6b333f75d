"""Partitioned tables whose rows come under the name of the whole: publish_via_partition_root."""

from __future__ import annotations

import pytest

from tests.fix_pipeline import Pipeline
from tests.tracked import install_triggers

# Partitions of other column orders, with dropped columns, and partitions of partitions.
SOURCE = """
    create table ev (id int, d int, note text, amount numeric, primary key (id, d)) partition by range (d);
    create table ev1 partition of ev for values from (0) to (10);
    create table ev2 (amount numeric, gone int, note text, d int not null, id int not null);
    alter table ev2 drop column gone;
    alter table ev attach partition ev2 for values from (10) to (20);
    create table ev3 partition of ev for values from (20) to (30) partition by list (id);
    create table ev3_odd partition of ev3 for values in (1, 3, 5, 7, 9);
    create table ev3_rest partition of ev3 default;
    create table plain (id int primary key, note text);
    insert into ev select n, n % 30, 'note ' || n, n / 7.0 from generate_series(1, 300) n;
    insert into plain values (1, 'first');
"""
MOVES = """
    update ev set d = (d + 13) % 30 where id % 3 = 0;
    update ev set note = note || ' again', id = id + 1000 where id % 5 = 0;
    delete from ev where id % 11 = 0;
    insert into ev values (1, 25, 'sub', null), (2, 25, 'sub', 1.50);
    update ev set d = 5 where id in (1, 2) and d = 25;
"""
ROWS = "select * from ev order by id, d"


def by_root(pipeline: Pipeline) -> None:
    pipeline.settings["source"]["partitions"] = "root"
    pipeline.write_config()


def same(pipeline: Pipeline) -> None:
    pipeline.wait()
    query = "select id, d, note, amount from ev order by id, d"
    assert pipeline.replica.execute(query) == pipeline.source.execute(query)


def test_a_partitioned_table_is_followed_as_a_whole(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    by_root(pipeline)
    source.execute(SOURCE)
    checked = pipeline.run("check")
    assert checked.code == 0, checked.stdout
    pipeline.start("run")
    same(pipeline)
    source.execute(MOVES)
    source.execute(
        "begin; truncate ev; insert into ev (id, d) values (1, 1), (2, 22), (3, 15);" + MOVES + "commit"
    )
    same(pipeline)
    source.execute("alter table ev add column added int default 7")
    source.execute("insert into ev values (5000, 1, 'x', 1, 2)")
    pipeline.wait()
    assert pipeline.replica.execute("select distinct added from ev order by 1") == [(2,), (7,)]
    pipeline.verify()


def test_a_plain_table_takes_the_rows_of_a_partitioned_one(directory_pipeline: Pipeline) -> None:
    """And a partitioned one of the replica those of a plain one."""
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    by_root(pipeline)
    pipeline.settings["replicas"]["standby"] = {"url": replica.dsn, "initial": "data"}
    pipeline.write_config()
    source.execute(SOURCE)
    replica.execute(
        "create table ev (note text, d int, amount numeric, id int, primary key (d, id), own int);"
        " create table plain (note text, id int primary key) partition by hash (id);"
        " create table plain1 partition of plain for values with (modulus 2, remainder 0);"
        " create table plain2 partition of plain for values with (modulus 2, remainder 1);"
    )
    checked = pipeline.run("check")
    assert checked.code == 0, checked.stdout
    pipeline.start("run")
    same(pipeline)
    source.execute(MOVES)
    source.execute(
        "update plain set id = id + 1; insert into plain select n, 'x' from generate_series(10, 99) n"
    )
    same(pipeline)
    replica.execute(
        "update ev set own = 1; delete from ev where id < 50; update ev set note = '-' where id > 250"
    )
    repaired = pipeline.run("verify", "standby", "--repair", "--tables", "public.ev")
    assert repaired.code == 0, repaired.stdout + repaired.stderr
    assert replica.execute("select distinct own from ev order by 1") == [(1,), (None,)]
    same(pipeline)
    replica.execute("update ev set own = null; delete from ev where id < 100")
    copied = pipeline.run("snapshot", "standby", "public.ev")
    assert copied.code == 0, copied.stderr
    refused = pipeline.run("snapshot", "standby", "public.ev1").stderr
    assert "it is a partition of public.ev, which is replicated as a whole" in refused
    pipeline.verify()


def output_to_the_end(pipeline: Pipeline) -> str:
    """What the newest command said until it ended by itself."""
    run = pipeline.started[-1]
    pipeline.until(lambda: not run.alive, "its end", 40)
    return run.output


def test_a_partition_that_is_truncated_by_its_own_name_stops_capture(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    by_root(pipeline)
    pipeline.source.execute(SOURCE)
    pipeline.start("capture")
    pipeline.until(lambda: pipeline.run("status", "--json").json["capture"]["position"], "a position")
    pipeline.source.execute("truncate ev1; insert into ev values (1, 1, 'new', 1); analyze ev1")
    assert "partition-truncated" in output_to_the_end(pipeline)
    pipeline.source.execute("alter table ev2 set unlogged")
    assert "partition public.ev2 is unlogged or was for a while" in pipeline.run("check").stdout


def test_partitions_whose_rows_are_all_in_the_stream_may_come_and_all_may_be_truncated(
    directory_pipeline: Pipeline,
) -> None:
    """The replica's table is a plain one, so that its partitions are no matter; a table joins as one, too."""
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    by_root(pipeline)
    pipeline.settings["source"]["tables"] = {"exclude": ["public.empty"]}
    pipeline.settings["replicas"]["standby"] = {"url": replica.dsn, "initial": "data"}
    pipeline.write_config()
    source.execute(f"{SOURCE} drop table plain; create table empty (like ev including all)")
    replica.execute("create table ev (id int, d int, note text, amount numeric, primary key (id, d))")
    run = pipeline.start("run")
    same(pipeline)
    source.execute("create table ev4 partition of ev for values from (30) to (40)")
    source.execute("insert into ev select n, n % 40, 'x' from generate_series(1000, 1100) n")
    run.kill()
    source.execute("alter table ev attach partition empty for values from (40) to (50)")
    source.execute("vacuum full ev1")
    source.execute("truncate ev")
    run = pipeline.start("run")
    source.execute(
        "create table wide (id int, at int, n int, primary key (id, at)) partition by range (at);"
        " create table wide1 partition of wide for values from (0) to (10);"
        " create table wide2 partition of wide default; create index on wide (n);"
        " insert into wide select n, n % 20, n from generate_series(1, 100) n"
    )
    there = "select count(*) from pg_class where relname = 'wide' and relkind = 'r'"
    pipeline.until(lambda: replica.execute(there) == [(1,)], "the table's joining", 60)
    source.execute("update wide set at = 19 - at % 20; insert into ev values (1, 1, 'x', 2), (2, 45, 'y', 3)")
    same(pipeline)
    pipeline.verify()
    assert run.alive


PARTITIONS = """
    create table ev4 partition of ev for values from (30) to (40);
    insert into ev values (1, 35, 'into the new one', 1);
    create table late (amount numeric, id int not null, note text, d int not null, own int);
    alter table late drop column own;
    insert into late select n / 3.0, n, 'from before', 40 + n % 10 from generate_series(5001, 5100) n;
    alter table ev attach partition late for values from (40) to (50);
    update ev set note = 'attached', d = (d + 4) % 50 where id between 5020 and 5060;
    create table more (d int not null, amount numeric, note text, id int not null) partition by list (id);
    create table more11 (id int not null, d int not null, amount numeric, note text);
    create table more1 (id int not null, d int not null, amount numeric, note text) partition by hash (d);
    alter table more attach partition more1 for values in (6001);
    alter table more1 attach partition more11 for values with (modulus 1, remainder 0);
    create table more2 (id int not null, amount numeric, note text, d int not null);
    alter table more attach partition more2 default;
    insert into more select 50 + n, n, 'from below', 6000 + n % 3 from generate_series(1, 9) n;
    alter table ev attach partition more for values from (50) to (60);
    update ev set note = 'attached below' where id = 6001; delete from ev where id = 6002 and d > 54;
    alter table ev alter column amount type text using 'about ' || amount, add column c int default 3;
    update ev set c = id, d = (d + 11) % 50 where id % 7 = 0; delete from ev where id % 13 = 0;
    alter table ev rename to evs; alter table ev2 rename to ev_two; alter table evs rename to ev;
    alter table ev_two rename to ev2;
"""
GONE = """
    alter table ev detach partition ev1; insert into ev1 (id, d) values (9999, 1);
    drop table ev2; insert into ev (id, d) values (10000, 45);
    alter table ev detach partition more; insert into more (id, d) values (6001, 59), (7, 59);
"""
AGAIN = "create table ev2 partition of ev default; insert into ev (id, d) values (1, 12), (2, 5);"


def tracked(pipeline: Pipeline, *, is_plain: bool) -> None:
    """Running, on a replica that has the partitions, or whose table is a plain one. An operator copies."""
    source, replica = pipeline.source, pipeline.replica
    by_root(pipeline)
    pipeline.settings["source"]["tables"] = {"include": ["public.ev"]}
    pipeline.settings["schema"] = {"policies": dict.fromkeys(("drop_table", "alter_type"), "apply")}
    if is_plain:
        pipeline.settings["replicas"]["standby"] = {"url": replica.dsn, "initial": "data"}
        replica.execute("create table ev (id int, d int, note text, amount numeric, primary key (id, d))")
    pipeline.settings["replicas"]["standby"]["copy_awaited"] = "manual"
    pipeline.write_config()
    source.execute(SOURCE)
    install_triggers(source)
    pipeline.start("run")
    same(pipeline)


@pytest.mark.parametrize("is_plain", [False, True])
def test_partitions_come_and_go_where_schema_changes_are_tracked(
    directory_pipeline: Pipeline, *, is_plain: bool
) -> None:
    """On a replica that has them, and on one whose table is a plain one."""
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    tracked(pipeline, is_plain=is_plain)
    source.execute(PARTITIONS)
    same(pipeline)
    if is_plain:
        pipeline.verify()
        source.execute("alter table ev detach partition ev1")
        assert "partition-rows-stay" in output_to_the_end(pipeline)
        return
    source.execute(GONE + AGAIN)
    source.execute("update ev set d = d + 1 where d < 49; truncate ev; insert into ev (id, d) values (7, 7)")
    same(pipeline)
    pipeline.verify()
    assert replica.execute("select count(*) > 10 from ev1") == [(True,)]


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_whole_with_more_rows_than_the_log_takes_is_exact_again_once_it_is_copied(
    directory_pipeline: Pipeline, *, is_plain: bool
) -> None:
    """Attached ones, or rewritten ones. Until then partitions may go of which the replica knows no row."""
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    tracked(pipeline, is_plain=is_plain)
    source.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 0")
    for script in (PARTITIONS, f"{GONE} {AGAIN} update ev set d = d + 1 where d < 49"):
        source.execute(script)
        pipeline.wait()
        assert replica.execute("select from ev") == []
        assert replica.execute("select table_name from keepstream.schema_left_out where awaits_copy") == [
            ("ev",)
        ]
    copied = pipeline.run("snapshot", "standby", "public.ev")
    assert copied.code == 0, copied.stderr
    same(pipeline)
    source.execute("update ev set d = d - 1 where d > 10; insert into ev (id, d) values (7, 7)")
    same(pipeline)
    pipeline.verify()
