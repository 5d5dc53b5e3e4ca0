"""`edgeagent models pull` and `rm`: files that come and go."""

import asyncio

import click

from edgeagent import daemon
from edgeagent.cli.models.group import JsonObject, as_json_option, models, print_facts, stored_facts, variant_option
from edgeagent.cli.progress import show_progress
from edgeagent.settings import load_settings


@models.command("pull")
@click.argument("model_id", metavar="ID")
@variant_option
@as_json_option
def pull_model(model_id: str, variant: str | None, as_json: bool) -> None:
    """Fetch a variant, check it, and keep it for offline use."""
    store = daemon.model_store(load_settings())
    with show_progress(f"fetching {model_id}") as on_progress:
        stored = asyncio.run(store.ensure(model_id, variant, on_progress))
    print_facts(stored_facts(stored), as_json, f"{stored.card.id} {stored.variant.name} is here: {stored.path}")


@models.command("rm")
@click.argument("model_id", metavar="ID")
@variant_option
@as_json_option
def remove_model(model_id: str, variant: str | None, as_json: bool) -> None:
    """Delete a model's files, or those of one variant."""
    freed = asyncio.run(daemon.model_store(load_settings()).remove(model_id, variant))
    facts: JsonObject = {"id": model_id, "variant": variant, "freed_bytes": freed}
    print_facts(facts, as_json, f"{model_id}: {freed / 1e6:.1f} MB freed")
