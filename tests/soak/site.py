"""The ground of a soak: servers that it may crash, a log on a small disk, and proxies before all of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.dev.guard import guard_ours
from pipeline.dev.kafka_server import EmbeddedKafka
from pipeline.dev.process import free_port
from pipeline.dev.record import kill_below
from tests.fix_postgres import Server, start_replica, start_source
from tests.nursery import Nursery
from tests.soak.proxy import Proxy

LOG_DISK_MIB = 2048
REPLICA_DISK_MIB = 512
SET_CHANGES = "4"
_WAL = {"max_wal_size": "64MB", "min_wal_size": "32MB", "wal_writer_delay": "50ms"}


class ProxiedKafka(EmbeddedKafka):
    """A broker with a second listener, whose clients are told to come through a proxy."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.proxied_port = free_port()
        self.proxy = Proxy(lambda: self.proxied_port)

    def _write_properties(self, *, controller_port: int, data: Path) -> Path:
        path = super()._write_properties(controller_port=controller_port, data=data)
        port = self._record().port
        listeners = f"PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{self.proxied_port}"
        with open(path, "a") as file:  # of two lines with one key the last one counts
            file.write(f"listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}\n")
            file.write(
                f"advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{self.proxy.port}\n"
            )
            file.write("inter.broker.listener.name=PLAINTEXT\n")
            file.write(
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            )
        return path


class Disk:
    """A folder that can be full: a tmpfs of its own where we may mount one."""

    def __init__(self, folder: Path, size_mib: int) -> None:
        self.folder = folder
        folder.mkdir(mode=0o711)
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=711", "tmpfs", str(folder)]
        self.is_small = os.geteuid() == 0 and not subprocess.run(mounting, capture_output=True).returncode
        self._ballast = folder / "ballast"

    def fill(self, *, left_bytes: int = 0) -> None:
        """Until so many bytes are left."""
        free = shutil.disk_usage(self.folder).free - left_bytes
        if free > 0:
            with open(self._ballast, "wb") as file, contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, free)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        if self.is_small:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)


class Site:
    """Everything that outlives a world. `kafka` is None where the log is a directory."""

    def __init__(self, folder: Path, log: str) -> None:
        self.folder = folder
        self.kills = folder / "kills"
        self.log_disk = Disk(folder / "log", LOG_DISK_MIB)
        self.replica_disk = Disk(folder / "disk", REPLICA_DISK_MIB)
        self.nursery = Nursery({"KEEPSTREAM_SET_CHANGES": SET_CHANGES}, hurried=True)
        self.source: Server = start_source(folder / "source", _WAL)
        self.replica: Server = start_replica(self.replica_disk.folder / "replica", _WAL)
        self.kafka: ProxiedKafka | None = None
        if log == "kafka":
            self.kafka = ProxiedKafka(folder / "kafka")
            self.kafka.start()
        self.proxies = {
            "source": Proxy(lambda: self.source.postgres.port),
            "replica": Proxy(lambda: self.replica.postgres.port),
        }
        if self.kafka is not None:
            self.proxies["kafka"] = self.kafka.proxy

    @property
    def log_url(self) -> str:
        """For keepstream: through the proxy."""
        if self.kafka is not None:
            return f"kafka://127.0.0.1:{self.kafka.proxy.port}"
        return f"file://{self.log_disk.folder}"

    @property
    def witnessed_log_url(self) -> str:
        """For the checker: straight to the broker."""
        return f"kafka://{self.kafka.bootstrap}" if self.kafka is not None else self.log_url

    def close(self) -> None:
        self.nursery.close()
        for proxy in self.proxies.values():
            proxy.close()
        self.log_disk.free()
        self.replica_disk.free()
        kill_below(self.replica_disk.folder)
        self.replica_disk.close()
        self.log_disk.close()


@contextlib.contextmanager
def open_site(log: str) -> Iterator[Site]:
    """In a folder of its own, whose servers end with us."""
    folder = Path(tempfile.mkdtemp(prefix="keepstream-soak-"))
    folder.chmod(0o711)
    guard_ours(folder)
    site = Site(folder, log)
    try:
        yield site
    finally:
        site.close()
        kill_below(folder)
