"""`edgeagent models slice`: one stage of a model as a file of its own."""

import asyncio
import re

import click

from edgeagent import parts
from edgeagent.cli.models.group import JsonObject, as_json_option, models, print_facts, stored_facts
from edgeagent.cli.models.variants import base_option, spawn
from edgeagent.cli.steps import show_steps
from edgeagent.model.slicing import Sliced, slice_variant
from edgeagent.settings import load_settings

Layers = tuple[int, int]


def _parse(_context: click.Context, _option: click.Parameter, value: str) -> Layers:
    if not (found := re.fullmatch(r"(\d{1,6}):(\d{1,6})", value)):
        raise click.BadParameter(f"'{value}' is not A:B, for instance 0:8")
    return int(found[1]), int(found[2])


@models.command("slice")
@click.argument("model_id", metavar="ID")
@click.option("--layers", required=True, metavar="A:B", callback=_parse, help="Layers A to B-1, numbered from 0.")
@base_option
@as_json_option
def slice_model(model_id: str, layers: Layers, variant: str | None, as_json: bool) -> None:
    """Cut a head (0:K), a tail (K:N) or a middle (K:L) out of a model of N layers, or the output head alone (N:N).

    A device with a head and a peer with its tail run a model together that only the peer could run alone. With the
    output head, too, the device draws the words itself. A peer with a middle passes hidden states on to one with the
    tail. No byte of the weights changes.
    """
    store = parts.model_store(load_settings())
    with show_steps(f"{model_id} {layers[0]}:{layers[1]}") as on_step:
        made = asyncio.run(slice_variant(store, model_id, *layers, spawn, base=variant, on_step=on_step))
    stored = made.stored
    text = f"{stored.card.id} {stored.variant.name} ({what_it_is(made)}) is made: {stored.path}"
    print_facts(stored_facts(stored) | stage_facts(made), as_json, text)


def stage_facts(made: Sliced) -> JsonObject:
    cut, source = made.cut, made.stored.variant.source
    return {"layers": [cut.begin, cut.end], "of_layers": cut.layers, "source": source.model_dump(mode="json")}


def what_it_is(made: Sliced) -> str:
    if made.cut.is_output:
        return "the output head"
    if made.cut.is_head:
        return "a head"
    return "a middle" if made.cut.ends_inside else "a tail"
