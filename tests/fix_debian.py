"""`debian_pipeline`: a pipeline between two servers of Debian's PostgreSQL, which has what the wheel's lacks:
xml, ICU, lz4, and TLS, over which everything goes here.

Where it is not installed the test is skipped; `.ci/run` installs it, so in CI it fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.dev.process import server_account
from tests.certificates import ServerCertificates, make_certificates
from tests.fix_pipeline import Pipeline, make_pipeline
from tests.fix_postgres import Database, start_replica, start_source


@dataclass(frozen=True)
class Secured:
    """A pipeline between servers that speak TLS, whose sessions prove whom they speak to."""

    pipeline: Pipeline
    certificates: ServerCertificates

    def trust(self, authority: Path) -> None:
        """Let every session of the pipeline require a certificate of this CA for its host."""
        options = f"?sslmode=verify-full&sslrootcert={authority}"
        self.pipeline.settings["source"]["url"] = self.pipeline.source.dsn + options
        self.pipeline.settings["replicas"]["standby"]["url"] = self.pipeline.replica.dsn + options
        self.pipeline.write_config()


@pytest.fixture(scope="session")
def debian_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    missing = "Debian's PostgreSQL is not installed (apt-get install postgresql)"
    if os.environ.get("CI"):
        pytest.fail(f"CI must run these tests, but {missing}")
    pytest.skip(missing)


@pytest.fixture
def debian_pipeline(
    server_folder: Path, tmp_path: Path, debian_programs: Path, directory_url: str
) -> Iterator[Secured]:
    certificates = make_certificates(tmp_path)
    settings = {"ssl": "on", **_written(server_folder, certificates)}
    servers = [
        start(server_folder / side, settings, programs=debian_programs)
        for side, start in (("source", start_source), ("replica", start_replica))
    ]
    source, replica = databases = [server.new_database() for server in servers]
    made = Secured(make_pipeline(tmp_path, source, replica, directory_url), certificates)
    made.trust(certificates.ca)
    yield made
    made.pipeline.end()
    for database in databases:
        database.disconnect()
        database.server.crash()


def _written(folder: Path, certificates: ServerCertificates) -> dict[str, str]:
    """The server's certificate and key, where it reads them, and the settings that say so."""
    account = server_account()
    settings = {}
    for name, text in (("cert", certificates.chain), ("key", certificates.key)):
        path = folder / f"server-{name}.pem"
        path.touch(mode=0o600)
        path.write_text(text)
        if account.other:
            os.chown(path, account.uid, account.gid)
        settings[f"ssl_{name}_file"] = f"'{path}'"
    return settings


def unencrypted_sessions(database: Database) -> int:
    """How many of the product's sessions on this server go without TLS."""
    ((count,),) = database.execute_as_admin(
        "select count(*) from pg_stat_activity a join pg_stat_ssl s using (pid)"
        " where a.usename = 'keepstream' and not s.ssl"
    )
    return int(count)
