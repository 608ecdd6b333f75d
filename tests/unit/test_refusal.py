"""What `run` says of the findings that keep it from starting."""

from __future__ import annotations

from pipeline.check.findings import Place, refusal
from schemas.errors import KeepstreamError
from schemas.finding import Finding

REPLICA = Place("replica standby")


def unfit(table: str, seen: str) -> Finding:
    return REPLICA.error("replica-schema", table, seen, sql=f"alter table {table};")


def refused(*findings: Finding) -> KeepstreamError:
    error = refusal(list(findings))
    assert error is not None
    return error


def test_all_findings_of_the_first_kind_are_told_with_what_mends_each() -> None:
    lacking = REPLICA.error("replica-schema", "content", "lacks 1 table: d", fix="Make it.")
    error = refused(lacking, unfit("a", "lacks x"), unfit("b", "is odd"), unfit("c", "lacks x"))
    assert error.message == "replica standby: content: lacks 1 table: d; a, c: lacks x; b: is odd"
    assert error.hint == (
        "Make it.\nRun on the replica standby:\nalter table a;\nalter table b;\nalter table c;"
    )


def test_more_than_five_and_those_of_another_kind_are_counted() -> None:
    others = [unfit(f"t{number}", "is odd") for number in range(6)]
    error = refused(*others, REPLICA.error("replica-triggers", "role", "fires"))
    assert error.message == "replica standby: t0, t1, t2, t3, t4: is odd (and 2 more)"
    assert error.hint.endswith("alter table t4;\n`keepstream check` lists everything.")
