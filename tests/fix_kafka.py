"""`kafka_server`: the bootstrap address of a real Kafka, one for the whole run, shared by its workers."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.dev.kafka_server import EmbeddedKafka, resolve_jars, why_no_kafka


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch the jars here, where no test's time limit runs."""
    wanted = any("kafka_server" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly and not why_no_kafka():
        resolve_jars()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def kafka_server(run_folder: Path) -> str:
    """`127.0.0.1:port`. Topics are shared with other tests: use names of your own.

    Where Kafka cannot be had the test is skipped; in CI it fails.
    """
    missing = why_no_kafka()
    if missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the Kafka tests, but {missing}")
        pytest.skip(f"no Kafka here: {missing}")
    server = EmbeddedKafka(run_folder / "kafka", short_lived=True)
    with _alone(run_folder / "kafka.lock"):
        server.start()
    return server.bootstrap


@pytest.fixture
def own_kafka(server_folder: Path, kafka_server: str) -> Iterator[EmbeddedKafka]:
    """A Kafka of the test's own, started: to crash, freeze or reconfigure it."""
    server = EmbeddedKafka(server_folder / "kafka", short_lived=True)
    server.start()
    yield server
    server.crash()
