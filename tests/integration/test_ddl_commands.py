"""`keepstream schema show` and `approve`, and what others say of a replica that waits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.obstacles import replica_obstacle
from schemas.lsn import format_lsn
from tests.fix_ddl import Changing

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(changing: Changing, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code, and stdout or else stderr, of `keepstream schema …`."""
    config = tmp_path / "keepstream.yaml"
    replica = json.dumps(changing.replica.dsn)
    config.write_text(
        f"name: crm\nsource: dbname=none\nlog: file://{tmp_path}\nreplicas: {{standby: {replica}}}\n"
    )
    config.chmod(0o600)

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["-c", str(config), "schema", *arguments])
        captured = capsys.readouterr()
        return code, captured.out or captured.err

    return run


@pytest.fixture
def waiting(changing: Changing) -> Iterator[str]:
    """The LSN of a transaction that waits."""
    changing.begin("create table crm.t (id int primary key, a int)")
    changing.run("alter table crm.t drop column a; create index i on crm.t (id)")
    changing.log()
    with changing.replicating.running():
        changing.replicating.wait(lambda: changing.replicating.row().awaits is not None, "the wait")
        yield format_lsn(changing.replicating.row().awaits or 0)


def test_show_says_what_waits_with_its_sql(changing: Changing, waiting: str, command: Command) -> None:
    code, said = command("show", "standby")
    assert code == 0
    head, dropped, along, how = said.splitlines()
    assert head.startswith(f"standby waits before transaction {waiting} (xid ")
    assert dropped == 'waits  drop_column       alter table "crm"."t" drop column if exists "a";'
    assert along == "along  index             CREATE INDEX i ON crm.t USING btree (id);"
    assert how == f"Let it go on with `keepstream schema approve standby {waiting}`."
    shown = json.loads(command("show", "standby", "--json")[1])["waiting"]
    assert shown["lsn"] == waiting
    assert [(step["kind"], step["pauses"]) for step in shown["steps"]] == [
        ("drop_column", True),
        ("index", False),
    ]


def test_approve_lets_only_the_transaction_go_on_that_is_named(
    changing: Changing, waiting: str, command: Command
) -> None:
    code, said = command("approve", "standby", "0/1")
    assert code == 4
    assert f"nothing to approve on standby: what waits is the transaction at {waiting}" in said
    assert command("approve", "standby", "0/1", "--all")[0] == 2
    assert command("approve", "standby", "not an LSN")[0] == 2
    assert changing.replicating.row().awaits is not None
    code, said = command("approve", "standby", waiting, "--reason", "ticket 4711")
    assert (code, said) == (0, f"standby follows the schema changes at {waiting}\n")
    changing.replicating.wait_for(changing.made_log.lsn)
    changing.agree()
    audit = "select action, reason from keepstream.audit where action like 'schema-%'"
    assert changing.replica.execute(audit) == [("schema-apply", "ticket 4711")]
    assert command("show", "standby") == (0, "standby waits for no approval\n")
    assert json.loads(command("show", "standby", "--json")[1]) == {"waiting": None}
    code, said = command("approve", "standby", "--all")
    assert code == 4
    assert said.startswith("error[not-waiting]: nothing to approve on standby: nothing waits for approval\n")


def test_approve_can_leave_the_changes_out(changing: Changing, waiting: str, command: Command) -> None:
    code, said = command("approve", "standby", "--ignore")
    assert (code, said) == (0, f"standby goes on without the schema changes at {waiting}\n")
    changing.replicating.wait_for(changing.made_log.lsn)
    assert changing.replica.execute("select a, to_regclass('crm.i') is not null from crm.t") == []
    assert changing.replica.execute("select to_regclass('crm.i') is not null") == [(True,)]


def test_who_waits_for_the_replica_hears_of_it(changing: Changing, waiting: str) -> None:
    obstacle = replica_obstacle("standby", changing.replicating.row())
    assert obstacle is not None
    assert obstacle.seen == f"waits for approval of the schema changes at {waiting}"
    assert "`keepstream schema approve standby`" in obstacle.hint
