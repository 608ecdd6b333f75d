"""`roles`: an application's roles on both servers, gone after the test and the databases in which they own
something. The product is a member of those on the replica that own objects."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.fix_postgres import PRODUCT, Server


@dataclass(frozen=True)
class Roles:
    """`app` and `boss` own objects, `chief` grants to others, `reader` (whose name is quoted) only reads."""

    app: str
    boss: str
    chief: str
    reader: str

    def fill(self, script: str) -> str:
        """`<app>` and the others in SQL."""
        for name in ("app", "boss", "chief", "reader"):
            script = script.replace(f"<{name}>", '"' + getattr(self, name).replace('"', '""') + '"')
        return script

    def make(self, server: Server) -> None:
        self._run(server, "create role <app>; create role <boss>; create role <chief>; create role <reader>")

    def lend(self, server: Server) -> None:
        """To the product, as `check` asks for."""
        self._run(server, f"grant <app>, <boss>, <chief> to {PRODUCT}")

    def drop(self, server: Server) -> None:
        self._run(server, "drop role if exists <app>, <boss>, <chief>, <reader>")

    def _run(self, server: Server, script: str) -> None:
        with psycopg.connect(server.postgres.dsn(), autocommit=True) as connection:
            connection.execute(self.fill(script).encode())


@pytest.fixture
def roles(source_server: Server, replica_server: Server) -> Iterator[Roles]:
    token = secrets.token_hex(4)
    made = Roles(f"app_{token}", f"boss_{token}", f"chief_{token}", f'the "reader" of {token}')
    try:
        for server in (source_server, replica_server):
            made.make(server)
        made.lend(replica_server)
        yield made
    finally:
        for server in (source_server, replica_server):
            made.drop(server)
