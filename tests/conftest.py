"""What every test run has: one folder for its servers, ended and deleted with the run, however it ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pipeline.dev.guard import guard
from pipeline.dev.process import process_id
from pipeline.dev.record import kill_below

pytest_plugins = [
    "tests.fix_postgres",
    "tests.fix_kafka",
    "tests.fix_pipeline",
    "tests.fix_debian",
    "tests.fix_apply",
    "tests.fix_standby",
    "tests.fix_ddl",
    "tests.fix_roles",
]

# A busy machine makes an example slow: no failure. CI tries the same examples each time. `./test --thorough`
# asks for more than ten times as many; where a test says how many it wants, that stands.
_SLOW_IS_FINE = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile(
    "keepstream", deadline=None, derandomize="CI" in os.environ, max_examples=60, stateful_step_count=30
)
hypothesis.settings.register_profile(
    "thorough", deadline=None, max_examples=1000, stateful_step_count=60, suppress_health_check=_SLOW_IS_FINE
)
hypothesis.settings.load_profile("keepstream")

_RUN_FOLDER = "KEEPSTREAM_TEST_RUN"  # inherited by pytest-xdist's workers
_MARKED_BY_FIXTURE = {"kafka_server": "kafka", "source_server": "postgres", "replica_server": "postgres"}


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="keepstream-test-")
        Path(folder).chmod(0o711)  # servers may run under another account
        os.environ[_RUN_FOLDER] = folder
        owner = process_id(os.getpid())
        assert owner is not None
        guard(owner, Path(folder))


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and _RUN_FOLDER in os.environ:
        kill_below(Path(os.environ.pop(_RUN_FOLDER)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_lasts_s, reverse=True)  # else all wait for the long ones at the end
    for item in items:
        for fixture, marker in _MARKED_BY_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
        values = getattr(item, "callspec", None)
        if item.get_closest_marker("slow_on_kafka") and values and "kafka" in values.params.values():
            item.add_marker("slow")


def _lasts_s(item: pytest.Item) -> float:
    """Of a long test: about how long where four share two cores."""
    marker = item.get_closest_marker("long")
    return 0.0 if marker is None else float(marker.args[0])


@pytest.fixture(scope="session")
def run_folder() -> Path:
    """The run's folder, shared by its workers. Servers started below it end with the run."""
    return Path(os.environ[_RUN_FOLDER])


@pytest.fixture
def server_folder(run_folder: Path) -> Iterator[Path]:
    """A folder for one test's own servers, which an unprivileged account can reach."""
    folder = Path(tempfile.mkdtemp(dir=run_folder, prefix="own-"))
    folder.chmod(0o711)
    yield folder
    kill_below(folder)
    shutil.rmtree(folder, ignore_errors=True)
