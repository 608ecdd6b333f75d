"""`tests/scenario/schema-fuzz`: the command line, and the rounds."""

from __future__ import annotations

import argparse
import difflib
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg

from pipeline.dev.guard import guard_ours
from schemas.ddl.kinds import NEVER_APPLIED, Kind
from tests.fix_ddl import dumped_lines
from tests.fix_pipeline import Pipeline, Running, make_pipeline
from tests.fix_postgres import Database, start_replica, start_source
from tests.schema_fuzz.statements import Statements
from tests.tracked import install_triggers

BEGIN: Final = """
    create schema s1; create schema s2; create type mood as enum ('good', 'bad');
    create domain short as varchar(9); create table a1 (id int primary key, v text)
"""
TRANSACTIONS: Final = 12
"""Of the first session, per round."""
_UNPUBLISHED: Final = """
    select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and c.relpersistence = 'p' and n.nspname !~ '^pg_'
       and n.nspname not in ('information_schema', 'keepstream')
       and not exists (select from pg_publication_tables
                        where schemaname = n.nspname and tablename = c.relname)
"""
_TABLES: Final = """
    select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
     order by 1
"""
_AWAITING: Final = """
    select format('%I.%I', schema_name, table_name) from keepstream.schema_left_out where awaits_copy
     order by 1
"""
# Constraints' names that PostgreSQL chose depend on the order in which tables were made.
_CHOSEN_NAME: Final = re.compile(r" CONSTRAINT \"?\S*_not_null\d*\"? NOT NULL")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/scenario/schema-fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--log", type=Path, help="a file for the statements that were committed")
    parser.add_argument(
        "--copied", action="store_true", help="no rewritten row goes into the log: tables are copied instead"
    )
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="schema-fuzz-") as folder,
        (given.log or Path(os.devnull)).open("w", encoding="utf-8") as said,
        site(Path(folder)) as pipeline,
    ):
        if given.copied:
            pipeline.source.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 0")
        fuzz = Fuzz(pipeline, given.seed, said.write)
        for number in range(given.rounds):
            found = fuzz.round()
            if found:
                print(f"seed {given.seed}, round {number}: {found}", file=sys.stderr)
                return 1
            print(f"seed {given.seed}, round {number}: source and replica agree", flush=True)
    return 0


@contextmanager
def site(folder: Path) -> Iterator[Pipeline]:
    folder.chmod(0o755)
    guard_ours(folder)  # ends the servers even if we are killed
    servers = start_source(folder / "source"), start_replica(folder / "replica")
    try:
        source, replica = (server.new_database() for server in servers)
        pipeline = make_pipeline(folder, source, replica, f"file://{folder}/log")
        applied = {kind.value: "apply" for kind in Kind if kind not in NEVER_APPLIED}
        pipeline.settings["schema"] = {"policies": {**applied, "owner": "ignore"}}
        pipeline.write_config()
        source.execute(BEGIN)
        install_triggers(source)
        try:
            yield pipeline
        finally:
            pipeline.end()
    finally:
        for server in servers:
            server.postgres.crash()


class Fuzz:
    """Two sessions that alter, and kills; `said` hears of each transaction that was committed."""

    def __init__(self, pipeline: Pipeline, seed: int, said: Callable[[str], object]) -> None:
        self._pipeline = pipeline
        self._chance = random.Random(seed)
        self._said = said
        self._running = pipeline.start("run")
        pipeline.wait(120)

    def round(self) -> str:
        """What differs at its end, or has stopped; empty for nothing."""
        stop = threading.Event()
        beside = threading.Thread(target=self._beside, args=[self._chance.random(), stop])
        beside.start()
        try:
            with closing(_session(self._pipeline.source)) as session:
                for _ in range(TRANSACTIONS):
                    self._transaction(session, self._chance, ddl=0.5)
                    self._kill()
        finally:
            stop.set()
            beside.join()
        return self._stopped() or self._not_copied() or self._difference()

    def _beside(self, seed: float, stop: threading.Event) -> None:
        chance = random.Random(seed)
        with closing(_session(self._pipeline.source)) as session:
            while not stop.is_set():
                self._transaction(session, chance, ddl=0.2)

    def _transaction(
        self, session: psycopg.Connection[tuple[object, ...]], chance: random.Random, *, ddl: float
    ) -> None:
        statements, done = Statements(session, chance), []
        is_undone = chance.random() < 0.1
        with suppress(psycopg.Error):
            with session.transaction(force_rollback=is_undone):
                for _ in range(chance.randrange(1, 7)):
                    with suppress(psycopg.Error), session.transaction():
                        statement = statements.ddl() if chance.random() < ddl else statements.dml()
                        if statement:
                            session.execute(statement.encode())
                            done.append(statement)
            if done and not is_undone:
                self._said("begin;\n" + ";\n".join(done) + ";\ncommit;\n")

    def _kill(self) -> None:
        """One stage, or all of them, which are then started again."""
        stage = self._chance.choice(("capture", "standby", "run", *[""] * 20))
        if stage == "run":
            self._running.kill()
            self._running = self._pipeline.start("run")
        elif stage:
            pids = re.findall(rf"stage started stage={stage} pid=(\d+)", self._running.output)
            with suppress(ProcessLookupError, IndexError):
                os.kill(int(pids[-1]), 9)

    def _stopped(self) -> str:
        deadline = time.monotonic() + 90
        while self._pipeline.source.execute_as_admin(_UNPUBLISHED) != [(0,)]:
            if not self._running.alive or time.monotonic() > deadline:
                return f"tables have not joined\n{_end_of(self._running)}"
            time.sleep(0.2)
        waited = self._pipeline.run("wait", "standby", "--timeout", "90", timeout_s=120)
        return f"{waited.stderr}\n{_end_of(self._running)}" if waited.code else ""

    def _not_copied(self) -> str:
        """Of tables that await their copy, they or their keys."""
        replica = self._pipeline.replica
        if replica.execute_as_admin("select to_regclass('keepstream.schema_left_out')") == [(None,)]:
            return ""
        tables = [table for (table,) in replica.execute_as_admin(_AWAITING)]
        if tables:
            copied = self._pipeline.run("snapshot", "standby", *tables)
            if copied.code or replica.execute_as_admin(_AWAITING):
                return f"{tables} were not copied\n{copied.stderr}\n{_end_of(self._running)}"
        return ""

    def _difference(self) -> str:
        source, replica = self._pipeline.source, self._pipeline.replica
        return _diff(_rows(source), _rows(replica)) or _diff(_schema(source), _schema(replica))


def _session(database: Database) -> psycopg.Connection[tuple[object, ...]]:
    session = database.connect()
    session.execute("set lock_timeout = '3s'; set client_min_messages = warning")
    return session


def _schema(database: Database) -> list[str]:
    return [_CHOSEN_NAME.sub(" NOT NULL", line) for line in dumped_lines(database)]


def _rows(database: Database) -> list[str]:
    """By column names: those that are inherited stand elsewhere in a table that pg_dump wrote."""
    return [
        f"{table} {row}"
        for (table,) in database.execute_as_admin(_TABLES)
        for (row,) in database.execute_as_admin(f"select to_jsonb(r)::text from only {table} r order by 1")
    ]


def _diff(source: list[str], replica: list[str]) -> str:
    return "\n".join(difflib.unified_diff(source, replica, "source", "replica", lineterm="", n=0))


def _end_of(running: Running) -> str:
    return running.output[-3000:]


if __name__ == "__main__":
    sys.exit(main())
