"""Cutting tables into parts, the statements that move them, and what is visible when."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.copy.part_copier import Part, copy_statements
from connectors.postgres.copy.snapshot import Blocker, name_blockers
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from pipeline.config import Initial
from pipeline.copy.options import CopyOptions
from pipeline.copy.plan import plan_parts
from schemas.errors import InternalError
from schemas.lsn import Lsn, Position
from schemas.sequence import SequenceValue


def table(name: str = "t", *, oid: int = 1, blocks: int = 10, size_bytes: int = 81920) -> SnapshotTable:
    return SnapshotTable(
        oid=oid,
        schema="public",
        name=name,
        columns=("a", 'b"c'),
        type_oids=(23, 25),
        ancestors=(),
        blocks=blocks,
        size_bytes=size_bytes,
        rows_estimated=None,
        fingerprint="",
    )


def parts(*tables: SnapshotTable, part_bytes: int = 20_000, volatile: tuple[str, ...] = ()) -> list[Part]:
    return plan_parts(
        tables,
        targets={t.oid: t.table_name for t in tables},
        volatile=[("public", name) for name in volatile],
        part_bytes=part_bytes,
        may_be_binary=True,
    )


@given(blocks=st.integers(0, 100_000), size=st.integers(0, 2**40), part_bytes=st.integers(2**12, 2**30))
def test_the_parts_of_a_table_cover_every_block_once(blocks: int, size: int, part_bytes: int) -> None:
    cut = parts(table(blocks=blocks, size_bytes=size), part_bytes=max(part_bytes, size // 500 + 1))

    assert [part.number for part in cut] == list(range(len(cut)))
    assert {part.of for part in cut} == {len(cut)}
    edges = [part.first_block for part in cut] + [cut[-1].end_block]
    assert edges == sorted(edges)
    assert all(a.end_block == b.first_block for a, b in itertools.pairwise(cut))


def test_the_first_and_the_last_part_are_open_so_that_no_row_stands_outside() -> None:
    first, *between, last = (copy_statements(part)[0] for part in parts(table()))

    select = 'copy (select "a", "b""c" from only "public"."t" where '
    assert first == select + "ctid < '(2,0)'::pg_catalog.tid) to stdout (format text)"
    assert between[0] == (
        select + "ctid >= '(2,0)'::pg_catalog.tid and ctid < '(4,0)'::pg_catalog.tid) to stdout (format text)"
    )
    assert last == select + "ctid >= '(8,0)'::pg_catalog.tid) to stdout (format text)"


def test_a_table_whose_rows_have_no_block_is_one_part() -> None:
    (part,) = parts(table(blocks=0, size_bytes=2**40))

    assert copy_statements(part)[0] == (
        'copy (select "a", "b""c" from only "public"."t") to stdout (format text)'
    )


def test_a_table_without_columns_of_its_own_is_copied_without_a_list() -> None:
    (part,) = parts(replace(table(blocks=1), columns=(), type_oids=()))

    assert copy_statements(part) == (
        'copy (select  from only "public"."t") to stdout (format text)',
        'copy "public"."t" from stdin (format text)',
    )


def test_binary_is_used_only_for_bytea_among_types_that_mean_the_same_everywhere() -> None:
    def binary(*type_oids: int) -> bool:
        (part,) = parts(replace(table(blocks=1), type_oids=type_oids))
        return part.binary

    assert binary(23, 17)
    assert not binary(23, 25)
    assert not binary(17, 24)  # regproc
    assert not binary(17, 16999)  # a user's type


def test_tables_that_changed_before_come_first_and_then_the_largest() -> None:
    tables = [table(f"t{n}", oid=n, blocks=1, size_bytes=n) for n in range(1, 4)]

    ordered = [part.table.name for part in parts(*tables, volatile=("t1",))]

    assert ordered == ["t1", "t3", "t2"]


def test_a_sequence_is_passed_in_its_own_direction() -> None:
    def value(last: int, *, ascending: bool, called: bool = True) -> SequenceValue:
        return SequenceValue("public", "s", ascending, last, called)

    assert value(5, ascending=True).passed(value(4, ascending=True))
    assert not value(4, ascending=True).passed(value(5, ascending=True))
    assert value(4, ascending=False).passed(value(5, ascending=False))
    assert not value(5, ascending=False).passed(value(4, ascending=False))
    for ascending in (True, False):
        uncalled = value(5, ascending=ascending, called=False)
        assert value(5, ascending=ascending).passed(uncalled)
        assert not uncalled.passed(value(5, ascending=ascending))


def test_blockers_are_named_for_people() -> None:
    assert str(Blocker(7, "report", "crm", 61.4)) == "pid 7 (report, crm, open for 61 s)"
    assert str(Blocker(7, "report", "crm", 61.4, state="idle in transaction")) == (
        "pid 7 (report, crm, idle in transaction, open for 61 s)"
    )
    assert str(Blocker(7, "", "crm", None)) == "pid 7 (no application_name, crm)"
    assert str(Blocker(None, "", "crm", 3.0, "x'y")) == 'prepared transaction "x\'y" of crm, open for 3 s'
    many = [Blocker(pid, "app", "crm", None) for pid in range(7)]
    assert name_blockers(many[:2]) == "pid 0 (app, crm); pid 1 (app, crm)"
    assert name_blockers(many).endswith("pid 4 (app, crm); 2 more")


def options(**more: object) -> CopyOptions:
    given = {"pipeline": "crm", "replica": "r", "source_conninfo": "", "replica_conninfo": "", "place": ""}
    return CopyOptions(**(given | {"stream": b"\0" * 16} | more))  # type: ignore[arg-type]


def test_a_copy_is_recognised_by_pipeline_and_replica() -> None:
    name = options(pipeline="p" * 31).application_name
    assert len(name) <= 63  # NAMEDATALEN - 1
    assert name.startswith(f"keepstream:copy:{'p' * 31}:")
    assert options(replica="a").purpose != options(replica="b").purpose


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"part_bytes": 0},
        {"initial": Initial.NONE},
        {"position": Position(Lsn(1))},
    ],
)
def test_options_that_contradict_each_other_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InternalError) as refused:
        options(**wrong)
    assert refused.value.code == "copy-options-invalid"
