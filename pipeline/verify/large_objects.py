"""Comparing large objects as both snapshots of a meeting show them. They are not followed after the copy."""

from __future__ import annotations

from collections.abc import Iterator

from connectors.postgres.catalog.tables import count_large_objects
from connectors.postgres.large_objects.reading import LargeObject, digest_of, list_large_objects
from connectors.postgres.session import Session
from pipeline.verify.meeting import Meeting
from pipeline.verify.result import LISTED_KEYS, Difference, LargeObjectsResult
from pipeline.verify.watch import Watch


def compare_large_objects(meeting: Meeting, watch: Watch) -> LargeObjectsResult:
    """All of both sides, one after the other. Its sessions must be in their snapshots."""
    compared = hidden = differing = 0
    named: list[tuple[int, Difference]] = []
    for ours, theirs in _pairs(meeting.reader, meeting.keeper):
        watch.check()
        if not all(each.readable for each in (ours, theirs) if each is not None):
            hidden += 1
            continue
        compared += 1
        difference = _compare(meeting, ours, theirs)
        if difference is not None:
            differing += 1
            if len(named) < LISTED_KEYS:
                named.append(((ours or theirs).oid, difference))  # type: ignore[union-attr]
    return LargeObjectsResult(compared, differing, tuple(named), hidden)


def _compare(meeting: Meeting, ours: LargeObject | None, theirs: LargeObject | None) -> Difference | None:
    if theirs is None:
        return Difference.MISSING
    if ours is None:
        return Difference.EXTRA
    equal = digest_of(meeting.reader, ours.oid) == digest_of(meeting.keeper, theirs.oid)
    return None if equal else Difference.CHANGED


def _pairs(
    source: Session, replica: Session
) -> Iterator[tuple[LargeObject, LargeObject | None] | tuple[None, LargeObject]]:
    """Those of one OID together, in the order of their OIDs."""
    left, right = _one_by_one(source), _one_by_one(replica)
    ours, theirs = next(left, None), next(right, None)
    while ours is not None or theirs is not None:
        if theirs is None or (ours is not None and ours.oid <= theirs.oid):
            assert ours is not None
            both = theirs is not None and theirs.oid == ours.oid
            yield ours, theirs if both else None
            ours = next(left, None)
            theirs = next(right, None) if both else theirs
        else:
            yield None, theirs
            theirs = next(right, None)


def _one_by_one(session: Session) -> Iterator[LargeObject]:
    for some in list_large_objects(session):
        yield from some


def note_of(meeting: Meeting) -> tuple[str, ...]:
    """That there are some, where nobody asked for them."""
    count = count_large_objects(meeting.reader)
    if not count:
        return ()
    return (
        f"{count} large objects of the source were not compared (--large-objects compares them); they are not"
        " followed after the first copy",
    )
