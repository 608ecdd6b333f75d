"""`init`: the file it writes, what it refuses, and what it asks."""

from __future__ import annotations

import io
import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.postgres.catalog.grants import Chosen, login_of, replica_grants, source_grants
from pipeline.cli import main
from pipeline.cli.init import database_name
from pipeline.config import Keyless, load_config
from schemas.errors import ConfigError

ROOT = Path(__file__).parents[2]
SOURCE = "postgresql://keepstream@crm-db/crm"
LOG = "kafka://broker1:9092,broker2:9092"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "keepstream.yaml"


def init(*options: str) -> int:
    return main(["init", *options])


def test_the_options_become_a_file_for_its_owner_alone(path: Path) -> None:
    assert (
        init("--source", SOURCE, "--log", LOG, "--replica", "standby=postgresql://keepstream@standby/crm")
        == 0
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = load_config(path)
    assert (config.name, config.source.url.reveal(), config.log.url) == ("crm", SOURCE, LOG)
    assert config.replicas["standby"].url.reveal() == "postgresql://keepstream@standby/crm"
    assert config.source.keyless is Keyless.REFUSE


def test_every_commented_setting_of_the_file_is_one_that_exists(path: Path) -> None:
    assert init("--source", SOURCE, "--log", LOG, "--replica", "a=dbname=x") == 0
    text = path.read_text()
    everything = re.sub(r"^( *)# ( *[a-z_.]+:(?: |$))", r"\1\2", text, flags=re.MULTILINE)
    path.write_text(everything)
    config = load_config(path)
    assert config.tools.pg_bin == Path("/usr/lib/postgresql/18/bin")
    assert config.log.client_settings() == {"security.protocol": "SASL_SSL"}
    assert config.source.tables.exclude[0].text == "public.audit_*"
    assert config.replicas["a"].delay.total_seconds() == 300


def test_an_existing_file_is_never_overwritten(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("mine")
    assert init("--source", SOURCE, "--log", LOG) == 4
    assert path.read_text() == "mine"
    assert "error[config-exists]: keepstream.yaml exists and is never overwritten" in capsys.readouterr().err


def test_a_file_that_appears_meanwhile_is_not_overwritten_either(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    assert init("--source", SOURCE, "--log", LOG) == 4
    assert not path.with_name("elsewhere").exists()


@pytest.mark.parametrize("options", [[], ["--source", SOURCE], ["--log", LOG]])
def test_without_a_terminal_a_missing_option_is_an_error(
    path: Path, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert init(*options) == 2
    assert "is missing and there is no terminal to ask at" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--source", "nonsense", "--log", LOG], "`source.url` cannot be read by libpq"),
        (["--source", SOURCE, "--log", "s3://x"], "`log.url` must be kafka://"),
        (["--source", SOURCE, "--log", LOG, "--name", "No"], "`name` must match"),
        (["--source", "${A", "--log", LOG], "`${` without its `}`"),
        (["--source", SOURCE, "--log", LOG, "--keyless", "maybe"], "'maybe' is not one of"),
    ],
)
def test_a_wrong_option_writes_nothing(
    path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(*options) == 2
    assert said in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("standby=postgresql://h/crm", "standby", "postgresql://h/crm"),
        ("standby=host=h dbname=crm", "standby", "host=h dbname=crm"),
        ("standby=${REPLICA_URL}", "standby", "dbname=late"),
        ("host=h dbname=crm", "replica", "host=h dbname=crm"),
        ("service=standby", "replica", "service=standby"),
        ("postgresql://h/crm?sslmode=require", "replica", "postgresql://h/crm?sslmode=require"),
        ("password=a=b dbname=x", "replica", "password=a=b dbname=x"),
    ],
)
def test_a_replica_has_the_name_that_is_given_before_its_connection_string(
    path: Path, text: str, name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert init("--source", SOURCE, "--log", LOG, "--replica", text) == 0
    monkeypatch.setenv("REPLICA_URL", "dbname=late")
    assert {n: r.url.reveal() for n, r in load_config(path).replicas.items()} == {name: url}


@pytest.mark.parametrize(
    "url",
    [
        """host=h password='a: b # {c} "d" \\\\ \\' e'""",
        "postgresql://u:%40%3A@h/d?sslmode=require",
        "service=crm",
        "user=no",
    ],
)
def test_whatever_a_connection_string_holds_survives_the_file(path: Path, url: str) -> None:
    assert init("--source", url, "--log", LOG) == 0
    assert load_config(path).source.url.reveal() == url


def test_a_variable_may_be_set_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRM_PASSWORD", raising=False)
    assert init("--source", "postgresql://u:${CRM_PASSWORD}@h/crm", "--log", LOG) == 0
    monkeypatch.setenv("CRM_PASSWORD", "secret")
    assert load_config(path).source.url.reveal() == "postgresql://u:secret@h/crm"


@pytest.mark.parametrize(
    ("conninfo", "name"),
    [
        ("postgresql://h/crm", "crm"),
        ("dbname=My-CRM", "my_crm"),
        ("postgresql://u@h/1st", "crm"),
        ("${URL}", "crm"),
        (f"dbname={'x' * 40}", "x" * 31),
    ],
)
def test_the_pipeline_is_named_after_the_source_s_database(conninfo: str, name: str) -> None:
    assert database_name(conninfo) == name


def test_on_a_terminal_it_asks_for_what_is_missing(tmp_path: Path) -> None:
    """Each answer is wrong once. Those of log and name are then the default."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "-c", str(tmp_path / "k.yaml"), "init"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=ROOT,
        close_fds=True,
    )
    os.close(theirs)
    try:
        answers = f"dbnaem=x\n{SOURCE}\nkafk://x\n\nBAD=dbname=x\nstandby=dbname=x\n9\n\nnone\nfull\n"
        os.write(ours, answers.encode())
        out, _ = child.communicate(timeout=60)
        asked = os.read(ours, 65536).decode()
    finally:
        child.kill()
        os.close(ours)
    assert (child.returncode, out.decode()) == (0, f"wrote {tmp_path / 'k.yaml'}\n")
    config = load_config(tmp_path / "k.yaml")
    assert config.log.url == f"file://{ROOT}/keepstream-log"
    assert (config.name, list(config.replicas)) == ("crm", ["standby"])
    assert config.source.keyless is Keyless.FULL
    faults = [
        "`source.url` has an unknown keyword `dbnaem`",
        "`log.url` must",
        "`replicas` replica name 'BAD' must",
        "`name` must",
        "must be one of",
    ]
    assert [fault for fault in faults if f"  {fault}" not in asked] == []


def test_two_replicas_of_one_name_are_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["--replica", "s=dbname=x", "--replica", "s=dbname=y"]
    assert init("--source", SOURCE, "--log", LOG, *twice) == 2
    assert "error[replica-twice]: two replicas are called s" in capsys.readouterr().err
    assert not path.exists()


def test_a_replica_s_impossible_name_is_what_is_refused(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init("--source", SOURCE, "--log", LOG, "--replica", "BAD=postgresql://x/y") == 2
    assert "replica name 'BAD' must match" in capsys.readouterr().err


def test_grants_are_for_the_file_or_for_the_options(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--grants", "--source", SOURCE, "--log", LOG) == 0
    from_options = capsys.readouterr().out
    assert not path.exists()
    assert init("--source", SOURCE, "--log", LOG) == 0
    capsys.readouterr()
    assert init("--grants") == 0
    assert capsys.readouterr().out == from_options
    assert 'alter role "keepstream" login replication;' in from_options
    assert "grant pg_read_all_data" in from_options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--for", "source"], "error[for-without-sql]: --for chooses among the SQL that --grants prints"),
        (
            ["--grants", "--for", "nobody"],
            "error[server-unknown]: --for nobody names no server of this pipeline\n"
            "hint: Give one of: --for source, --for standby\n",
        ),
    ],
)
def test_a_server_is_one_of_the_pipeline_s_whose_grants_are_asked_for(
    path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--source", SOURCE, "--log", LOG, "--replica", "standby=dbname=x"]
    assert init(*given, *options) == 2
    assert said in capsys.readouterr().err
    assert not path.exists()


def test_grants_of_one_server_hold_nothing_of_another(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--grants", "--source", SOURCE, "--log", LOG]
    replicas = ["--replica", "a=host=ha dbname=crm", "--replica", "source=host=hb dbname=crm"]
    for server, host in (("source", "Source crm-db"), ("a", "Replica ha"), ("replica source", "Replica hb")):
        assert init(*given, *replicas, "--for", server) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"-- {host}: run as a superuser in database")
        assert sum(each in printed for each in ("crm-db", "Replica ha", "Replica hb")) == 1
    assert init(*given, *replicas) == 0
    assert '--for source or --for a or --for "replica source"' in capsys.readouterr().out.split("\n")[0]
    assert init(*given) == 0
    assert capsys.readouterr().out.startswith("-- Source crm-db: ")  # no other server, no guard


def test_grants_quote_names_and_hold_no_password() -> None:
    text = source_grants(
        "host=h dbname='C\"R M' user='o''x' password=hunter2".replace("''", "\\'"),
        publication='p"u',
        chosen=Chosen((("^a$", "^b'c$"),), ()),
    )
    assert 'alter role "o\'x" login replication;' in text
    assert 'grant connect on database "C""R M"' in text
    assert "c.relname ~ '^b''c$'" in text
    assert "hunter2" not in text


def test_grants_are_not_written_for_a_name_that_could_end_a_comment() -> None:
    with pytest.raises(ConfigError, match="unprintable"):
        replica_grants("host=h dbname='x\ndrop table y'")


def test_grants_name_what_a_service_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = tmp_path / "services.conf"
    services.write_text("[my svc]\nhost=db\ndbname=crm\nuser=owner\npassword=sesame\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    login = login_of("service='my svc'")
    assert (login.role, login.database, login.server) == ("owner", "crm", "db")
    assert login_of("service='my svc' user=keepstream").role == "keepstream"
    services.write_text("[a]\ndbname=crm\n[b]\nuser=repl\n[c]\ndbname=postgresql://u:sesame@h/d\n")
    monkeypatch.setenv("PGUSER", "somebody")
    assert (login_of("service=a").role, login_of("service=a").database) == ("keepstream", "crm")
    assert (login_of("service=b").role, login_of("service=b").database) == ("repl", "repl")
    with pytest.raises(ConfigError, match="cannot be read"):
        login_of("service=c")
    assert os.environ["PGUSER"] == "somebody"
    assert "PGSERVICE" not in os.environ


def test_a_login_has_libpq_s_defaults() -> None:
    assert login_of("host=h user=u").database == "u"
    assert login_of("service=crm").role == "keepstream"
