"""How a copy ends early: the error that says so."""

from __future__ import annotations

from schemas.errors import RetryLater


class CopyStopped(RetryLater):
    """The copy was asked to stop (`copy-stopped`)."""

    def __init__(
        self, message: str = "the copy was stopped", *, code: str = "copy-stopped", hint: str = ""
    ) -> None:
        super().__init__(message, code=code, hint=hint)
