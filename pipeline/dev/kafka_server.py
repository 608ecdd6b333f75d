"""A real Apache Kafka of one's own: one process, broker and controller in one (KRaft).

Its folder holds `data`, `server.properties`, `server.log` and `server.json`. The jars come from Maven
once and stay in the cache. Needs Java 17 or newer, and Maven for the first time.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from pipeline.dev.folders import cache_folder, filled_once
from pipeline.dev.process import (
    Account,
    ProcessId,
    ServerProcess,
    answers_on,
    free_port,
    last_lines,
    launch,
    process_id,
    require,
    require_reachable,
    run,
    server_account,
    wait_until,
)
from pipeline.dev.record import ServerRecord, read_record, write_record
from schemas.errors import InternalError, OperatorNeeded, RetryLater, Unhealthy

_POM = Path(__file__).with_name("kafka-pom.xml")
_MIN_JAVA = 17
_START_S = 90.0
_STOP_S = 30.0
_ATTEMPTS = 5
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # After a crash the broker is let in again only when its old session has expired.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "num.network.threads": "2",
    "num.io.threads": "4",
}
# A small machine's JVM: the serial collector starts fastest and has no threads of its own.
_JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")
_QUICK_START = "-XX:TieredStopAtLevel=1"


class EmbeddedKafka:
    """One broker in one folder. `settings` go into server.properties, over our own.

    `short_lived`: for seconds or minutes; it starts with half the processor time and never gets as fast.
    """

    def __init__(
        self, folder: Path, *, settings: Mapping[str, str] | None = None, short_lived: bool = False
    ) -> None:
        self.folder = folder.absolute()
        self._settings = dict(settings or {})
        self._jvm = (*_JVM, _QUICK_START) if short_lived else _JVM
        self._account = server_account()
        self._child: ServerProcess | None = None

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:port`, what clients call bootstrap.servers."""
        return f"127.0.0.1:{self._record().port}"

    @property
    def pid(self) -> int | None:
        """The JVM's pid, None while the server is down."""
        record = read_record(self.folder)
        return record.process.pid if record and record.process and record.is_running() else None

    def exists(self) -> bool:
        """Whether it was ever started in its folder."""
        return read_record(self.folder) is not None

    def is_running(self) -> bool:
        return self.pid is not None

    def start(self) -> None:
        """Format the folder if it is new and start the broker; returns when it answers. Idempotent."""
        if self.is_running():
            return
        self._has_ended()  # takes note of it if somebody killed our child: a zombie still holds its pid
        java, class_path = require_java(), resolve_jars(self._account)
        if not self._data.exists():
            self._initialise(java, class_path)
        for _ in range(_ATTEMPTS):
            complaint = self._launch(java, class_path)
            if complaint is None:
                return
            if "Address already in use" not in complaint:
                raise OperatorNeeded(
                    f"Kafka did not start in {self.folder}: {last_lines(complaint)}",
                    code="kafka-start-failed",
                    hint=f"Mend what {self.log} names, or delete {self.folder} to begin anew.",
                )
            write_record(self.folder, replace(self._record(), port=free_port(), process=None))
        raise RetryLater(
            f"found no free port for the Kafka in {self.folder}",
            code="no-free-port",
            hint="Stop servers that are no longer needed: `ss -ltn` lists them.",
        )

    def stop(self) -> None:
        """End it in good order. Idempotent."""
        self._end(signal.SIGTERM)

    def crash(self) -> None:
        """End it at once, as a power cut would."""
        self._end(signal.SIGKILL)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _record(self) -> ServerRecord:
        record = read_record(self.folder)
        if record is None:
            raise InternalError(f"no server was started in {self.folder}", code="server-not-started")
        return record

    def _initialise(self, java: str, class_path: str) -> None:
        """Format the log folder beside its place and move it there whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        require_reachable(self._data, self._account)
        draft = self.folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "tmp").mkdir(parents=True, mode=0o700)
        if self._account.other:
            for path in (draft, draft / "tmp"):
                os.chown(path, self._account.uid, self._account.gid)
        # Format needs a port, though it binds none; the start chooses the real ones.
        write_record(self.folder, ServerRecord("kafka", free_port(), "", None))
        properties = self._write_properties(controller_port=free_port(), data=draft)
        storage = ["kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(properties)]
        run([java, *_JVM, _QUICK_START, "-cp", class_path, *storage], account=self._account)
        draft.rename(self._data)
        self.log.touch(mode=0o644)

    def _write_properties(self, *, controller_port: int, data: Path) -> Path:
        """Written anew at each start: the ports may have changed."""
        port = self._record().port
        values = {
            **_SETTINGS,
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "log.dirs": str(data / "log"),
            **self._settings,
        }
        path = self.folder / "server.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        path.chmod(0o644)
        return path

    def _launch(self, java: str, class_path: str) -> str | None:
        """Start the broker and wait until it answers; what it said if it ended instead."""
        properties = self._write_properties(controller_port=free_port(), data=self._data)
        log_start = self.log.stat().st_size
        command = [java, *self._jvm, f"-Djava.io.tmpdir={self._data / 'tmp'}", "-cp", class_path]
        self._child = launch([*command, "kafka.Kafka", str(properties)], account=self._account, log=self.log)
        self._write_process(process_id(self._child.pid))
        try:
            require(lambda: self._has_ended() or self._answers(), _START_S, what="the start of Kafka")
        except Unhealthy:
            self.crash()
            raise
        if not self._has_ended():
            return None
        with open(self.log, errors="replace") as log:
            log.seek(log_start)
            return log.read()

    def _answers(self) -> bool:
        """Whether the broker is registered and unfenced, so that topics can be created."""
        if not answers_on(self._record().port):
            return False
        try:
            client = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=1000)
        except KafkaError:
            return False
        try:
            return bool(client.describe_cluster()["brokers"])
        except KafkaError:
            return False
        finally:
            client.close()

    def _has_ended(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    def _end(self, number: signal.Signals) -> None:
        record = read_record(self.folder)
        if record is None or record.process is None:
            return
        process = record.process
        process.signal(number)
        if not wait_until(lambda: self._has_ended() or not process.is_alive(), _STOP_S):
            process.signal(signal.SIGKILL)
            require(lambda: not process.is_alive(), _STOP_S, what="the end of Kafka")
        if self._child is not None:
            self._child.wait()
            self._child = None
        self._write_process(None)

    def _write_process(self, process: ProcessId | None) -> None:
        write_record(self.folder, replace(self._record(), process=process))


def why_no_kafka() -> str:
    """Empty where a Kafka can be had on this machine, otherwise what is missing."""
    try:
        require_java()
        if not _jars_folder(server_account()).exists():
            _require_maven()
    except OperatorNeeded as error:
        return error.message
    return ""


def require_java() -> str:
    """The path of a Java that Kafka runs on. Raises OperatorNeeded (`java-missing`)."""
    hint = f"Install Java {_MIN_JAVA} or newer, for example `apt-get install default-jre-headless maven`."
    home = os.environ.get("JAVA_HOME")
    java = (shutil.which("java", path=str(Path(home, "bin"))) if home else None) or shutil.which("java")
    if java is None:
        raise OperatorNeeded("Java is not installed", code="java-missing", hint=hint)
    said = run([java, "-version"], account=server_account())
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < _MIN_JAVA:
        raise OperatorNeeded(f"{java} is older than Java {_MIN_JAVA}", code="java-missing", hint=hint)
    return java


def _require_maven() -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise OperatorNeeded(
            "Maven, which fetches Kafka's jars, is not installed",
            code="maven-missing",
            hint="Install it, for example with `apt-get install maven`.",
        )
    return maven


def resolve_jars(account: Account | None = None, pom: Path = _POM) -> str:
    """The class path of what a pom names, Kafka's own unless told; fetched if it is not in the cache yet."""
    folder = _jars_folder(account or server_account(), pom)
    return f"{filled_once(folder, lambda draft: _fetch_jars(draft, pom))}/*"


