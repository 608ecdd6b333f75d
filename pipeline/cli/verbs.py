"""The verbs, and the command group that imports a verb's module only when it is called.

A verb is one module `pipeline/cli/<verb>.py` with an `app: typer.Typer` in it:

    app = typer.Typer()

    @app.command()
    def check(context: typer.Context, ...) -> None:
        config = invocation(context).config

With several commands (`dev up`, `dev down`) the module's app is a group. The global options may be
given before the verb and after it.
"""

from __future__ import annotations

import importlib
from collections.abc import MutableMapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

VERBS = {
    "init": "Write keepstream.yaml, or print the SQL of the roles (--grants).",
    "check": "Look at source, log and replicas, and say what must be mended. Writes nothing.",
    "run": "Run every stage of the file, supervised, in the foreground.",
    "capture": "Run capture alone: source to log.",
    "apply": "Run one apply alone: log to REPLICA.",
    "status": "Lag, slot, rates and last error of every stage.",
    "pause": "Hold a replica at a position.",
    "resume": "Let a held replica go on.",
    "wait": "Return when a replica holds all that was committed on the source.",
    "schema": "Follow schema changes of the source by its event triggers.",
    "verify": "Compare a replica with the source at one LSN; mend what differs with --repair.",
    "snapshot": "Copy tables of a running replica anew, at the LSN at which it stands.",
    "log": "Look into the change log.",
    "events": "Read changes as JSON.",
    "dev": "An embedded source, replica and Kafka of one's own.",
    "teardown": "Remove slot, publication, progress row and log.",
}

GLOBAL_OPTIONS = ("config_file", "log_format", "log_level")


class VerbGroup(TyperGroup):
    """Lists all verbs without importing any, and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for verb, summary in VERBS.items():
            self.commands[verb] = TyperCommand(verb, help=summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in VERBS:
            self.commands[args[0]] = self._load(args[0])
        return super().resolve_command(ctx, args)

    def _load(self, verb: str) -> Any:
        module = importlib.import_module(f"pipeline.cli.{verb}")
        module.app._add_completion = False  # or each verb would have --install-completion
        command = typer.main.get_command(module.app)
        command.name = verb
        command.help = command.help or VERBS[verb]
        _share([p for p in self.params if p.name in GLOBAL_OPTIONS], command)
        return command


def _share(options: list[Any], command: Any) -> None:
    """Let the global options be given to this command as well, or to the commands of this group."""
    below: MutableMapping[str, Any] = getattr(command, "commands", {})
    if not below:
        command.params.extend(options)
    for inner in below.values():
        _share(options, inner)
