"""`keepstream init`: write keepstream.yaml, or print the SQL of the roles."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.invocation import invocation
from pipeline.cli.output import print_sql, print_text
from pipeline.cli.serversql import SERVER_HELP, SERVER_METAVAR, ServerSql, choose, place_of, require_sql
from pipeline.config import Config, Keyless, Partitions, faults_of, parse_config
from pipeline.config.model import NAME
from pipeline.config.template import Choices, render_config
from pipeline.logs import say
from schemas.errors import ConfigError, OperatorNeeded, UsageError

app = typer.Typer()


@app.command()
def init(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="Else made from the source database's name.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="libpq connection string of the source; here and below ${VAR} and ${file:…} are kept for the"
            " file to replace, and $$ stands for a dollar sign."
        ),
    ] = None,
    log: Annotated[str | None, typer.Option(help="kafka://host:port,… or file:///absolute/folder.")] = None,
    replica: Annotated[
        list[str] | None, typer.Option(help="NAME=CONNECTION or a connection string; may be repeated.")
    ] = None,
    keyless: Annotated[Keyless | None, typer.Option(help="Tables without replica identity.")] = None,
    grants: Annotated[bool, typer.Option("--grants", help="Print the SQL of the roles instead.")] = False,
    server: Annotated[str | None, typer.Option("--for", metavar=SERVER_METAVAR, help=SERVER_HELP)] = None,
) -> None:
    """Write keepstream.yaml from the options, asking for what is missing when a terminal is there.

    With --grants nothing is written: prints the SQL for the source role and the replica role, for the
    file if it exists, else for the options. Without --for that is for reading: psql refuses to run it.
    """
    require_sql(server, option="--grants", given=grants)
    path = invocation(context).path
    given = _Given(name, source, log, tuple(replica or ()), keyless)
    if grants:
        existing = not (source or replica) and path.exists()
        print_sql(_grants(invocation(context).config if existing else _config(given.choices(), path), server))
        return
    if path.exists():
        raise _exists(path)
    choices = given.choices()
    _validate(choices, path)
    _write(path, render_config(choices))
    print_text(f"wrote {path}")
    say(
        "next: keepstream init --grants                the SQL of the roles, for reading\n"
        "      keepstream init --grants --for SERVER   that of the source or one REPLICA, for psql there\n"
        "      keepstream check                        what is still missing\n"
        "      keepstream run                          copy and stream"
    )


class _Given:
    """The options, and questions for those that are missing."""

    def __init__(
        self,
        name: str | None,
        source: str | None,
        log: str | None,
        replicas: Sequence[str],
        keyless: Keyless | None,
    ) -> None:
        self._name, self._source, self._log = name, source, log
        self._replicas, self._keyless = replicas, keyless
        self._asks = sys.stdin.isatty() and sys.stderr.isatty() and not (source and log)

    def choices(self) -> Choices:
        source = self._source or self._ask(
            "source",
            "Source database (libpq connection string)",
            lambda answer: replace(_VALID, source=answer),
        )
        log = self._log or self._ask(
            "log",
            "Change log (kafka://host:port,… or file:///folder)",
            lambda answer: replace(_VALID, log=answer),
            f"file://{Path.cwd()}/keepstream-log",
        )
        replicas = list(self._replicas)
        if not replicas and self._asks:
            asked = _prompt("Replica database (empty: none yet)", "", faults=_faults_in_replica)
            replicas += filter(None, [asked])
        name = self._name or self._ask_name(database_name(source))
        keyless = self._keyless or self._ask_keyless()
        return Choices(name, source, log, dict(_named(replicas)), keyless)

    def _ask_name(self, default: str) -> str:
        if not self._asks:
            return default
        return _prompt(
            "Name of the pipeline", default, faults=lambda answer: _faults(replace(_VALID, name=answer))
        )

    def _ask_keyless(self) -> Keyless:
        if not self._asks:
            return Keyless.REFUSE
        known = [choice.value for choice in Keyless]

        def faults(answer: str) -> list[str]:
            return [] if answer in known else [f"must be one of {', '.join(known)}"]

        return Keyless(
            _prompt("Tables without a primary key (refuse, full, exclude)", "refuse", faults=faults)
        )

    def _ask(
        self,
        option: str,
        question: str,
        choices: Callable[[str], Choices],
        default: str | None = None,
    ) -> str:
        """`choices`: valid ones with the answer among them."""
        if self._asks:
            return _prompt(question, default, faults=lambda answer: _faults(choices(answer)))
        raise UsageError(
            f"--{option} is missing and there is no terminal to ask at",
            code="init-incomplete",
            hint="Run `keepstream init --source postgresql://… --log kafka://… --replica NAME=postgresql://…`.",
        )


_VALID = Choices(name="crm", source="dbname=crm", log="file:///crm")
"""For all that was not asked yet."""


def _faults(choices: Choices) -> list[str]:
    faults = faults_of(render_config(choices), name="", environment=os.environ)
    return [re.sub(r"^:\d+:\d+: ", "", fault) for fault in faults]  # there is no file yet


def _faults_in_replica(answer: str) -> list[str]:
    return _faults(replace(_VALID, replicas=dict(_named(list(filter(None, [answer]))))))


def _prompt(question: str, default: str | None = None, *, faults: Callable[[str], Sequence[str]]) -> str:
    """Asks on stderr, for stdout holds results only; again until there is an answer without faults, or a
    default."""
    while True:
        sys.stderr.write(f"{question}{f' [{default}]' if default else ''}: ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        if not answer:
            raise typer.Abort
        chosen = answer.strip() or default
        if chosen is None:
            continue
        found = faults(chosen)
        if not found:
            return chosen
        sys.stderr.writelines(f"  {fault}\n" for fault in found)


def database_name(conninfo: str) -> str:
    """The pipeline's name if none is given: the source database's, as far as it may be one."""
    from connectors.postgres.catalog.grants import login_of

    if "${" in conninfo:
        return "crm"
    try:
        name = re.sub(r"[^a-z0-9_]", "_", login_of(conninfo).database.lower())[:31]
    except ConfigError:
        return "crm"  # validation says what is wrong with the string
    return name if NAME.fullmatch(name) else "crm"


_NAMED = re.compile(r"(?P<name>[^\s=:/]+)=(?P<url>(?:postgres(?:ql)?://|[a-z_]+\s*=|\$\{).*)", re.DOTALL)


def _named(replicas: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`standby=postgresql://…` and `standby=host=…` have a name; `host=…` and a bare URI get one."""
    from psycopg import pq

    keywords = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    taken: set[str] = set()
    for number, text in enumerate(replicas, 1):
        match = _NAMED.fullmatch(text)
        if match and match["name"] not in keywords:
            name, url = match["name"], match["url"]
        else:
            name, url = "replica" if number == 1 else f"replica{number}", text
        if name in taken:
            raise UsageError(
                f"two replicas are called {name}",
                code="replica-twice",
                hint="Give each --replica a name of its own: --replica NAME=postgresql://…",
            )
        taken.add(name)
        yield name, url


