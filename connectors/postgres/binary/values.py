"""Values in their send form, converted to text by the source itself: a session of its own, parameters bound
in binary form with their type's OID, and what its output functions write under the pinned settings.

Conversion happens later than the decoding that text form does, so the catalog may have moved on. Never is a
value of then shown by the catalog of now:

    enums       their send form is the label of then. Alone it is the text. In an array, composite or range
                the source looks the label up: it finds the same one, or stops (`binary-value-refused`)
    composites  the send form names its attributes' types: others than now stop
    domains     are bound as the type below, which cannot change; constraints of now say nothing
    ranges, arrays, base types: what they consist of cannot change. (A new version of an extension must read
                what an older one sent, as it must for dumps)
    reg*        the text is a name that may have changed meanwhile: `connectors.postgres.binary.named` proves
                that it did not, or this stops (`binary-name-unproven`)
    a type that was dropped meanwhile stops (`binary-type-gone`)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

import psycopg
from psycopg import pq

from connectors.postgres.binary.named import NAMING_TYPES, are_settled
from connectors.postgres.binary.rows import BinaryType
from connectors.postgres.catalog.held_types import ENUM, HeldType, Types
from connectors.postgres.replication.walsender import TOO_LONG, VALUE_TOO_LARGE
from connectors.postgres.session import Session, connect, wrapped
from schemas.errors import BEGIN_ANEW, RefusedData
from schemas.pgtypes import FIRST_USER_OID, element_of, is_row_type
from schemas.table import TableSchema

_REMEDY: Final = f"xclude its table under source.tables.exclude, then {BEGIN_ANEW}."


class SourceValues:
    """A `Converter`; connects when it is first needed. `slot`: the one whose transactions these are."""

    def __init__(self, conninfo: str, *, purpose: str, slot: str) -> None:
        self._conninfo = conninfo
        self._purpose = purpose
        self._slot = slot
        self._session: Session | None = None
        self._known: dict[int, BinaryType] = {}
        self._naming: set[int] = set()

    def types(self, oids: Sequence[int]) -> Sequence[BinaryType]:
        """See `Converter.types`."""
        for oid in oids:
            if oid < FIRST_USER_OID and not is_row_type(oid):
                self._known[oid] = BinaryType(oid)
                if element_of(oid) in NAMING_TYPES:
                    self._naming.add(oid)
        self._learn({oid for oid in oids if oid not in self._known})
        return [self._known[oid] for oid in oids]

    def _learn(self, oids: Collection[int]) -> None:
        if not oids:
            return
        session = self._open()
        try:
            types = Types(session, oids)
            held = {oid: types.held(oid, -1) for oid in oids}
        except KeyError as error:
            raise RefusedData(
                f"the type with OID {error.args[0]} was dropped before its values were read",
                code="binary-type-gone",
                hint=f"Rows of it came in binary form, which only its functions can read. E{_REMEDY}",
            ) from None
        for oid, one in held.items():
            self._known[oid] = BinaryType(one.oid, is_label=one.kind == ENUM)
            if one.parts and _names_objects(one):
                self._naming.add(one.oid)

    def texts(self, table: TableSchema, values: Sequence[tuple[int, memoryview]]) -> Sequence[bytes]:
        """See `Converter.texts`. Raises RefusedData (`binary-value-refused`, `binary-name-unproven`,
        `value-too-large`)."""
        session = self._open()
        self._require_settled(session, table, values)
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        with wrapped(f"converting a row of {table.qualified_name}"):
            try:
                result = session.pgconn.exec_params(
                    f"select {places}".encode(),
                    [bytes(value) for _, value in values],
                    [oid for oid, _ in values],
                    [pq.Format.BINARY] * len(values),
                )
                if result.status != pq.ExecStatus.TUPLES_OK:
                    raise psycopg.errors.error_from_result(result)
            except psycopg.Error as error:
                if refusal := _refusal(table, error):
                    raise refusal from None  # its message may hold the value
                raise
        texts = [result.get_value(0, column) for column in range(len(values))]
        return [text for text in texts if text is not None]

    def _require_settled(
        self, session: Session, table: TableSchema, values: Sequence[tuple[int, memoryview]]
    ) -> None:
        """Whatever names an object has the name that it had then."""
        named = [(oid, int.from_bytes(value)) for oid, value in values if oid in NAMING_TYPES]
        nested = any(oid in self._naming for oid, _ in values)
        if not nested and are_settled(session, self._slot, [one for one in named if one[1]]):
            return
        raise RefusedData(
            f"a row of {table.qualified_name} names an object of the database (regclass, regtype, …) that may"
            " have had another name then",
            code="binary-name-unproven",
            hint="It came in binary form, where such a value is a number, because a value in its transaction"
            f" is too large for text. E{_REMEDY}",
        )

    def _open(self) -> Session:
        if self._session is None:
            self._session = connect(self._conninfo, purpose=self._purpose)
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def _names_objects(held: HeldType) -> bool:
    return held.oid in NAMING_TYPES or any(_names_objects(part) for _, part in held.parts)


def _refusal(table: TableSchema, error: psycopg.Error) -> RefusedData | None:
    """None: the session failed, not the value."""
    if re.search(TOO_LONG, str(error.diag.message_primary)):
        return RefusedData(
            f"a value of {table.qualified_name} has no text below 1 GB",
            code=VALUE_TOO_LARGE,
            hint=f"It came in binary form, and PostgreSQL cannot convert it. E{_REMEDY}",
        )
    if error.sqlstate is None or isinstance(error, psycopg.OperationalError):
        return None
    return RefusedData(
        f"the source cannot read a value of {table.qualified_name} that it sent in binary form"
        f" (SQLSTATE {error.sqlstate})",
        code="binary-value-refused",
        hint="One of its types was altered since: an enum's label renamed, or a composite type's attribute"
        f" added. Put it back as it was, and capture can go on. If that cannot be, e{_REMEDY}",
    )
