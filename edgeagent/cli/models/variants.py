"""`edgeagent models quantize`: variants made on this machine."""

import asyncio

import click

from edgeagent import daemon
from edgeagent.cli.models.group import as_json_option, models, print_facts, stored_facts
from edgeagent.execution.supervisor import Worker
from edgeagent.model.quantize import quantize
from edgeagent.settings import load_settings


@models.command("quantize")
@click.argument("model_id", metavar="ID")
@click.argument("type_", metavar="TYPE")
@as_json_option
def quantize_model(model_id: str, type_: str, as_json: bool) -> None:
    """Make a smaller variant (Q8_0, Q4_0, Q3_K_M, Q2_K) on this machine."""
    settings = load_settings()
    store, threads = daemon.model_store(settings), daemon.engine_threads(settings)
    stored = asyncio.run(quantize(store, model_id, type_, lambda: Worker.spawn("llama"), threads))
    print_facts(stored_facts(stored), as_json, f"{stored.card.id} {stored.variant.name} is made: {stored.path}")
