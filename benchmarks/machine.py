"""What a run ran on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import psycopg

from benchmarks.servers import Servers
from pipeline.dev.kafka_server import resolve_jars, why_no_kafka


def describe_machine(servers: Servers) -> dict[str, object]:
    """`memory_bytes` and versions as their owners write them; `kafka` is None where there is none."""
    with psycopg.connect(servers.source.dsn()) as connection:
        ((postgres,),) = connection.execute("show server_version").fetchall()
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgres": str(postgres),
        "kafka": _kafka(),
    }


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except FileNotFoundError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _kafka() -> str | None:
    if why_no_kafka():
        return None
    for jar in Path(resolve_jars().removesuffix("/*")).glob("kafka-clients-*.jar"):
        return jar.stem.removeprefix("kafka-clients-")
    return None
