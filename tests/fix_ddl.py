"""`changing`: a source whose event triggers tell of schema changes, and a replica that follows them.

The source's messages and rows are read from a real slot and written into the log as capture would: so
apply can be tested with what PostgreSQL really sends.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from connectors.postgres.ddl.install import install
from connectors.postgres.replication.pgoutput import Begin, Commit, Decoder, RelationChanged
from connectors.postgres.session import connect
from pipeline.dev.postgres_server import binaries
from schemas.change import Change, Message, Truncate
from schemas.ddl.message import DDL_PREFIX, SchemaMessage
from schemas.table import TableSchema
from tests.fix_apply import MadeLog, Replicating
from tests.fix_postgres import Database
from tests.postgres_releases import release

_SEAL_DIGITS = 64
_SLOT = "keepstream_changing"
_READ = (
    "select data from pg_logical_slot_get_binary_changes(%s, null, null, 'proto_version', '1',"
    " 'publication_names', 'changing', 'messages', 'true')"
)
_ROWS = "select r::text from only {} r order by 1"
_TABLES = """
    select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
     order by 1
"""


class Changing:
    """`run` changes the source, `log` carries that into the log, `agree` applies it and compares."""

    def __init__(self, source: Database, replicating: Replicating, made_log: MadeLog) -> None:
        self.source, self.replica = source, replicating.replica
        self.replicating, self.made_log = replicating, made_log
        self.messages: list[SchemaMessage] = []
        self._slot = f"{_SLOT}_{source.name}"
        self._decoder = Decoder()
        self._tables: dict[bytes, TableSchema] = {}

    def begin(self, both: str = "") -> None:
        """`both`: the schema and rows that source and replica begin with."""
        for database in (self.source, self.replica):
            database.execute_as_admin(
                f"set role {database.owner}; create schema if not exists crm; {both or 'select'}"
            )
        with connect(self.source.admin_dsn, purpose="test") as session:
            install(session, capture_role="keepstream")
            session.execute("create publication changing for all tables")
            session.execute(f"select pg_create_logical_replication_slot('{self._slot}', 'pgoutput')".encode())

    def run(self, script: str) -> None:
        """As the application, in one transaction."""
        self.source.execute(script)

    def log(self, *, part_bytes: int = 0) -> None:
        """Write what was committed on the source; `part_bytes`: in parts that hold so much, or one change."""
        changes: list[Change] = []
        for (data,) in self.source.execute_as_admin(_READ, [self._slot]):
            decoded = self._decoder.decode(bytes(data))
            if isinstance(decoded, RelationChanged):
                self._tables[decoded.table.id] = decoded.table
            elif isinstance(decoded, Begin):
                changes = []
            elif isinstance(decoded, Commit):
                if changes:
                    self._write(changes, part_bytes)
            elif isinstance(decoded, Change):
                changes += self._of_ours(decoded)

    def _of_ours(self, change: Change) -> Iterator[Change]:
        """As capture does, without the trigger's own tables and the messages' seals."""
        payload = change.payload
        if isinstance(payload, Message):
            if payload.prefix == DDL_PREFIX:
                content = payload.content[_SEAL_DIGITS:]
                self.messages.append(SchemaMessage.from_json(content))
                assert not self.messages[-1].error, self.messages[-1].error
                yield change._replace(payload=replace(payload, content=content))
        elif isinstance(payload, Truncate) or self._tables[change.table].schema != "keepstream":
            yield change

    def _write(self, changes: list[Change], part_bytes: int) -> None:
        tables = [self._tables[change.table] for change in changes if change.table in self._tables]
        for change in changes:
            if isinstance(change.payload, Truncate):
                tables += [self._tables[table] for table in change.payload.tables]
        if part_bytes:
            opened = self.made_log.open_parts(*changes, tables=tables, part_bytes=part_bytes)
            self.made_log.close_parts(opened)
        else:
            self.made_log.commit(*changes, tables=tables)

    def follow(self, script: str, **options: object) -> None:
        """Run, log and apply it."""
        self.run(script)
        self.log()
        with self.replicating.running(**options):
            self.replicating.wait_for(self.made_log.lsn)

    def agree(self) -> None:
        """Both sides have the same rows, and the same schema: other releases write it otherwise."""
        if release("source") == release("replica"):
            assert dump(self.replica) == dump(self.source)
        assert rows(self.replica) == rows(self.source)


def dump(database: Database, *, rights: bool = False) -> str:
    """The schema, without what a replica has otherwise. `rights`: with owners and privileges."""
    left_out = () if rights else ("--no-owner", "--no-privileges")
    text = pg_dump(database, "--schema-only", "--exclude-schema=keepstream", *left_out)
    statements = re.split(r"\n{2,}", re.sub(r"^(--|\\|set_config).*\n", "", text, flags=re.MULTILINE))
    return "\n\n".join(s for s in statements if "EVENT TRIGGER" not in s and not s.startswith("SET "))


def dumped_lines(database: Database) -> list[str]:
    """Its lines, for sides whose tables may have their columns in another order."""
    return sorted(line.rstrip(",") for line in dump(database).splitlines() if line)


def pg_dump(database: Database, *options: str) -> str:
    """As it writes it."""
    command = [str(binaries() / "pg_dump"), "--no-publications", *options, f"--dbname={database.admin_dsn}"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def rows(database: Database) -> Mapping[str, list[str]]:
    """Of every table, as text."""
    return {
        table: [row for (row,) in database.execute_as_admin(_ROWS.format(table))]
        for (table,) in database.execute_as_admin(_TABLES)
    }


@pytest.fixture
def changing(source: Database, replicating: Replicating, made_log: MadeLog) -> Iterator[Changing]:
    world = Changing(source, replicating, made_log)
    yield world
    source.execute_as_admin(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
        [world._slot],
    )
