"""The `edgeagent` command. Subcommands are imported when they run, so help and completion cost nothing."""

import importlib
from typing import NamedTuple

import click

from edgeagent import __version__


class LazyCommand(NamedTuple):
    """Where a subcommand lives, and the line that help shows for it."""

    target: str
    """`module:attribute`, imported at the first use."""
    help: str


COMMANDS: dict[str, LazyCommand] = {
    "ask": LazyCommand("edgeagent.cli.ask:ask", "Answer one question and say how."),
    "chat": LazyCommand("edgeagent.cli.chat:chat", "Talk, streaming, with /commands."),
    "profile": LazyCommand("edgeagent.cli.profile:profile", "Measure and describe this machine."),
    "doctor": LazyCommand("edgeagent.cli.doctor:doctor", "Check what works here, and say how to mend the rest."),
    "plan": LazyCommand("edgeagent.cli.plan:plan", "Show where a request would run, and why."),
    "models": LazyCommand("edgeagent.cli.models:models", "List, fetch, make, measure and remove models."),
    "memory": LazyCommand("edgeagent.cli.memory:memory", "Add, search, list and forget memories."),
    "perceive": LazyCommand("edgeagent.cli.perceive:perceive", "Hear and see: speech, wake words, faces."),
    "serve": LazyCommand("edgeagent.cli.serve:serve", "Run the daemon: HTTP API, page, MQTT."),
    "peer": LazyCommand("edgeagent.cli.peer:peer", "Offer this machine's compute to others over MQTT."),
    "fleet": LazyCommand("edgeagent.cli.fleet:fleet", "Enrol devices and peers, and take that back."),
    "config": LazyCommand("edgeagent.cli.config:config", "Show the settings and where each came from."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].target.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """An LLM agent for a small machine: it measures, plans each request, and says what it did."""
