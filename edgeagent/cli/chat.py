"""`edgeagent chat`: a conversation in the terminal."""

import asyncio
import sys

import click

from edgeagent.cli.answers import Line, Outcome
from edgeagent.cli.options import run, with_settings
from edgeagent.cli.summary import summary
from edgeagent.core.chat import ChatRequest, Extension, Message
from edgeagent.core.errors import EdgeAgentError
from edgeagent.core.plan import PlanKind
from edgeagent.settings import Settings

HELP = "/plan NAME  /new  /why  /help  /quit"
PROMPT = "> "


class Chat:
    """The conversation so far, and what the commands have set."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._messages: list[Message] = []
        self._plan = "auto"
        self._report: list[str] = []

    async def run(self) -> None:
        """Until `/quit` or the end of the input."""
        click.secho(f"edgeagent chat. {HELP}", err=True, dim=True)
        while (text := await asyncio.to_thread(_read_line)) is not None:
            if text.startswith("/"):
                if not self._command(text[1:].split()):
                    return
            elif text.strip():
                await self._turn(text)

    def _command(self, words: list[str]) -> bool:
        """False ends the chat."""
        match words:
            case ["quit"]:
                return False
            case ["new"]:
                self._messages.clear()
            case ["plan", name] if name in ("auto", *PlanKind):
                self._plan = name
            case ["why"]:
                click.secho("\n".join(self._report) or "nothing was asked yet", err=True, dim=True)
            case _:
                click.secho(HELP, err=True)
        return True

    async def _turn(self, text: str) -> None:
        request = ChatRequest(
            messages=(*self._messages, Message(role="user", content=text)),
            edgeagent=Extension.model_validate({"plan": self._plan, "agent": True, "priority": "interactive"}),
        )
        outcome = Outcome()
        try:
            async for piece in self._line.ask(request, outcome):
                sys.stdout.write(piece)
                sys.stdout.flush()
        except EdgeAgentError as error:  # the conversation goes on
            click.secho(f"error: {error}", err=True)
            return
        click.echo()
        self._messages += [*request.messages[-1:], Message(role="assistant", content=outcome.text)]
        self._report = summary(outcome.edgeagent)
        click.secho(self._report[0] + " · /why for more", err=True, dim=True)
        for line in (line for line in self._report if line.startswith("dropped")):
            click.secho(line, err=True, dim=True)


def _read_line() -> str | None:
    try:
        return input(PROMPT if sys.stdin.isatty() else "")
    except EOFError:
        return None


@click.command()
@with_settings
def chat(settings: Settings) -> None:
    """Talk with the assistant. Ctrl-D ends."""
    run(_chat(settings))


async def _chat(settings: Settings) -> None:
    async with Line(settings).connect() as line:
        await Chat(line).run()
