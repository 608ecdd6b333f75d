"""Rows in binary form become the very rows that text form gives, or stop: never others."""

from __future__ import annotations

import re

import pytest

from connectors.postgres.binary.rows import BinaryRows
from connectors.postgres.binary.values import SourceValues
from connectors.postgres.replication.pgoutput import Decoder
from connectors.postgres.replication.stream import SlotStream
from connectors.postgres.replication.walsender import Walsender
from schemas.change import Change, Operation
from schemas.errors import RefusedData
from tests.extreme_values import ROWS
from tests.fix_debian import Secured
from tests.fix_postgres import Database
from tests.scenario.test_debian import XML
from tests.scenario.test_types import made_types

ALTERED = """
    create type mood as enum ('sad', 'ok');
    create type pair as (a int, b mood);
    create domain small as int;
    create table t (id int primary key, mood mood, moods mood[], pair pair, small small, kind regtype,
                    kinds regtype[], named regclass, acls aclitem[]);
"""


class Forms:
    """Two slots that begin at one place: what was committed since then, in either form."""

    def __init__(self, source: Database) -> None:
        self._source = source
        self._slots = {form: f"{form}_{source.name}" for form in ("text", "binary")}

    def begin(self) -> None:
        self._source.execute_as_admin("create publication everything for all tables")
        for slot in self._slots.values():
            walsender = Walsender(self._source.admin_dsn, purpose="test")
            walsender.create_slot(slot, temporary=False)
            walsender.close()

    def read(self, form: str) -> list[Change]:
        """All changes of rows, up to a message that ends them."""
        self._source.execute_as_admin("select pg_logical_emit_message(true, 'end', '')")
        slot, dsn = self._slots[form], self._source.admin_dsn
        values = SourceValues(dsn, purpose="test", slot=slot)
        rows = BinaryRows(values)
        decoder = Decoder(row_encoder=rows.row_encoder, key_encoder=rows.key_encoder, binary=True)
        is_binary = form == "binary"
        decode = (decoder if is_binary else Decoder()).decode
        found: list[Change] = []
        stream = SlotStream(
            Walsender(dsn, purpose="test"), slot=slot, publication="everything", binary=is_binary
        )
        with stream:
            stream.start()
            try:
                while all(change.operation is not Operation.MESSAGE for change in found):
                    found += [d for m in stream.read(30).messages if isinstance(d := decode(m), Change)]
            finally:
                values.close()
        return [change for change in found if change.operation is not Operation.MESSAGE]


@pytest.fixture
def forms(source: Database) -> Forms:
    return Forms(source)


def test_every_type_comes_in_binary_form_as_it_does_in_text(source: Database) -> None:
    binary, text = both_forms(source, made_types(source))
    assert len(text) > 2 * ROWS
    assert binary == text


def test_xml_does_too(debian_pipeline: Secured) -> None:
    declared = ['<?xml version="1.0" encoding="latin1" standalone="yes"?><ü/>', '<?xml version="1.1"?>\n<x/>']
    values = {"xml": [*XML, *declared], "xml[]": ["{<a/>,NULL}"]}
    binary, text = both_forms(debian_pipeline.pipeline.source, values)
    assert binary == text != []


def both_forms(source: Database, values: dict[str, list[str]]) -> tuple[list[Change], list[Change]]:
    """All values by insert, update and delete, under REPLICA IDENTITY FULL, as changes in binary form and as
    text."""
    forms = Forms(source)
    columns = ", ".join(f"c{number} {name}" for number, name in enumerate(values))
    source.execute(f"create table bag (n int, {columns}); alter table bag replica identity full")
    source.execute("create table kept (id int primary key, note text)")
    forms.begin()
    places = ", ".join(["%s"] * (len(values) + 1))
    with source.connect() as connection:
        for number in range(ROWS):
            texts = [texts[number] if number < len(texts) else None for texts in values.values()]
            connection.execute(f"insert into bag values ({places})".encode(), [number, *texts])
    source.execute("update bag set n = n + 1; delete from bag where n % 5 = 2")
    source.execute("insert into kept values (1, repeat('x', 9000)); update kept set id = 2; delete from kept")
    return forms.read("binary"), forms.read("text")


@pytest.mark.parametrize(
    "alter",
    [
        "alter type mood rename value 'sad' to 'blue'",
        "alter type mood rename to temper; alter type pair rename attribute a to z",
        "alter domain small add constraint smaller check (value < 5) not valid",
        "alter table t rename mood to temper; alter table t drop column moods",
        "alter type mood add value 'odd' before 'sad'",
    ],
)
def test_what_was_altered_since_and_stands_alone_has_the_text_of_then(
    source: Database, forms: Forms, alter: str
) -> None:
    source.execute(ALTERED)
    forms.begin()
    source.execute("insert into t (id, mood, small, named) values (1, 'sad', 64, 'pg_class')")
    source.execute(alter)
    assert forms.read("binary") == forms.read("text") != []


@pytest.mark.parametrize(
    ("row", "alter", "code"),
    [
        ("(1, null, '{sad}')", "alter type mood rename value 'sad' to 'blue'", "binary-value-refused"),
        ("(1, null, null, '(1,ok)')", "alter type pair add attribute c int", "binary-value-refused"),
        ("(1, null, null, null, 3, 'mood')", "alter type mood rename to temper", "binary-name-unproven"),
        ("(1, null, null, null, 3, null, '{int4}')", "select 1", "binary-name-unproven"),
        ("(1, null, null, null, 3, null, null, 't')", "create schema s; alter table t set schema s",
         "binary-name-unproven"),
        ("(1, null, null, null, 3, null, null, null, '{=r/postgres}')", "select 1", "binary-form-missing"),
        ("(1, null, '{ok}')", "drop table t; drop type pair; drop type mood", "binary-type-gone"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_any_more_as_it_was_then_stops(
    source: Database, forms: Forms, row: str, alter: str, code: str
) -> None:
    source.execute(ALTERED)
    forms.begin()
    source.execute(f"insert into t values {row}")
    source.execute(alter)
    with pytest.raises(RefusedData) as refused:
        forms.read("binary")
    assert refused.value.code == code
    assert re.search("source.tables.exclude|capture can go on", refused.value.hint)
