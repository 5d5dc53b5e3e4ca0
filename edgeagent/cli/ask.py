"""`edgeagent ask`: one question, the answer, and how it came about."""

import sys
from pathlib import Path

import click

from edgeagent.cli.answers import Line, Outcome
from edgeagent.cli.options import json_option, print_json, run, with_settings
from edgeagent.cli.summary import summary
from edgeagent.core.chat import ChatRequest, Document, Extension, Message
from edgeagent.core.errors import RequestError
from edgeagent.core.generation import Sampling
from edgeagent.core.plan import PlanKind, ReductionLevel
from edgeagent.settings import Settings

MAX_FILE_BYTES = 3 * 2**20  # what a request to the daemon may hold, with room for the rest

plan_choice = click.Choice(["auto", *(plan.value for plan in PlanKind)])
level_choice = click.Choice(["auto", *(level.value for level in ReductionLevel)])


@click.command()
@click.argument("text")
@click.option(
    "--file", "files", type=click.Path(path_type=Path), multiple=True, metavar="P", help="Text to answer from."
)
@click.option("--model", metavar="M", help="A card's id; see 'edgeagent models list'.")
@click.option("--plan", type=plan_choice, default="auto", show_default=True, help="Where it runs.")
@click.option("--reduce", type=level_choice, default="auto", show_default=True, help="How much of the files is read.")
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest answer.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, metavar="S", help="Same seed, same answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, metavar="T", help="0: the likeliest words.")
@click.option("--no-memory", is_flag=True, help="Neither recall nor save.")
@json_option
@with_settings
def ask(
    settings: Settings,
    text: str,
    files: tuple[Path, ...],
    model: str | None,
    plan: str,
    reduce: str,
    max_tokens: int | None,
    seed: int,
    temperature: float,
    no_memory: bool,
    as_json: bool,
) -> None:
    """Answer TEXT. The answer goes to stdout, what happened to stderr."""
    if not text.strip():
        raise RequestError("the question is empty; write one")
    request = ChatRequest(
        messages=(Message(role="user", content=text),),
        documents=tuple(_read(path) for path in files),
        model=model,
        sampling=Sampling(seed=seed, temperature=temperature),
        max_tokens=max_tokens,
        edgeagent=Extension.model_validate(
            {"plan": plan, "reduce": reduce, "memory": not no_memory, "agent": True, "priority": "interactive"}
        ),
    )
    outcome = run(_ask(settings, request, is_quiet=as_json))
    if as_json:
        print_json(outcome.document())
        return
    for line in summary(outcome.edgeagent):
        click.secho(line, err=True, dim=True)


async def _ask(settings: Settings, request: ChatRequest, *, is_quiet: bool) -> Outcome:
    outcome = Outcome()
    async with Line(settings).connect() as line:
        async for piece in line.ask(request, outcome):
            if not is_quiet:
                sys.stdout.write(piece)
                sys.stdout.flush()
    if not is_quiet:
        click.echo()
    return outcome


def _read(path: Path) -> Document:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(f"{path} is over {MAX_FILE_BYTES} bytes; add it to memory instead ('memory add --file')")
        return Document(source=path.name, text=path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not UTF-8 text; convert it first") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}); correct the path") from None
