"""`keepstream apply` killed with SIGKILL at every failpoint, frozen, and started again: nothing is lost,
doubled or torn, and each failpoint was really hit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.dev.process import require
from schemas.lsn import format_lsn
from tests.fix_apply import PIPELINE, MadeLog, Replicating, Rows, rows_of
from tests.fix_postgres import Database

ROWS = 12
DEADLINE_S = 60


class Commands:
    """`keepstream apply` on a configuration of its own."""

    def __init__(self, folder: Path, replica: Database) -> None:
        self.config = folder / "keepstream.yaml"
        self.hits = folder / "hits"
        self.config.write_text(
            f"name: {PIPELINE}\nsource: postgresql://nowhere/none\nlog: file://{folder}\n"
            f"replicas:\n  standby: {replica.dsn}\n"
        )
        self.config.chmod(0o600)

    @contextlib.contextmanager
    def apply(self, *arguments: str, failpoint: str = "") -> Iterator[subprocess.Popen[bytes]]:
        command = [
            sys.executable,
            "-m",
            "pipeline.cli",
            "-c",
            str(self.config),
            "apply",
            "standby",
            *arguments,
        ]
        env = os.environ | {"KEEPSTREAM_FAILPOINT": failpoint, "KEEPSTREAM_FAILPOINT_LOG": str(self.hits)}
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def killed_at(self, failpoint: str) -> None:
        with self.apply(failpoint=failpoint) as process:
            process.wait(DEADLINE_S)
        assert process.returncode == -signal.SIGKILL
        assert self.hits.read_text().split()[0] == failpoint.partition(":")[0]


@pytest.fixture
def rows(replica: Database) -> Rows:
    replica.execute("create table public.customer (id int primary key, pair int)")
    return rows_of(replica, "public.customer")


@pytest.fixture
def commands(tmp_path: Path, replica: Database, replicating: Replicating) -> Commands:
    return Commands(tmp_path, replica)


def write(made_log: MadeLog, rows: Rows) -> None:
    """Transactions of two rows each, one of them in parts; half of them alone and half together."""
    for number in range(0, ROWS, 2):
        changes = [rows.insert(str(number), "1"), rows.insert(str(number + 1), "1")]
        if number == 2:
            made_log.close_parts(made_log.open_parts(*changes, tables=[rows.table]))
        elif number < ROWS // 2:
            made_log.commit(*changes, tables=[rows.table])
        else:
            made_log.add(*changes, tables=[rows.table])
    made_log.flush()


def ids(replica: Database) -> Sequence[int]:
    return [row[0] for row in replica.execute("select id from public.customer order by id")]


def assert_prefix(replica: Database, replicating: Replicating) -> None:
    """Whole transactions from the first one on, and the position that says so."""
    there = ids(replica)
    assert list(there) == list(range(len(there)))
    assert len(there) % 2 == 0
    position = replicating.row().position.lsn
    expected = replicating.made.lsn - (ROWS - len(there)) // 2 * 0x80
    assert position == expected


@pytest.mark.parametrize(
    "failpoint",
    [
        "apply.take_over",
        "apply.before_begin",
        "apply.before_begin:3",
        "apply.after_cas",
        "apply.after_cas:2",
        "apply.mid_transaction",
        "apply.mid_transaction:2",
        "apply.part_applied",
        "apply.part_applied:2",
        "apply.before_commit:2",
        "apply.inside_commit",
        "apply.inside_commit:2",
        "apply.inside_commit:3",
        "apply.after_commit",
        "apply.after_commit:3",
    ],
)
def test_a_killed_apply_leaves_a_prefix_and_the_next_one_completes_it(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    rows: Rows,
    commands: Commands,
    failpoint: str,
) -> None:
    write(made_log, rows)
    commands.killed_at(failpoint)
    replicating.wait(lambda: not replicating.row().alive, "the end of the killed applier's session")
    assert_prefix(replica, replicating)
    replicating.catch_up()
    assert list(ids(replica)) == list(range(ROWS))


def test_a_frozen_apply_is_replaced_and_changes_nothing_when_it_wakes(  # P14
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows, commands: Commands
) -> None:
    opened = made_log.open_parts(rows.insert("0", "1"), rows.insert("1", "1"), tables=[rows.table])
    with commands.apply() as frozen:
        require(lambda: _is_locked(replica), DEADLINE_S, what="the parts in an open transaction")
        frozen.send_signal(signal.SIGSTOP)
        made_log.close_parts(opened)
        with replicating.running(take_over=True):
            replicating.wait_for(opened.end_lsn)
            frozen.send_signal(signal.SIGCONT)
            _, said = frozen.communicate(timeout=DEADLINE_S)
            assert frozen.returncode == 4
            assert b"error[applier-replaced]: another applier has taken the replica over" in said
            made_log.commit(rows.insert("2", "1"))
            replicating.wait_for(made_log.lsn)
    assert list(ids(replica)) == [0, 1, 2]


def _is_locked(replica: Database) -> bool:
    free = replica.execute("select 1 from keepstream.progress for update skip locked")
    return not free and bool(replica.execute("select 1 from keepstream.progress"))


def test_sigterm_ends_apply_in_order_with_0(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows, commands: Commands
) -> None:
    write(made_log, rows)
    with commands.apply() as process:
        replicating.wait_for(made_log.lsn)
        process.terminate()
        assert process.wait(10) == 0


def test_the_command_line_stops_at_an_lsn_skips_and_names_its_errors(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows, commands: Commands
) -> None:
    write(made_log, rows)
    replica.execute("insert into public.customer values (6)")

    def run(*arguments: str) -> tuple[int, str]:
        with commands.apply(*arguments) as process:
            _, said = process.communicate(timeout=DEADLINE_S)
            return process.returncode, said.decode()

    until = format_lsn(made_log.lsn - 4 * 0x80)
    assert run("--until", until)[0] == 0
    assert list(ids(replica)) == [0, 1, 2, 3, 6]
    replica.execute("update keepstream.progress set hold_at = null, hold_kind = null")
    code, said = run()
    assert code == 6
    assert "error[row-already-there]" in said
    skipped = format_lsn(made_log.lsn - 3 * 0x80 + 0x40)
    assert f"--skip-transaction {skipped} " in said
    assert run("--skip-transaction", skipped)[0] == 2
    assert run("--skip-transaction", skipped, "--reason", "entered by hand")[0] == 0
    assert run("--until", "yesterday")[0] == 2
    assert replica.password not in said


def test_pause_and_resume_work_from_another_process(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows, commands: Commands
) -> None:
    def run(verb: str) -> str:
        command = [sys.executable, "-m", "pipeline.cli", "-c", str(commands.config), verb, "standby"]
        return subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S).stdout.decode()

    at = format_lsn(replicating.row().position.lsn)
    assert run("pause") == f"standby is paused at {at}\n"
    write(made_log, rows)
    with replicating.running() as applying:
        replicating.wait(
            lambda: bool(applying.reports) and applying.reports[-1].state.value == "paused", "paused"
        )
        assert run("resume") == f"standby goes on from {at}\n"
        replicating.wait_for(made_log.lsn)
    assert run("resume") == "standby was not held\n"
