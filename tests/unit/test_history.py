"""P2, P10, P11: whether it is the same history, word for word where operators read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.postgres.replication.slot import SlotState
from connectors.postgres.replication.walsender import SystemIdentity, TimelineSwitch
from pipeline.capture.entries.announcements import LEAVES, Leave, after_promotion, leaves_still
from pipeline.capture.entries.schemachange import added_columns
from pipeline.capture.entries.shapes import SHAPES
from pipeline.capture.history.publication import check_publication
from pipeline.capture.history.resent import Resent
from pipeline.capture.history.source import check_leftover, check_slot, check_system
from pipeline.capture.history.timelines import Lineage, check_timeline, require_lineage
from pipeline.follow import SameHistory
from schemas.entries import Entries
from schemas.errors import BEGIN_ANEW, HistoryBroken, InternalError, KeepstreamError, RefusedData
from schemas.frame import Anchor
from schemas.lsn import Lsn, Position
from schemas.table import Column, ReplicaIdentity, TableSchema

TAIL = Position(Lsn(0x2000), 77, 5)
ANCHOR = Anchor(Position(Lsn(0x1000)), "4711", 1, (), 0)


def slot(**changes: object) -> SlotState:
    values: dict[str, object] = {
        "name": "keepstream_crm",
        "plugin": "pgoutput",
        "database": "crm",
        "temporary": False,
        "active_pid": None,
        "restart_lsn": Lsn(0x1000),
        "confirmed_flush_lsn": Lsn(0x2000),
        "retained_bytes": 0,
        "safe_wal_bytes": None,
        "wal_status": "reserved",
        "invalidation_reason": None,
        "catalog_xmin_age": 1,
        "inactive_s": None,
        "read_in": "crm",
    }
    return SlotState(**{**values, **changes})  # type: ignore[arg-type]


def test_p10_the_known_cluster_with_all_that_the_log_has_is_accepted() -> None:
    check_system(ANCHOR, TAIL, SystemIdentity("4711", 1, Lsn(0x2000), "crm"))
    check_slot("keepstream_crm", slot(), tail=TAIL)


def test_p10_another_cluster_and_a_rolled_back_one_stop() -> None:
    with pytest.raises(HistoryBroken) as caught:
        check_system(ANCHOR, TAIL, SystemIdentity("4712", 1, Lsn(0x9000), "crm"))
    assert caught.value.code == "source-other-cluster"
    assert caught.value.message == "the source is cluster 4712, the log came from cluster 4711"
    with pytest.raises(HistoryBroken) as caught:
        check_system(ANCHOR, TAIL, SystemIdentity("4711", 1, Lsn(0x1FFF), "crm"))
    assert caught.value.code == "source-went-back"
    assert caught.value.message == "the source's WAL ends at 0/1FFF, the log already holds it up to 0/2000"


def test_p10_a_new_timeline_is_accepted_only_if_the_log_ends_before_the_switch() -> None:
    check_timeline(ANCHOR, TAIL, 2, [TimelineSwitch(1, Lsn(0x2000), "")])
    for switches in ([TimelineSwitch(1, Lsn(0x1FFF), "")], []):
        with pytest.raises(HistoryBroken) as caught:
            check_timeline(ANCHOR, TAIL, 2, switches)
        assert caught.value.code == "source-other-timeline"


def test_p10_a_former_primary_is_refused_once_the_log_is_on_a_new_timeline() -> None:
    on_second = replace(ANCHOR, timeline=2)
    with pytest.raises(HistoryBroken) as caught:
        check_timeline(on_second, TAIL, 1, [])
    assert (caught.value.code, caught.value.message) == (
        "source-old-timeline",
        "the source is on timeline 1, and the log went on to timeline 2 after a failover",
    )


@pytest.mark.parametrize(
    ("system_id", "timeline", "code"),
    [
        ("4711", 2, ""),
        ("4712", 2, "source-other-cluster"),
        ("4711", 1, "source-old-timeline"),
        ("4711", 3, "source-promoted"),
    ],
)
def test_p10_a_source_that_is_read_beside_the_log_is_on_its_timeline(
    system_id: str, timeline: int, code: str
) -> None:
    seen = SystemIdentity(system_id, timeline, Lsn(0x9000), "crm")
    if not code:
        require_lineage(Lineage("4711", 2), seen)
        return
    with pytest.raises(KeepstreamError) as caught:
        require_lineage(Lineage("4711", 2), seen)
    assert caught.value.code == code


def test_p10_a_promoted_standby_without_a_copy_of_the_slot_says_what_it_takes() -> None:
    with pytest.raises(HistoryBroken) as caught:
        check_slot("keepstream_crm", None, tail=TAIL, promoted=True)
    assert caught.value.code == "slot-missing"
    assert caught.value.message == "slot keepstream_crm is missing on the standby that was promoted"
    assert caught.value.hint == (
        "It had no copy of the slot, or none that was ready, so what was committed since the log's end cannot"
        " be decoded there. If the former primary is whole, make that one the primary again, without what was"
        f" written to this one, and the pipeline goes on. Else {BEGIN_ANEW}. With `failover: true` under"
        " source (PostgreSQL 17 on) standbys have a copy; `keepstream check` names what else the servers"
        " need."
    )
    invalidated = slot(invalidation_reason="rows_removed")
    with pytest.raises(HistoryBroken) as caught:
        check_slot("keepstream_crm", invalidated, tail=TAIL, promoted=True)
    assert caught.value.message == (
        "slot keepstream_crm's copy on the promoted standby was invalidated: rows_removed"
    )


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (None, "slot-missing"),
        (slot(plugin="test_decoding"), "slot-foreign"),
        (slot(database="other"), "slot-foreign"),
        (slot(wal_status="lost"), "slot-invalidated"),
        (slot(confirmed_flush_lsn=Lsn(0x2001)), "slot-advanced"),
    ],
)
def test_p10_a_slot_that_cannot_be_ours_stops(seen: SlotState | None, code: str) -> None:
    with pytest.raises(HistoryBroken) as caught:
        check_slot("keepstream_crm", seen, tail=TAIL)
    assert caught.value.code == code
    assert caught.value.hint


def test_p10_a_log_that_ends_before_what_somebody_read_of_it_has_lost_its_end() -> None:
    """Else it cannot be told from a slot that somebody moved, and both causes are named."""
    past = slot(confirmed_flush_lsn=Lsn(0x2100))
    with pytest.raises(HistoryBroken) as caught:
        check_slot("keepstream_crm", past, tail=TAIL, witnesses=lambda: {"replica standby": Lsn(0x2001)})
    assert caught.value.code == "log-end-lost"
    assert caught.value.message == (
        "slot keepstream_crm stands at 0/2100 and replica standby at 0/2001, but the log ends at 0/2000"
    )
    assert caught.value.hint == (
        "The log lost its end: a broker without it became leader, or a disk was restored from an older copy."
        f" Bring back the copy of the log that has it. If there is none, {BEGIN_ANEW}."
    )
    with pytest.raises(HistoryBroken) as caught:
        check_slot("keepstream_crm", past, tail=TAIL, witnesses=lambda: {"replica standby": TAIL.lsn})
    assert caught.value.code == "slot-advanced"
    assert "Somebody else read from the slot" in caught.value.hint
    assert "Or the log lost its end" in caught.value.hint


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (slot(plugin="test_decoding"), "plugin test_decoding, database crm"),
        (slot(database="other"), "plugin pgoutput, database other"),
        (slot(temporary=True), "plugin pgoutput, database crm, temporary"),
        (slot(plugin="", database=""), "a physical one"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_p6_a_slot_that_only_bears_our_name_is_no_leftover_of_ours(
    seen: SlotState, kind: str, begun: bool
) -> None:
    """Dropping it would destroy another pipeline's history."""
    with pytest.raises(HistoryBroken) as caught:
        check_leftover(seen, "file:///log/crm.log", begun=begun)
    assert caught.value.code == "slot-foreign"
    assert caught.value.message == f"slot keepstream_crm is another one: {kind}"
    assert caught.value.hint == (
        "Somebody else made a slot of this name. Rename one of the two pipelines (`name` in keepstream.yaml)."
        " Only if nobody needs that slot, drop it (select pg_drop_replication_slot('keepstream_crm');)."
    )


