"""What a copy tells of itself."""

from __future__ import annotations

from dataclasses import replace

from connectors.postgres.copy.part_copier import Part
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from pipeline.copy.plan import plan_parts
from pipeline.copy.progress import CopyMeter, CopyPhase

BIG = SnapshotTable(
    oid=1,
    schema="public",
    name="big",
    columns=("a",),
    type_oids=(23,),
    ancestors=(),
    blocks=4,
    size_bytes=4000,
    rows_estimated=100,
    fingerprint="",
)
SMALL = replace(BIG, oid=2, name="small", blocks=1, size_bytes=1000, rows_estimated=10)


def begun(*tables: SnapshotTable) -> tuple[CopyMeter, list[Part]]:
    parts = plan_parts(
        tables,
        targets={table.oid: table.table_name for table in tables},
        volatile=(),
        part_bytes=1000,
        may_be_binary=False,
    )
    meter = CopyMeter()
    meter.plan(parts, now=100.0)
    meter.phase = CopyPhase.ROWS
    return meter, parts


def test_nothing_is_known_before_the_tables_are() -> None:
    progress = CopyMeter().progress(1.0)

    assert (progress.rows_estimated, progress.bytes_estimated, progress.eta_s) == (None, None, None)


def test_what_moves_now_makes_no_estimate_of_the_rest() -> None:
    meter, parts = begun(BIG, SMALL)
    meter.moved(parts[0], 30, 500)
    meter.finished(parts[0], 30)
    meter.moved(parts[1], 30, 400)

    progress = meter.progress(110.0)

    assert (progress.bytes_done, progress.bytes_estimated) == (900, 2000), (
        "900 of 60 of 100 rows; half of 1000"
    )


def test_small_tables_that_were_copied_first_say_little_of_a_big_one() -> None:
    meter, parts = begun(BIG, SMALL)
    meter.moved(parts[4], 10, 100)
    meter.finished(parts[4], 10)
    for part in parts[:4]:
        meter.moved(part, 20, 1600)

    progress = meter.progress(110.0)

    assert (progress.bytes_done, progress.bytes_estimated) == (6500, 8100)


def test_a_small_table_that_nobody_analyzed_hides_no_estimate() -> None:
    unknown = replace(SMALL, oid=3, size_bytes=500, rows_estimated=None)
    assert begun(BIG, SMALL, unknown)[0].progress(101.0).rows_estimated == 110
    assert begun(BIG, replace(unknown, size_bytes=900))[0].progress(101.0).rows_estimated is None


def test_the_rest_is_estimated_from_the_ratio_seen_so_far() -> None:
    meter, parts = begun(BIG, SMALL)
    meter.moved(parts[0], 30, 500)
    meter.finished(parts[0], 30)

    progress = meter.progress(110.0)

    assert (progress.rows_done, progress.rows_estimated) == (30, 110)
    assert (progress.bytes_done, progress.bytes_estimated) == (500, 2167), (
        "500 of 30 of 100 rows; half of 1000"
    )
    assert (progress.rows_per_s, progress.bytes_per_s, progress.eta_s) == (3.0, 50.0, 1667 / 50)
    assert (progress.tables_done, progress.tables_total) == (0, 2)
    assert [(t.table, t.parts_done, t.parts) for t in progress.tables] == [("public.big", 1, 4)]


def test_rows_that_were_rolled_back_are_not_told() -> None:
    meter, parts = begun(SMALL)
    meter.moved(parts[0], 7, 70)
    meter.failed(parts[0])

    assert meter.progress(101.0).rows_done == 0
    meter.moved(parts[0], 10, 100)
    meter.finished(parts[0], 10)
    progress = meter.progress(102.0)
    assert (progress.rows_done, progress.tables_done) == (10, 1)
    assert progress.bytes_done == progress.bytes_estimated == 100


def test_an_estimate_never_falls_behind_what_is_done_and_is_unknown_without_statistics() -> None:
    meter, parts = begun(SMALL)
    meter.moved(parts[0], 5000, 9000)

    progress = meter.progress(101.0)
    assert (progress.rows_estimated, progress.bytes_estimated) == (5000, 9000)
    meter, _ = begun(SMALL, replace(BIG, rows_estimated=None))
    assert meter.progress(101.0).rows_estimated is None


def test_what_is_left_out_is_told_once() -> None:
    meter, _ = begun(SMALL)
    meter.leave_out(["a", "b"])
    meter.leave_out(["b", "c"])

    assert meter.progress(101.0).left_out == ("a", "b", "c")
