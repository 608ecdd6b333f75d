"""Which messages of prefix `keepstream.ddl` the source's event triggers wrote.

Any role may write a message of any prefix, and what a genuine one says is run on replicas. So each carries a
seal made with a key that only the triggers and capture's role can read, and names its transaction and its
place among the messages of that: it cannot be sent again.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from typing import Final

from connectors.postgres.ddl.tracking import read_key, whole_xid
from connectors.postgres.session import Session
from schemas.ddl.message import DDL_PREFIX, SchemaMessage
from schemas.errors import BEGIN_ANEW, InternalError, OperatorNeeded, RefusedData

logger = logging.getLogger("keepstream.capture")

_SEAL: Final = re.compile(rb"[0-9a-f]{64}")


class Authenticity:
    """Of the messages of one connection. `begin` at each transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keys: list[bytes] = []
        self._seen: list[bytes] = []

    def learn(self) -> bytes | None:
        """The key of now, which counts beside earlier ones: what they sealed may still come."""
        key = read_key(self._session)
        if key is not None and key not in self._keys:
            self._keys.append(key)
        return key

    def begin(self) -> None:
        self._seen.clear()

    def genuine(self, prefix: str, content: bytes, *, xid: int, is_tracked: bool) -> SchemaMessage | None:
        """The message; None for a forged one. `xid`: of the open transaction, as the stream tells it.

        Raises OperatorNeeded (`ddl-key-missing`) where it cannot be told and the log relies on it,
        RefusedData (`schema-disordered`) for a genuine one that misses others before it, and InternalError
        (`ddl-malformed`) for one that is not understood.
        """
        text = self._unsealed(content, is_tracked=is_tracked) if prefix == DDL_PREFIX else None
        if text is None:
            _leave_out(prefix, xid, "its seal is not ours")
            return None
        message = _parsed(text)
        if int(message.xid) != whole_xid(self._session, xid) or content[:64] in self._seen:
            _leave_out(prefix, xid, "it was sent again")
            return None
        if message.n != len(self._seen):
            raise _disordered(message, len(self._seen))
        self._seen.append(content[:64])
        return message

    def _unsealed(self, content: bytes, *, is_tracked: bool) -> bytes | None:
        seal, text = content[:64], content[64:]
        if not _SEAL.fullmatch(seal):
            return None
        if any(_fits(seal, text, key) for key in self._keys):
            return text
        try:
            key = self.learn()
        except OperatorNeeded:
            if is_tracked:
                raise
            return None  # whoever may not read it does not rely on it
        if key is None and is_tracked:
            raise key_missing()
        return text if key is not None and _fits(seal, text, key) else None


def _leave_out(prefix: str, xid: int, reason: str) -> None:
    logger.error("forged message left out", extra={"prefix": prefix, "xid": xid, "reason": reason})


def require_key(session: Session) -> None:
    """Raises OperatorNeeded (`ddl-key-missing`, `privilege-missing`)."""
    if read_key(session) is None:
        raise key_missing()


def key_missing() -> OperatorNeeded:
    return OperatorNeeded(
        "keepstream.schema_key is missing on the source, and the log relies on the messages that it seals",
        code="ddl-key-missing",
        hint="Schema changes up to the removal of the event triggers cannot be proven without it. Bring the"
        f" key back; or, if it is gone, {BEGIN_ANEW}.",
    )


def _disordered(message: SchemaMessage, expected: int) -> RefusedData:
    return RefusedData(
        f"schema messages of one transaction are numbered by others: {message.n} instead of {expected}",
        code="schema-disordered",
        hint="An application has set keepstream.ddl_messages in this transaction, so nothing proves that no"
        f" message is missing. The log ends before it and stays valid; to go on, {BEGIN_ANEW}.",
    )


def seal(text: bytes, key: bytes) -> str:
    """The seal of a message's JSON, as the source computes it."""
    return hashlib.sha256(key + hashlib.sha256(key + text).digest()).hexdigest()


def _fits(given: bytes, text: bytes, key: bytes) -> bool:
    return hmac.compare_digest(given.decode("ascii"), seal(text, key))


def _parsed(text: bytes) -> SchemaMessage:
    try:
        return SchemaMessage.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise not_understood(error) from None


def not_understood(error: Exception) -> InternalError:
    return InternalError(
        f"a schema message of the source is not understood ({type(error).__name__})",
        code="ddl-malformed",
        hint="Another version of Keepstream installed the event triggers: run `keepstream schema install`"
        " with this one, and begin anew if capture still stops here.",
    )
