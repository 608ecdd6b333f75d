"""A comparison is cut into parts that lose no row, and a table is read anew where it must be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.postgres.catalog.tables import CatalogColumn
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.ddl.left_out import LeftOut
from connectors.postgres.digest import Digest, DigestColumn
from pipeline.verify.jobs import PART_BLOCKS, Job, Jobs, Side, cut
from pipeline.verify.pairing import Pair, pair_tables
from pipeline.verify.progress import Meter

TABLE = SnapshotTable(
    oid=1,
    schema="public",
    name="t",
    columns=("id", "note"),
    type_oids=(23, 25),
    ancestors=(),
    blocks=10,
    size_bytes=80_000,
    rows_estimated=None,
    fingerprint="",
)


def column(name: str, type_oid: int = 25, generated: str = "") -> CatalogColumn:
    return CatalogColumn(1, name, type_oid, -1, "?", False, "", generated, None, False, None)


def pair(
    ours: list[CatalogColumn], theirs: list[CatalogColumn] | None, key: tuple[str, ...] = ("id",)
) -> Pair:
    there = [] if theirs is None else [replace(TABLE, oid=7)]
    (made,) = pair_tables([TABLE], {1: ours}, there, {7: theirs or []}, {1: key})
    return made


ID, NOTE = column("id", 23), column("note")


@pytest.mark.parametrize("blocks", [0, 1, PART_BLOCKS, PART_BLOCKS + 1, 5 * PART_BLOCKS])
def test_parts_meet_without_gap_or_overlap_and_have_no_outer_bounds(blocks: int) -> None:
    parts = cut(blocks)
    assert parts[0].first is None
    assert parts[-1].end is None
    assert [part.end for part in parts[:-1]] == [part.first for part in parts[1:]]
    assert len(parts) == max(1, -(-blocks // PART_BLOCKS))


def test_columns_go_by_name_and_those_of_one_side_are_told() -> None:
    ours = [ID, NOTE, column("sum", 23, "s"), column("twice", 23, "v")]
    made = pair(ours, [NOTE, ID, column("more")])
    assert [one.name for one in made.shape.columns] == ["id", "note"]
    assert made.problem is None
    assert made.notes == (
        "public.t: column more is only on the replica",
        "public.t: generated column sum is only on the source",
        "public.t: generated column twice is only on the source",
    )


@pytest.mark.parametrize("theirs", ["", "s", "v"])
@pytest.mark.parametrize("kind", ["s", "v"])
def test_a_generated_column_is_compared_where_the_replica_has_it(kind: str, theirs: str) -> None:
    made = pair([ID, column("sum", 23, kind)], [ID, column("sum", 23, theirs)])
    assert [one.name for one in made.shape.columns] == ["id", "sum"]
    assert made.notes == ()


def test_a_column_that_the_replica_lacks_is_a_problem_and_the_others_are_compared() -> None:
    made = pair([ID, NOTE], [ID])
    assert made.problem is not None
    assert made.problem.startswith("the replica has no column note: if it was added on the source just now")
    assert made.shape.columns == (DigestColumn("id"),)


def test_rows_have_no_name_where_the_replica_lacks_a_column_of_the_key() -> None:
    assert pair([ID, NOTE], [NOTE]).shape.key == ()


def test_bytea_is_read_as_such_only_if_both_sides_have_it() -> None:
    data, text = column("data", 17), column("data")
    assert pair([ID, data], [ID, data]).shape.columns[1].is_bytea
    assert not pair([ID, data], [ID, text]).shape.columns[1].is_bytea


def test_leaves_of_a_partitioned_table_stand_for_a_plain_one() -> None:
    leaves = [replace(TABLE, oid=i, name=f"t_{i}", ancestors=(("public", "t"),)) for i in (8, 9)]
    (made,) = pair_tables([TABLE], {1: [ID]}, leaves, {8: [ID], 9: [ID]}, {})
    assert [table.oid for table in made.replica] == [8, 9]


def test_a_table_that_is_not_there_is_read_on_the_source_alone() -> None:
    job = Job(pair([ID], None))
    assert [part.side for part in job.parts()] == [Side.SOURCE]
    assert (job.pair.problem, job.pair.is_left_out) == ("the replica has no such table", False)


def test_a_table_that_a_policy_has_the_replica_go_without_is_no_problem_while_it_is_not_there() -> None:
    ignored = LeftOut(tables=frozenset({TABLE.table_name}))
    for there, is_left_out in (([], True), ([replace(TABLE, oid=7)], False)):
        (made,) = pair_tables([TABLE], {1: [ID]}, there, {7: [ID]}, {1: ("id",)}, ignored)
        assert (made.problem, made.is_left_out) == (None, is_left_out)


class Reading:
    """Jobs of one pair, and what was done."""

    def __init__(self) -> None:
        self.done: list[Job] = []
        self.jobs = Jobs([pair([ID, NOTE], [ID, NOTE])], self.done.append)
        self.parts = {side: self.jobs.take(side) for side in Side}

    def read(self, side: Side, digest: Digest) -> None:
        part = self.parts[side]
        assert part is not None
        self.jobs.read(part, digest)


def test_a_job_is_done_when_both_sides_were_read() -> None:
    reading = Reading()
    reading.read(Side.SOURCE, Digest(1, 2, 3))
    assert (reading.done, reading.jobs.open) == ([], True)
    reading.read(Side.REPLICA, Digest(1, 2, 3))
    assert (len(reading.done), reading.jobs.open) == (1, False)
    assert reading.done[0].equal


def test_a_row_too_long_for_one_side_makes_both_sides_read_anew() -> None:
    reading = Reading()
    reading.read(Side.SOURCE, Digest(9, 9, 9))
    late = reading.parts[Side.REPLICA]
    assert late is not None
    assert reading.jobs.widen(late)
    reading.jobs.read(late, Digest(7, 7, 7))  # a part of before counts for nothing
    for side in Side:
        part = reading.jobs.take(side)
        assert part is not None
        assert part.job.pair.shape.wide
        assert not reading.jobs.widen(part)  # it cannot be read any wider
        reading.jobs.read(part, Digest(1, 1, 1))
    assert reading.done[0].digests == dict.fromkeys(Side, Digest(1, 1, 1))


def test_a_changed_table_is_done_once_and_its_other_parts_are_not_read() -> None:
    done: list[Job] = []
    large = replace(TABLE, blocks=3 * PART_BLOCKS)
    shape = pair([ID], [ID]).shape
    jobs = Jobs([Pair(large, (large,), shape)], done.append)
    one, other = jobs.take(Side.SOURCE), jobs.take(Side.SOURCE)
    assert one is not None
    assert other is not None
    jobs.changed(one)
    jobs.changed(other)
    jobs.read(other, Digest(1, 1, 1))
    assert (len(done), done[0].changed, jobs.open) == (1, True, False)
    assert jobs.take(Side.SOURCE) is None
    assert jobs.take(Side.REPLICA) is None


def test_what_is_left_is_estimated_by_bytes() -> None:
    meter = Meter(tables_total=2, bytes_total=1000, started_at=100.0)
    assert meter.look(101.0).eta_s is None
    meter.read(rows=50, size_bytes=250)
    seen = meter.look(110.0)
    assert (seen.rows_per_s, seen.eta_s) == (5.0, 30.0)
