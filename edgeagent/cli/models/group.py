"""The group of `edgeagent models`, and what its commands share."""

import json

import click

from edgeagent.model.store import StoredVariant

JsonObject = dict[str, object]
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
variant_option = click.option("--variant", help="One variant (a quantisation) instead of the card's first.")


@click.group()
def models() -> None:
    """Models: list, show, pull, quantize, prune, slice, adopt, measure, calibrate, rm."""


def stored_facts(stored: StoredVariant) -> JsonObject:
    return {
        "id": stored.card.id,
        "variant": stored.variant.name,
        "path": str(stored.path),
        "bytes": stored.bytes,
        "sha256": stored.sha256,
        "companions": {name: str(path) for name, path in stored.companions.items()},
    }


def print_facts(facts: JsonObject, as_json: bool, text: str) -> None:
    click.echo(json.dumps(facts) if as_json else text)
