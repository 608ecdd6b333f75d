"""Work on a replica that stands, tried again where that was lost, or where a table changed meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from connectors.postgres.catalog.publication import TableName
from pipeline.backoff import Backoff
from pipeline.verify.meeting import VerifyOptions
from pipeline.verify.standing import Standing, stand
from pipeline.verify.watch import Watch
from schemas.errors import RetryLater

logger = logging.getLogger("keepstream.verify")

TRIES = 5
ROUNDS = 8
TRIED_AGAIN = ("hold-lost", "snapshot-lost", "connection-lost", "lock-timeout", "transaction-conflict")


def in_rounds(options: VerifyOptions, watch: Watch, work: Callable[[Standing], Sequence[TableName]]) -> None:
    """`work` does what is left of it, and returns the source's tables that changed before it got at them;
    they are locked from the beginning the next time. Raises what `stand` raises, and RetryLater
    (`table-changed`)."""
    restless: Sequence[TableName] = ()
    for _ in range(ROUNDS):
        restless = _try(options, watch, work, restless)
        if not restless:
            return
    raise table_changed(len(restless))


def table_changed(count: int) -> RetryLater:
    return RetryLater(
        f"{count} tables were truncated or altered in each of {ROUNDS} attempts",
        code="table-changed",
        hint="Try it at a time when nothing does that.",
    )


def _try(
    options: VerifyOptions,
    watch: Watch,
    work: Callable[[Standing], Sequence[TableName]],
    restless: Sequence[TableName],
) -> Sequence[TableName]:
    backoff = Backoff()
    for tried in range(1, TRIES + 1):
        try:
            with stand(options, watch, restless=restless) as standing:
                return work(standing)
        except RetryLater as error:
            watch.check()
            if error.code not in TRIED_AGAIN or tried == TRIES:
                raise
            logger.info("begins again", extra={"code": error.code, "error": error.message})
            watch.pause(backoff.next_s())
    raise AssertionError("unreachable")
