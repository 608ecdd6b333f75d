"""In which form the source sends rows: as text, but for a transaction with a row whose text is too long.

States: text → (the source cannot send a row) binary until that transaction is confirmed → text again. Text is
what the log is made of, and in C; in binary form the source itself has to convert what is not simple.
"""

from __future__ import annotations

from schemas.lsn import Lsn


class SendForm:
    """Of one capture. `binary_until`: where the transaction commits for which rows come in binary form; None:
    they come as text."""

    def __init__(self) -> None:
        self.binary_until: Lsn | None = None
        self._failed: dict[tuple[Lsn, bool], Lsn] = {}

    @property
    def is_binary(self) -> bool:
        return self.binary_until is not None

    def failed(self, at: Lsn, *, tail: Lsn) -> bool:
        """The transaction that commits at `at` could not be sent, with the log's tail at `tail`. Whether it
        is worth a try in the other form, which is chosen then."""
        failure, other = (at, self.is_binary), (at, not self.is_binary)
        if other in self._failed or self._failed.get(failure) == tail:
            return False
        self._failed[failure] = tail
        self.binary_until = None if self.is_binary else at
        return True

    def passed(self) -> None:
        """That transaction is confirmed."""
        self.binary_until = None
        self._failed.clear()
