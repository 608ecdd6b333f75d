"""Waiting for an operator before a source transaction whose schema changes a policy pauses at.

Such a transaction is found when its changes are applied: the target transaction is rolled back, and what
waits is written down in the replica, so that every later start knows. A transaction in parts is read to its
end for that, without applying more of it, and then again from its first part once it is approved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from connectors.postgres.ddl import approvals
from connectors.postgres.ddl.approvals import Decision, Waiting
from connectors.postgres.ddl.follow import Policies, server_version, waiting_steps
from connectors.postgres.session import Session
from schemas.barrier import DdlMessage, barrier_of
from schemas.change import Change
from schemas.ddl.message import SchemaMessage
from schemas.errors import RetryLater
from schemas.frame import Part, Transaction
from schemas.lsn import Lsn


class ReadAgain(RetryLater):
    """The parts of a transaction were read only to see what waits; no error for people."""


class Approval:
    """Of one open replica. `waiting`: what is written down there."""

    def __init__(self, session: Session, name: str, policies: Policies) -> None:
        self._session = session
        self._name = name
        self._policies = policies
        self._seen: list[SchemaMessage] = []
        self.waiting: Waiting | None = approvals.read(session, name)

    @property
    def unapproved(self) -> Lsn | None:
        """The commit LSN of the transaction that must not begin."""
        waiting = self.waiting
        return None if waiting is None or waiting.decision is not None else waiting.lsn

    def decision_for(self, lsn: Lsn) -> Decision | None:
        """What was decided about the transaction that commits there."""
        waiting = self.waiting
        return None if waiting is None or waiting.lsn != lsn else waiting.decision

    def look(self) -> None:
        """Read again what was decided."""
        self.waiting = approvals.read(self._session, self._name)

    def begin(self) -> None:
        """A transaction begins, with what is seen of it."""
        self._seen = []

    def watching(self, changes: Iterable[Change]) -> Iterator[Change]:
        """The same changes; schema changes among them are remembered as they pass. None is held meanwhile: a
        row may be as large as memory allows."""
        for change in changes:
            self._remember(change)
            passing = [change]
            del change
            yield passing.pop()

    def _remember(self, change: Change) -> None:
        barrier = barrier_of(change)
        if isinstance(barrier, DdlMessage):
            message = SchemaMessage.from_json(barrier.content)
            if message.changes:
                self._seen.append(message)

    def see(self, changes: Iterable[Change]) -> None:
        """Only remember the schema changes among these."""
        for _ in self.watching(changes):
            pass

    def wait(self, transaction: Transaction | Part) -> None:
        """Write down what was seen of this transaction. No target transaction is open."""
        lsn, xid = transaction.commit_lsn, transaction.xid
        steps = waiting_steps(self._seen, self._policies, server_version(self._session))
        approvals.wait(self._session, self._name, lsn=lsn, xid=xid, steps=steps)
        self.look()
        self._seen = []
