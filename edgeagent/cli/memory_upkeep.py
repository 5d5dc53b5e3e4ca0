"""`edgeagent memory correct`, `tidy`, `backup`, `reflect`: keeping what is remembered right, small and safe."""

import asyncio
from pathlib import Path

import click

from edgeagent.cli.answers import Line
from edgeagent.cli.remembering import as_json_option, gone_along, print_facts, user_option, with_memory
from edgeagent.settings import load_settings


@click.command()
@click.argument("memory_id", metavar="ID")
@click.argument("text")
@user_option
@as_json_option
def correct(memory_id: str, text: str, user: str | None, as_json: bool) -> None:
    """Put TEXT in the place of what memory ID says; the former text is forgotten, and summaries that may tell of it."""
    summaries, user = with_memory(user, lambda store, user: store.correct(user, memory_id, text))
    facts = {"user": user, "corrected": memory_id, "summaries": list(summaries)}
    print_facts(facts, as_json, f"corrected {memory_id}{gone_along(summaries)}")


@click.command()
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="Forget the weakest beyond N memories, too.")
@click.option("--dry-run", is_flag=True, help="Only say what would be forgotten.")
@user_option
@as_json_option
def tidy(keep: int | None, dry_run: bool, user: str | None, as_json: bool) -> None:
    """Forget what another memory says as well. Notes, facts that hold and skills never fade."""
    done, user = with_memory(user, lambda store, user: store.tidy(user, keep, only_look=dry_run))
    facts = {"user": user, "repeated": done.repeated, "faded": list(done.faded), "dry_run": dry_run}
    verb = "would forget" if dry_run else "forgot"
    lines = [f"{verb} {id_}: {other} says it, too" for id_, other in done.repeated.items()]
    lines += [f"{verb} {id_}: faded" for id_ in done.faded]
    print_facts(facts, as_json, "\n".join(lines) or "nothing to forget")


@click.command()
@click.argument("file", metavar="F", type=click.Path(path_type=Path, dir_okay=False))
@as_json_option
def backup(file: Path, as_json: bool) -> None:
    """Copy the whole memory database, of all users, to the new file F, also while it is in use."""
    size, _ = with_memory(None, lambda store, _: store.back_up(file))
    print_facts({"file": str(file), "bytes": size}, as_json, f"{file} has {size} bytes")


@click.command()
@click.option("--most", default=1, show_default=True, type=click.IntRange(1, 10), help="Sessions to sum up at most.")
@user_option
@as_json_option
def reflect(most: int, user: str | None, as_json: bool) -> None:
    """Have the local model sum up sessions of eight turns and more, each once, as memories of their own."""
    settings = load_settings()
    owner = settings.config.memory.user if user is None else user

    async def work() -> list[str]:
        async with Line(settings).connect() as line:
            return await line.reflect(owner, most)

    ids = asyncio.run(work())
    print_facts(
        {"user": owner, "ids": ids}, as_json, "\n".join(f"summed up as {i}" for i in ids) or "nothing to sum up"
    )


UPKEEP_COMMANDS = (correct, tidy, backup, reflect)
