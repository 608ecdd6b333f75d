"""The command line's frame: global options, exit codes, and how errors look."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.cli.errors import describe_unexpected, render_error
from pipeline.cli.invocation import Invocation
from pipeline.cli.verbs import VERBS
from pipeline.logs import LogFormat
from pipeline.version import VERSION
from schemas.errors import Divergence

ROOT = Path(__file__).parents[2]


def keepstream(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        timeout=60,
    )


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"keepstream {VERSION}\n"
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_help_and_version_import_no_verb_and_no_driver() -> None:
    code = "import sys; from pipeline.cli import main; main(['--help']); print(*sys.modules, sep='\\n')"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    ).stdout
    loaded = set(out.splitlines())
    assert "pipeline.cli" in loaded
    assert not loaded & {"psycopg", "pydantic", "yaml", "kafka", *(f"pipeline.cli.{verb}" for verb in VERBS)}


def test_every_verb_has_its_module() -> None:
    assert [verb for verb in VERBS if importlib.util.find_spec(f"pipeline.cli.{verb}") is None] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"keepstream {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "error[usage]: missing command\nhint: Run `keepstream --help` for what it takes.\n"),
        (["verfy"], "error[usage]: no such command 'verfy'. Did you mean 'verify'?\n"),
        (["--log-format", "xml", "check"], "error[usage]: invalid value for '--log-format'"),
        (["check", "--nonsense"], "error[usage]: no such option: --nonsense"),
        (["wait", "standby", "--timeout", "inf"], "error[usage]: invalid value for '--timeout'"),
        (["wait", "standby", "--timeout", "1e10"], "error[usage]: invalid value for '--timeout'"),
        (["wait", "standby", "--timeout", "nan"], "error[usage]: invalid value for '--timeout'"),
        (["verify", "standby", "--timeout", "inf"], "error[usage]: invalid value for '--timeout'"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_nothing_on_stdout(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(said)


def test_a_missing_configuration_ends_with_3(tmp_path: Path) -> None:
    ended = keepstream("-c", str(tmp_path / "none.yaml"), "check")
    assert ended.returncode == 3
    assert ended.stdout == ""
    assert ended.stderr.startswith(
        f"error[config-missing]: there is no configuration file {tmp_path}/none.yaml\nhint: "
    )


def test_the_configuration_is_named_before_or_after_the_verb_or_by_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("nonsense: 1\n")
    for arguments, environment in (
        (["-c", str(path), "check"], {}),
        (["check", "--config", str(path)], {}),
        (["check"], {"KEEPSTREAM_CONFIG": str(path)}),
        (["-c", str(path), "check"], {"KEEPSTREAM_CONFIG": "/elsewhere"}),
    ):
        ended = keepstream(*arguments, **environment)
        assert (ended.returncode, str(path) in ended.stderr) == (3, True)


def test_an_error_is_one_json_object_when_logs_are_json(tmp_path: Path) -> None:
    ended = keepstream("check", "--log-format", "json", "-c", str(tmp_path / "none.yaml"))
    error = json.loads(ended.stderr)
    assert (error["level"], error["code"], error["exit_code"]) == ("error", "config-missing", 3)
    assert error["hint"].startswith("Write one with `keepstream init`")


def test_an_error_shows_code_message_and_hint() -> None:
    error = Divergence("row is missing", code="row-missing", hint="Copy anew.")
    assert render_error(error, LogFormat.TEXT) == "error[row-missing]: row is missing\nhint: Copy anew."


def test_an_error_never_drives_the_terminal() -> None:
    error = Divergence("table x\x1b]0;y\x07 differs", code="row-missing", hint="Look:\n  at \x9b.")
    assert render_error(error, LogFormat.TEXT) == (
        "error[row-missing]: table x\\x1b]0;y\\x07 differs\nhint: Look:\n    at \\x9b."
    )
    as_json = render_error(error, LogFormat.JSON)
    assert as_json.isprintable()
    assert json.loads(as_json)["hint"] == error.hint


def test_a_bug_shows_its_type_and_place_but_not_its_text() -> None:
    try:
        raise RuntimeError("a customer's row")
    except RuntimeError as bug:
        error = describe_unexpected(bug, bug.__traceback__)
    assert error.exit_code == 1
    assert error.message.startswith("unexpected RuntimeError at test_cli.py:")
    assert "customer" not in error.message + error.hint


def test_an_interrupted_verb_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Invocation) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Invocation, "path", property(interrupted))
    assert main(["check"]) == 130


def test_a_bug_ends_with_1_and_its_traceback_only_at_debug_level() -> None:
    code = (
        "import sys, pipeline.cli as c\n"
        "from pipeline.cli.invocation import Invocation\n"
        "Invocation.path = property(lambda self: 1 / 0)\n"
        "sys.exit(c.main(sys.argv[1:]))"
    )
    for level, traceback in (("info", False), ("debug", True)):
        ended = subprocess.run(
            [sys.executable, "-c", code, "--log-level", level, "check"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
        assert ended.returncode == 1
        assert "error[internal]: unexpected ZeroDivisionError" in ended.stderr
        assert ("Traceback" in ended.stderr) is traceback


def test_run_takes_no_pipe_because_its_stages_would_find_it_empty() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "-c", "/dev/stdin", "run"],
        input="{name: crm, source: 'dbname=x', log: 'file:///x'}",
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stderr.endswith(
        "error[config-pipe]: run cannot take its configuration from a pipe: /dev/stdin\n"
        "hint: Write it into a file and name that: keepstream -c FILE run\n"
    )
