"""`./demo`: the steps of the story, in order, and an exit code that means what it says.

0: source and replica are identical. 6: they are not, and the row is named. 130: interrupted. Anything
else: a step failed, with its code and hint.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.cli.output import human_bytes, human_seconds
from pipeline.demo.commands import Finished, Keepstream, Running
from pipeline.demo.crm import Crm
from pipeline.demo.ending import show_business, show_latency, show_replicated, show_verdict
from pipeline.demo.kills import Kills
from pipeline.demo.latency import VisibleCustomers
from pipeline.demo.livestatus import LiveStatus
from pipeline.demo.proof import alter_one_value, differing_tables
from pipeline.demo.screen import Screen
from pipeline.demo.tally import Tally
from pipeline.demo.traffic import Traffic
from pipeline.dev.environment import DATABASE, Environment, Kafka
from pipeline.dev.folders import data_folder
from pipeline.dev.guard import guard_ours
from pipeline.dev.kafka_server import why_no_kafka
from pipeline.dev.process import server_account
from pipeline.dev.record import kill_below
from schemas.errors import Divergence, InternalError, KeepstreamError, OperatorNeeded, Unhealthy

REPLICA = "standby"
"""What the configuration calls the replica."""

_COPY_S = 120.0
_TICK_S = 0.1
_COLUMNS = ("time", "acts", "customers", "state", "lag", "lag bytes", "slot keeps", "latency")


def main() -> int:
    options = _parse()
    screen = Screen()
    signal.signal(signal.SIGTERM, _interrupt)
    folder = data_folder(server_account()) / f"demo-{os.getpid()}"
    try:
        if options.stop:
            kill_below(_kept(options.stop))
            return 0
        with ExitStack() as cleanup:
            cleanup.callback(_clean_up, folder, screen, keep=options.keep)
            return Story(folder, screen, options, cleanup).tell()
    except KeyboardInterrupt:
        screen.say("interrupted; everything that was started has been stopped", "yellow")
        return 130
    except KeepstreamError as error:
        screen.say(f"error {error.code}: {error.message}", "bold red")
        screen.say(error.hint)
        return error.exit_code


class Story:
    """One run. What it starts is stopped by `cleanup`, in reverse order."""

    def __init__(self, folder: Path, screen: Screen, options: argparse.Namespace, cleanup: ExitStack) -> None:
        self._folder = folder
        self._screen = screen
        self._options = options
        self._cleanup = cleanup
        self._servers = Environment(folder)
        self._keepstream = Keepstream(folder / "keepstream.yaml")

    def tell(self) -> int:
        log_url = self._start_servers()
        crm = self._install_crm()
        self._set_up(log_url)
        traffic, running = self._first_copy(crm)
        visible, kills = self._work(traffic, running)
        verified = self._prove(running)
        if self._options.sabotage and verified["identical"]:
            show_verdict(self._screen, verified)
            verified = self._sabotage(running)
        Finished("run", running.stop(), "", "SIGTERM should end it with 0").require_success()
        self._sum_up(verified, traffic, visible, kills)
        return 0 if verified["identical"] else Divergence.exit_code

    def _start_servers(self) -> str:
        """The change log's URL."""
        self._screen.step("A source, a replica and a change log")
        kafka = self._kafka()
        with self._screen.working("starting servers on 127.0.0.1"):
            self._folder.mkdir(mode=0o755)
            if not self._options.keep:
                guard_ours(self._folder)  # for a SIGKILL of the demo itself
            self._servers.up(kafka=kafka)
        for server in self._servers.status():
            self._screen.say(f"{server.name:8} {server.address}")
        if kafka is Kafka.NONE:
            self._screen.say(f"log      {self._folder / 'log'}")
            return self._servers.directory_url
        return self._servers.kafka_url

    def _kafka(self) -> Kafka:
        missing = why_no_kafka()
        if self._options.log == "directory":
            self._screen.say("the change log is a directory, as asked for")
        elif not missing:
            return Kafka.REQUIRED
        elif self._options.log == "kafka":
            raise OperatorNeeded(
                f"Kafka cannot be started here: {missing}",
                code="kafka-unavailable",
                hint="Install Java 17 or newer and Maven, or run `./demo --directory`.",
            )
        else:
            self._screen.say(f"no Kafka here ({missing}): the change log is a directory", "yellow")
        return Kafka.NONE

    def _install_crm(self) -> Crm:
        self._screen.step("A real CRM: Tryton with parties, opportunities, sales, stock and accounting")
        crm = Crm(self._servers)
        work = "restoring the database that an earlier run made" if crm.is_cached else "installing (once)"
        with self._screen.working(work) as tell:
            crm.make(tell)
        return crm

    def _set_up(self, log_url: str) -> None:
        self._screen.step("keepstream init, keepstream check")
        arguments = ["--name", "crm", "--log", log_url, "--keyless", "full"]
        arguments += ["--source", self._without_password("source", self._servers.source_dsn)]
        arguments += [
            "--replica",
            f"{REPLICA}={self._without_password('replica', self._servers.replica_dsn)}",
        ]
        self._keepstream.call("init", *arguments).require_success()
        self._screen.say(f"wrote {self._folder / 'keepstream.yaml'}")
        self._screen.say("keyless: full, because Tryton updates its table ir_cache, which has no primary key")
        with self._screen.working("keepstream check"):
            checked = self._keepstream.call("check").require_success()
        for line in checked.output.strip().splitlines():
            self._screen.say(line, "dim")

    def _without_password(self, name: str, dsn: str) -> str:
        """The connection string for a command line and a file: the password lies in a file of its own."""
        user, _, rest = dsn.removeprefix("postgresql://").partition(":")
        password, _, place = rest.partition("@")
        secret = self._folder / f"{name}.password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        return f"postgresql://{user}:${{file:{secret}}}@{place}"

    def _first_copy(self, crm: Crm) -> tuple[Traffic, Running]:
        self._screen.step("keepstream run: the first copy, while the sales team goes on working")
        options = self._options
        traffic = Traffic(
            crm, rate=options.rate, seconds=3600, seed=options.seed, log=self._folder / "traffic.log"
        )
        self._cleanup.callback(traffic.stop)
        running = self._keepstream.run(self._folder / "run.log")
        self._cleanup.callback(running.stop)
        self._status = LiveStatus(self._keepstream, REPLICA)
        self._cleanup.callback(self._status.stop)
        deadline = time.monotonic() + _COPY_S
        with self._screen.working("copying") as tell:
            while not (seen := self._status.latest).copied:
                running.require_alive()
                traffic.require_alive()
                if time.monotonic() > deadline:
                    raise Unhealthy(
                        f"the first copy did not end within {_COPY_S:g} s",
                        code="demo-copy-timeout",
                        hint="Run `./demo --keep` and look at run.log in the folder that it names.",
                    )
                tell(f"{seen.copy_progress()}; {traffic.total_acts} acts of business meanwhile")
                time.sleep(_TICK_S)
        if copy := self._status.copy:
            self._screen.say(f"{copy.rows_copied()} in {copy.copy['tables_total']} tables")
        return traffic, running

    def _work(self, traffic: Traffic, running: Running) -> tuple[VisibleCustomers, Kills]:
        self._screen.step("Business as usual, and three kills")
        visible = VisibleCustomers(self._servers.replica.dsn(DATABASE))
        self._cleanup.callback(visible.stop)
        kills = Kills(running, seconds=self._options.seconds)
        end, shown = time.monotonic() + self._options.seconds, 0
        with self._screen.rolling(_COLUMNS) as rolling:
            while time.monotonic() < end or not kills.all_done:
                running.require_alive()
                traffic.require_alive()
                if event := kills.tick(traffic, visible):
                    rolling.event(event, "red" if event.startswith("SIGKILL") else "green")
                if self._status.count > shown:
                    shown = self._status.count
                    rolling.add(self._figures(traffic, visible))
                time.sleep(_TICK_S)
        traffic.stop()
        self._status.stop()
        return visible, kills

    def _figures(self, traffic: Traffic, visible: VisibleCustomers) -> list[str]:
        """One row of the live table: ours, and what `status` says now."""
        seen, samples = self._status.latest, visible.samples(traffic.commits[-20:])
        return [
            human_seconds(self._screen.elapsed_s()),
            str(traffic.total_acts),
            str(len(traffic.commits)),
            seen.state or "-",
            human_seconds(seen.lag_s),
            human_bytes(seen.lag_bytes),
            human_bytes(seen.retained_bytes),
            human_seconds(samples[-1].latency_s if samples else None),
        ]

    def _prove(self, running: Running) -> Any:
        """What `keepstream verify` found."""
        self._screen.step("keepstream wait, keepstream verify: the proof")
        with self._screen.working("waiting until the replica holds all that was committed"):
            self._keepstream.call("wait", REPLICA, "--timeout", "60").require_success()
        return self._compare(running)

    def _sabotage(self, running: Running) -> Any:
        """The same proof when it must fail."""
        table, key = alter_one_value(self._servers.replica.dsn(DATABASE))
        self._screen.step("One value altered on the replica: the proof must find it")
        self._screen.say(f"sabotage: a value of {table}, row id {key}, altered on the replica", "yellow")
        return self._compare(running)

    def _compare(self, running: Running) -> Any:
        with self._screen.working("comparing every table at one LSN"):
            called = self._keepstream.call("verify", REPLICA, "--json")
        if called.code not in (0, Divergence.exit_code):
            called.require_success()
        verified = called.json()
        with self._screen.working("and once more in plain SQL, outside of Keepstream"):
            differing = differing_tables(
                self._servers.source.dsn(DATABASE), self._servers.replica.dsn(DATABASE)
            )
        self._compare_opinions(called, differing)
        running.require_alive()
        return verified

    def _compare_opinions(self, called: Finished, differing: Sequence[str]) -> None:
        """Raises InternalError (`demo-proof-disagrees`) unless both proofs and the exit code agree."""
        verified = called.json()
        named = sorted(table["table"] for table in verified["tables"] if not table["identical"])
        if named != differing or verified["identical"] == bool(differing) or bool(called.code) != bool(named):
            raise InternalError(
                f"`keepstream verify` ended with {called.code} and names {named or 'no table'}, "
                f"plain SQL names {differing or 'none'}",
                code="demo-proof-disagrees",
                hint="This is a bug in Keepstream: please report it.",
            )

    def _sum_up(self, verified: Any, traffic: Traffic, visible: VisibleCustomers, kills: Kills) -> None:
        with self._screen.working("counting what went through the log"):
            tally = Tally.of(
                self._keepstream.lines("events", "tail", "--json", "--from", "start", "--no-follow")
            )
        show_replicated(self._screen, verified, tally)
        show_business(self._screen, traffic)
        show_latency(self._screen, visible.samples(traffic.commits), kills)
        show_verdict(self._screen, verified)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./demo",
        description="Keepstream's story on a real CRM. Exit code 0 only if source and replica are identical.",
    )
    log = parser.add_mutually_exclusive_group()
    log.add_argument("--kafka", dest="log", action="store_const", const="kafka", help="Kafka or nothing")
    log.add_argument("--directory", dest="log", action="store_const", const="directory", help="no Kafka")
    parser.add_argument("--sabotage", action="store_true", help="alter one value on the replica: exit code 6")
    parser.add_argument("--keep", action="store_true", help="leave the servers running and the files there")
    parser.add_argument("--stop", type=Path, metavar="FOLDER", help="end what --keep left there, delete it")
    parser.add_argument("--seconds", type=float, default=75.0, help="of business after the first copy")
    parser.add_argument("--rate", type=float, default=20.0, help="acts of business a second")
    parser.add_argument("--seed", type=int, default=2026, help="of the business")
    return parser.parse_args()


def _kept(folder: Path) -> Path:
    """Raises OperatorNeeded (`not-a-demo`) for any other folder: it will be deleted."""
    if folder.name.startswith("demo-") and (folder / "roles.json").exists():
        return folder
    raise OperatorNeeded(
        f"{folder} is not the folder of a demo", code="not-a-demo", hint="`./demo --keep` names its folder."
    )


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _clean_up(folder: Path, screen: Screen, *, keep: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave servers behind
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if keep and folder.exists():
        screen.say(f"kept: {folder}; its servers run on")
        screen.say(f"  keepstream -c {folder}/keepstream.yaml status")
        screen.say(f"  ./demo --stop {folder}")
    else:
        kill_below(folder)


if __name__ == "__main__":
    sys.exit(main())