def _jars_folder(account: Account, pom: Path = _POM) -> Path:
    return cache_folder(account) / f"kafka-{sha256(pom.read_bytes()).hexdigest()[:12]}"


def _fetch_jars(target: Path, pom: Path) -> None:
    """Run Maven as ourselves: it needs the user's settings and repository."""
    maven = _require_maven()
    with tempfile.TemporaryDirectory() as project:
        shutil.copy(pom, Path(project) / "pom.xml")
        command = [maven, "-B", "-q", "-Dstyle.color=never", "dependency:copy-dependencies"]
        command.append(f"-DoutputDirectory={target}")
        fetched = subprocess.run(
            command,
            cwd=project,
            env=_maven_environment(),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    if fetched.returncode:
        raise OperatorNeeded(
            f"Maven could not fetch Kafka's jars: {last_lines(fetched.stdout + fetched.stderr)}",
            code="kafka-jars-unavailable",
            hint="Check that Maven reaches its repository: `mvn -q dependency:get "
            "-Dartifact=org.apache.kafka:kafka-clients:4.4.0`.",
        )


def _maven_environment() -> dict[str, str]:
    """Java takes the home from the user database, whatever $HOME says: where nobody can write there, an
    account like `nobody`, the repository goes to $HOME."""
    environment, home = dict(os.environ), os.environ.get("HOME")
    if home and not os.access(_home_of_record(), os.W_OK):
        environment["MAVEN_OPTS"] = f"{environment.get('MAVEN_OPTS', '')} -Duser.home={home}".strip()
    return environment


def _home_of_record() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # in a container, often
        return ""


def _cluster_id() -> str:
    """Kafka's form of a random UUID: 22 characters of URL-safe base64, no dash in front."""
    while (name := secrets.token_urlsafe(16)).startswith("-"):
        pass
    return name
