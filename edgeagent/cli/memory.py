"""`edgeagent memory`: what is remembered, for whom, and how to add, find and forget it."""

from pathlib import Path

import click

from edgeagent import parts
from edgeagent.agent.measuring import measure
from edgeagent.agent.memory.memory import KINDS, MAX_DOCUMENT_BYTES, Memory
from edgeagent.agent.memory.reading import text_of
from edgeagent.cli.memory_files import Export, read_bytes, write_export
from edgeagent.cli.memory_records import RECORD_COMMANDS
from edgeagent.cli.memory_upkeep import UPKEEP_COMMANDS
from edgeagent.cli.remembering import about, as_json_option, gone_along, line, print_facts, user_option, with_memory
from edgeagent.core.errors import EdgeAgentError
from edgeagent.settings import load_settings

MAX_MEASURED = 64
"""Parts of a file that are measured at once: under a minute on most machines."""

path_type = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.group()
def memory() -> None:
    """Memories: add, search, list, correct, forget, and what was learned: facts, skills, experiences."""


for _command in (*RECORD_COMMANDS, *UPKEEP_COMMANDS):
    memory.add_command(_command)


@memory.command()
@click.argument("text", required=False)
@click.option(
    "--file",
    "file",
    type=path_type,
    metavar="P",
    help="Remember a file, in parts: text, Markdown, a chat log, PDF ('-': standard input).",
)
@user_option
@as_json_option
def add(text: str | None, file: Path | None, user: str | None, as_json: bool) -> None:
    """Remember TEXT, or a file."""
    if (text is None) == (file is None):
        raise click.UsageError("give either TEXT or --file P")

    if file is not None:
        _add_file(file, user, as_json)
        return
    id_, user = with_memory(user, lambda store, user: store.add(user, text or ""))
    print_facts({"user": user, "id": id_}, as_json, f"remembered as {id_}")


def _add_file(file: Path, user: str | None, as_json: bool) -> None:
    """In parts; then the chat model, if it is here, measures some, which later reductions need.

    It never costs what is stored by then, nor hours: the daemon measures the rest.
    """
    settings = load_settings()
    document = text_of(read_bytes(file, MAX_DOCUMENT_BYTES), str(file))

    async def work(store: Memory, user: str) -> tuple[list[str], int]:
        ids = await store.add_document(user, document, str(file))
        try:
            async with parts.open_model(settings) as local:
                most = min(len(ids), MAX_MEASURED)
                return ids, await measure(store, local, settings.config.models.default, most) if local else 0
        except EdgeAgentError as error:
            click.echo(f"nothing was measured: {error}", err=True)
            return ids, 0

    (ids, num_measured), user = with_memory(user, work)
    facts = {"user": user, "ids": ids, "measured": num_measured}
    print_facts(facts, as_json, f"remembered as {', '.join(ids)}")
    if num_measured < len(ids):
        left = f"{num_measured} of {len(ids)} parts were measured now"
        click.echo(f"{left}; the daemon does the rest when it has nothing to do", err=True)


@memory.command()
@click.argument("query")
@click.option("-k", "k", default=5, show_default=True, help="How many to show at most.")
@user_option
@as_json_option
def search(query: str, k: int, user: str | None, as_json: bool) -> None:
    """Find what matters to QUERY, best first."""
    hits, user = with_memory(user, lambda store, user: store.search(user, query, k))
    rows = [{"score": round(hit.score, 4), **hit.item.model_dump()} for hit in hits]
    lines = [f"{hit.score:.2f}  {line(hit.item)}" for hit in hits]
    print_facts({"user": user, "query": query, "hits": rows}, as_json, "\n".join(lines) or "nothing found")


@memory.command("list")
@click.option("--limit", default=100, show_default=True, help="How many to show at most.")
@click.option("--kind", type=click.Choice(KINDS), help="Only of this kind.")
@user_option
@as_json_option
def list_memories(limit: int, kind: str | None, user: str | None, as_json: bool) -> None:
    """Show memories, the newest first, with the summaries of conversations."""
    items, user = with_memory(user, lambda store, user: store.list(user, limit, kind))
    facts = {"user": user, "memories": [item.model_dump() for item in items]}
    print_facts(facts, as_json, "\n".join(map(line, items)) or "no memories")


@memory.command()
@click.argument("memory_id", metavar="ID")
@user_option
@as_json_option
def show(memory_id: str, user: str | None, as_json: bool) -> None:
    """Show the whole of one memory, or of one summary."""
    item, user = with_memory(user, lambda store, user: store.item(user, memory_id))
    print_facts({"user": user, "memory": item.model_dump()}, as_json, f"{about(item)}\n{item.text}")


@memory.command()
@click.argument("memory_id", metavar="ID")
@user_option
@as_json_option
def forget(memory_id: str, user: str | None, as_json: bool) -> None:
    """Remove a memory from the database for good, and the summaries that may tell of it."""
    summaries, user = with_memory(user, lambda store, user: store.forget(user, memory_id))
    facts = {"user": user, "forgotten": memory_id, "summaries": list(summaries)}
    print_facts(facts, as_json, f"forgot {memory_id}{gone_along(summaries)}")


@memory.command()
@user_option
@as_json_option
def stats(user: str | None, as_json: bool) -> None:
    """Count memories, and say where they are."""
    found, user = with_memory(user, lambda store, user: store.stats(user))
    lines = [f"{name}: {value}" for name, value in found.model_dump().items()]
    print_facts(found.model_dump(), as_json, "\n".join(lines))


@memory.command("export")
@click.argument("file", metavar="F", type=path_type)
@user_option
@as_json_option
def export_memories(file: Path, user: str | None, as_json: bool) -> None:
    """Write a user's memories to F as JSON lines ('-': standard output)."""
    if str(file) == "-" and as_json:
        raise click.UsageError("--json needs standard output for itself; export to a file")
    count, user = with_memory(user, lambda store, user: write_export(store.export(user), file))
    if str(file) != "-":
        print_facts({"user": user, "exported": count, "file": str(file)}, as_json, f"{count} memories are in {file}")


@memory.command("import")
@click.argument("file", metavar="F", type=path_type)
@user_option
@as_json_option
def import_memories(file: Path, user: str | None, as_json: bool) -> None:
    """Add the memories of an export to a user's own; those that are there already stay as they are."""
    export = Export(file)
    for _ in export:  # all of it is checked before any is stored
        pass
    done, user = with_memory(user, lambda store, user: store.import_(user, export))
    facts = {"user": user, "imported": done.added, "known": done.known}
    print_facts(facts, as_json, f"{done.added} memories imported, {done.known} were there already")
