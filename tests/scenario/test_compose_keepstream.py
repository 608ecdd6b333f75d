"""Keepstream's own service in docker-compose.yml: its command and its health check, run as they stand."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.fix_pipeline import Pipeline

SERVICE = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text())["services"][
    "keepstream"
]


def test_the_health_check_tells_a_working_pipeline_from_a_stopped_one(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    kind, program, *health = SERVICE["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "keepstream")
    assert pipeline.run(*health).code != 0
    pipeline.source.execute("create table customer (id int primary key)")
    running = pipeline.start(*SERVICE["command"])
    pipeline.wait()
    pipeline.until(lambda: pipeline.run(*health).code == 0, "a healthy service")
    assert running.end() == 0
    pipeline.until(lambda: pipeline.run(*health).code == 7, "an unhealthy service")