def test_p6_a_slot_of_ours_beside_an_empty_log_stops_unless_we_had_begun_it() -> None:
    check_leftover(slot(), "file:///log/crm.log", begun=True)
    with pytest.raises(HistoryBroken) as caught:
        check_leftover(slot(), "file:///log/crm.log", begun=False)
    assert caught.value.code == "slot-without-log"


def test_p10_a_slot_that_went_back_after_a_crash_is_fine() -> None:
    behind = slot(confirmed_flush_lsn=Lsn(0x100))
    check_slot("keepstream_crm", behind, tail=TAIL)
    assert behind.confirmed_flush_lsn is not None


def test_p11_a_publication_that_somebody_changed_is_a_gap() -> None:
    anchored = ("pg_publication:1:100", "pg_publication_rel:2:100")
    known = Entries.parse(anchored)
    check_publication("p", known, known)
    for current in (
        anchored[:1],
        (*anchored, "pg_publication_rel:3:101"),
        ("pg_publication:1:105", "pg_publication_rel:2:100"),
    ):
        with pytest.raises(HistoryBroken) as caught:
            check_publication("p", known, Entries.parse(current))
        assert caught.value.code == "publication-changed"


def test_p11_an_addition_that_an_anchor_announced_is_ours() -> None:
    anchored = Entries.parse(["pg_publication:1:100", "join:101"])
    check_publication("p", anchored, Entries.parse(["pg_publication:1:100", "pg_publication_rel:3:101"]))
    check_publication("p", anchored, Entries.parse(["pg_publication:1:100"]))  # it never committed


