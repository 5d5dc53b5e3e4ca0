"""`edgeagent models adopt`: the file of a stage that was cut on another machine."""

import asyncio
import re
from pathlib import Path

import click

from edgeagent import parts
from edgeagent.cli.models.group import as_json_option, models, print_facts, stored_facts
from edgeagent.cli.models.slicing import stage_facts, what_it_is
from edgeagent.model.adopting import adopt
from edgeagent.settings import load_settings


def _parse(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise click.BadParameter("give 64 hexadecimal digits")
    return value.lower() if value else None


@models.command("adopt")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--model", "model_id", metavar="ID", help="The model that it was cut from, if it is not known by its hash."
)
@click.option("--variant", help="With --model: the variant that it was cut from.")
@click.option(
    "--sha256", metavar="HEX", callback=_parse, help="The file's hash, as 'models slice --json' told it there."
)
@as_json_option
def adopt_stage(path: Path, model_id: str | None, variant: str | None, sha256: str | None, as_json: bool) -> None:
    """Check a stage that another machine cut ('models slice'), and copy it into the model folder.

    It must be whole, a legal cut, and of a model that has a card here. Its source is known by the hash that the file
    names; where no variant here has that hash, name it.
    """
    if variant is not None and model_id is None:
        raise click.UsageError("give --variant together with --model")
    store = parts.model_store(load_settings())
    made = asyncio.run(adopt(store, path, model_id=model_id, variant=variant, sha256=sha256))
    stored = made.stored
    text = f"{stored.card.id} {stored.variant.name} ({what_it_is(made)}) is here: {stored.path}"
    print_facts(stored_facts(stored) | stage_facts(made), as_json, text)