def _config(choices: Choices, path: Path) -> Config:
    _validate(choices, path)
    return parse_config(render_config(choices), name=str(path), environment=os.environ)


def _validate(choices: Choices, path: Path) -> None:
    """Raises UsageError with all that is wrong with the options. Variables need not be set yet."""
    faults = faults_of(render_config(choices), name=str(path), environment=os.environ)
    if faults:
        raise UsageError(
            "these options make no valid configuration:\n  " + "\n  ".join(faults),
            code="init-invalid",
            hint="Correct the option; docs/configuration.md describes every key.",
        )


def _write(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}",
            code="config-unwritable",
            hint="Choose another place with `keepstream -c FILE init`.",
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _exists(path: Path) -> OperatorNeeded:
    return OperatorNeeded(
        f"{path} exists and is never overwritten",
        code="config-exists",
        hint=f"Edit it, move it away (mv {path} {path}.old), or write another: keepstream -c FILE init",
    )


def _grants(config: Config, server: str | None) -> str:
    from connectors.postgres.catalog.grants import Chosen, replica_grants, source_grants

    tables = config.source.tables
    chosen = Chosen(
        tuple(pattern.regexes for pattern in tables.include),
        tuple(pattern.regexes for pattern in tables.exclude),
        tables.limits_by_name,
        by_root=config.source.partitions is Partitions.ROOT,
    )
    source = source_grants(config.source.url.reveal(), publication=config.publication_name, chosen=chosen)
    parts = [ServerSql("source", source.strip())]
    for name, replica in config.replicas.items():
        parts.append(ServerSql(f"replica {name}", replica_grants(replica.url.reveal()).strip()))
    return choose(parts, place_of(server, config), config, verb="keepstream init --grants")