def test_p11_an_announced_leaving_counts_only_if_its_transaction_was_committed() -> None:
    leave = Leave("pg_publication_rel:2:100", 101, 16384, "a:b", "c", ("words",), Lsn(7))
    anchored = Entries.parse(["pg_publication:1:100", leave.entry, "table:16384:a:b.c"]).put(LEAVES, leave)
    now = Entries.parse(["pg_publication:1:100"])
    check_publication("p", anchored, now, gone={leave.entry})
    with pytest.raises(HistoryBroken) as caught:
        check_publication("p", anchored, now)
    assert caught.value.code == "publication-changed"


def test_p11_an_announced_leaving_is_kept_until_it_failed_or_the_table_joined_again() -> None:
    leave = Leave("pg_publication_rel:2:100", 101, 16384, "public", "k", ())

    def is_kept(outcome: str | None, *, current: tuple[str, ...], listed: tuple[int, ...]) -> bool:
        return bool(leaves_still([leave], {101: outcome}, current, listed))

    there, joined_again = (leave.entry,), ("pg_publication_rel:3:105",)
    assert is_kept("in progress", current=there, listed=(16384,))
    assert not is_kept("aborted", current=there, listed=(16384,))
    assert is_kept("committed", current=(), listed=())
    assert is_kept(None, current=(), listed=()), "PostgreSQL has forgotten it"
    assert not is_kept("committed", current=joined_again, listed=(16384,))


def test_p11_after_a_promotion_the_number_of_a_leaving_s_transaction_may_be_another_s() -> None:
    """The standby never heard of the first, so that its number was given again."""
    lost, done = (Leave(f"pg_publication_rel:{oid}:100", 101, oid, "public", "k", ()) for oid in (2, 3))
    assert after_promotion([lost], {101: "committed"}, [lost.entry]) == {101: "aborted"}
    assert after_promotion([done], {101: "committed"}, [lost.entry]) == {101: "committed"}


def test_an_announced_leaving_of_another_version_is_no_guess() -> None:
    with pytest.raises(InternalError) as caught:
        Entries.parse(["left:pg_publication_rel:2:100:16384:public.k"]).of(LEAVES)
    assert caught.value.code == "anchor-malformed"


@pytest.mark.parametrize("entry", ["shape:16384:1:2:aa:bb", "shape:16384:1:2:aa:bb::"])
def test_p11_an_entry_about_a_table_that_cannot_be_compared_stops(entry: str) -> None:
    with pytest.raises(InternalError) as caught:
        Entries.parse([entry]).of(SHAPES)
    assert caught.value.code == "anchor-malformed"
    assert caught.value.message == "an ANCHOR's entry about table 16384 cannot be read"


def see(history: SameHistory, commit_lsn: int, xid: int) -> bool:
    return history.see(commit_lsn=commit_lsn, xid=xid, commit_time=5)


def test_p1_a_commit_that_starts_exactly_at_the_position_is_not_held() -> None:
    history = SameHistory(Position(Lsn(100)))
    assert see(history, 92, 1) is True
    assert see(history, 100, 2) is False


def test_p2_the_last_transaction_below_the_position_must_be_the_one_it_names() -> None:
    same = SameHistory(Position(Lsn(100), 7, 5))
    assert see(same, 80, 6) is True
    assert see(same, 92, 7) is True
    assert see(same, 100, 8) is False
    other = SameHistory(Position(Lsn(100), 7, 5))
    see(other, 92, 9)
    assert _refusal(other) == (
        "position 0/64 was taken in another history: the log's last transaction below it is 9, not 7"
    )


def test_p2_the_same_xid_at_another_time_is_another_history() -> None:
    history = SameHistory(Position(Lsn(100), 7, 6))
    see(history, 92, 7)
    assert _refusal(history) == (
        "position 0/64 was taken in another history: the log's transaction 7 was committed at another time"
    )


def test_p2_a_position_that_names_a_transaction_which_the_log_never_had_is_another_history() -> None:
    history = SameHistory(Position(Lsn(100), 7, 5))
    history.see_anchor(Position(Lsn(40)), 1)  # the log's first one: nothing stands before it
    assert _refusal(history) == (
        "position 0/64 was taken in another history: the log has no transaction below it, and should have 7"
    )


def test_p2_an_anchor_proves_a_position_whose_transaction_was_trimmed_away() -> None:
    for at in (Position(Lsn(100), 7, 5), Position(Lsn(60), 7, 5)):
        history = SameHistory(Position(Lsn(100), 7, 5))
        history.see_anchor(at, 1)
        history.prove()
        assert see(history, 100, 8) is False
    other = SameHistory(Position(Lsn(100), 7, 5))
    other.see_anchor(Position(Lsn(60), 3, 5), 1)
    assert "is 3, not 7" in _refusal(other)


def test_p2_an_anchor_past_the_position_does_not_prove_it() -> None:
    history = SameHistory(Position(Lsn(100), 7, 5))
    history.see_anchor(Position(Lsn(101), 7, 5), 1)
    assert "has no transaction below it" in _refusal(history)


def test_p2_the_position_of_a_copy_names_no_transaction_and_fits_any() -> None:
    for seen in ([], [80, 92]):
        history = SameHistory(Position(Lsn(100)))
        assert [see(history, commit_lsn, 9) for commit_lsn in seen] == [True] * len(seen)
        history.prove()
        assert see(history, 100, 10) is False


@pytest.mark.parametrize(("left_at", "lost"), [(99, True), (100, False)])
def test_p10_a_copy_of_what_a_failover_lost_is_another_history(left_at: int, lost: bool) -> None:
    """Its position is an LSN of the old timeline, past the place at which the log left that one."""
    copied = SameHistory(Position(Lsn(100)))
    copied.see_anchor(Position(Lsn(50), 6, 5), 1)
    if not lost:
        copied.see_anchor(Position(Lsn(left_at), 7, 5), 2)
        return
    with pytest.raises(HistoryBroken) as caught:
        copied.see_anchor(Position(Lsn(left_at), 7, 5), 2)
    assert (caught.value.code, caught.value.message) == (
        "other-history",
        "position 0/64 was taken on timeline 1 of the source, and the log left that for timeline 2 at 0/63",
    )


def test_p10_a_position_that_names_a_transaction_is_proven_by_it_whatever_the_timelines() -> None:
    reached = SameHistory(Position(Lsn(100), 8, 5))
    reached.see_anchor(Position(Lsn(50), 6, 5), 1)
    reached.see_anchor(Position(Lsn(60), 7, 5), 2)
    see(reached, 92, 8)
    reached.prove()


def test_p2_a_position_inside_of_a_commit_record_is_proven_by_that_transaction() -> None:
    same = SameHistory(Position(Lsn(100), 7, 5))
    assert see(same, 99, 7) is True
    same.prove()
    other = SameHistory(Position(Lsn(100), 7, 5))
    see(other, 92, 7)
    see(other, 99, 8)
    assert "is 8, not 7" in _refusal(other)


def _refusal(history: SameHistory) -> str:
    with pytest.raises(HistoryBroken) as caught:
        history.prove()
    assert caught.value.code == "other-history"
    return caught.value.message


def test_p10_a_slot_may_begin_after_the_tail_transaction_so_that_absence_proves_nothing() -> None:
    tail = Position(Lsn(100), 7, 5)
    with pytest.raises(HistoryBroken):
        SameHistory(tail).prove()
    later = Resent(tail, last_commit_lsn=Lsn(92), sent_from=Lsn(100))
    later.prove()
    assert later.proven


def resent(*, last: int | None, sent_from: int) -> Resent:
    return Resent(TAIL, last_commit_lsn=None if last is None else Lsn(last), sent_from=Lsn(sent_from))


def come(history: Resent, commit_lsn: int, xid: int, commit_time: int = 5) -> None:
    history.see(commit_lsn=Lsn(commit_lsn), end_lsn=Lsn(commit_lsn + 8), xid=xid, commit_time=commit_time)


def test_p10_what_comes_again_must_end_with_the_logs_last_transaction() -> None:
    same = resent(last=0x1F00, sent_from=0x1000)
    come(same, 0x1800, 76)
    come(same, 0x1F00, 77)
    same.prove()
    assert same.proven
    for xid, commit_time in ((78, 5), (77, 6)):
        other = resent(last=0x1F00, sent_from=0x1000)
        come(other, 0x1F00, xid, commit_time)
        with pytest.raises(HistoryBroken) as caught:
            other.prove()
        assert caught.value.code == "source-other-history"
        assert other.proven is False


def test_p10_the_logs_last_transaction_must_come_again_unless_the_slot_is_past_it() -> None:
    with pytest.raises(HistoryBroken) as caught:
        resent(last=0x1F00, sent_from=0x1F00).prove()
    assert caught.value.message == (
        "the source sent nothing where the log, which ends at 0/2000, holds transaction 77"
    )
    resent(last=0x1F00, sent_from=0x1F01).prove()
    resent(last=None, sent_from=0x1000).prove()  # it stands before what was read of the log


def test_p10_nothing_may_come_again_where_the_log_holds_nothing() -> None:
    history = Resent(Position(Lsn(0x2000)), last_commit_lsn=None, sent_from=Lsn(0x1000))
    come(history, 0x1800, 5)
    with pytest.raises(HistoryBroken) as caught:
        history.prove()
    assert caught.value.message.startswith("the source sent transaction 5 where")
    assert caught.value.message.endswith("holds nothing")


def table(*columns: tuple[str, int]) -> TableSchema:
    made = tuple(Column(name, oid, -1, str(oid), key=name == "id") for name, oid in columns)
    return TableSchema("public", "t", ReplicaIdentity.DEFAULT, made)


def test_only_added_columns_are_followed() -> None:
    old = table(("id", 23), ("a", 25))
    assert [c.name for c in added_columns(old, table(("id", 23), ("a", 25), ("b", 25)))] == ["b"]
    assert added_columns(old, old) == ()
    for new, seen in (
        (table(("id", 23)), "column a is gone or renamed"),
        (table(("id", 23), ("b", 25)), "column a is gone or renamed"),
        (table(("id", 20), ("a", 25)), "column id changed from 23 to 20"),
        (table(("a", 25), ("id", 23)), "a column was dropped and added again"),
    ):
        with pytest.raises(RefusedData) as caught:
            added_columns(old, new)
        assert caught.value.code == "schema-changed"
        assert caught.value.message.endswith(seen)
