"""`edgeagent fleet records`: what this peer has collected of its fleet's devices."""

import json
import time

import click

from edgeagent.cli.fleet.group import fleet
from edgeagent.cli.options import json_option, print_json, with_settings
from edgeagent.execution.durable import Collection
from edgeagent.settings import Settings

JsonObject = dict[str, object]


@fleet.command()
@with_settings
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="At most so many.")
@json_option
def records(settings: Settings, limit: int, *, as_json: bool) -> None:
    """Show the newest answers that devices have recorded here (peer.collect)."""
    found = _newest(settings, limit)
    if as_json:
        print_json({"records": found})
        return
    if not found:
        click.echo("nothing was collected here; set peer.collect on this peer and mqtt.records on devices")
    for each in found:
        click.echo(_line(each))


def _newest(settings: Settings, limit: int) -> list[JsonObject]:
    if not settings.paths.collected.exists():
        return []
    collection = Collection(settings.paths.collected)
    try:
        return [{**_facts(kept.body), "device": device} for device, kept in collection.newest(limit)]
    finally:
        collection.close()


def _facts(body: str) -> JsonObject:
    """What a device said, which may be anything."""
    try:
        found = json.loads(body)
    except ValueError:
        return {"body": body}
    return found if isinstance(found, dict) else {"body": body}


def _line(each: JsonObject) -> str:
    told = " ".join(f"{key}={_shown(each.get(key))}" for key in ("plan", "model", "peer", "answer_tokens", "handovers"))
    return f"{_when(each.get('at'))}  {each['device']}  {told}"


def _when(at: object) -> str:
    if not isinstance(at, int | float):
        return "?"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (ValueError, OverflowError, OSError):
        return "?"


def _shown(value: object) -> str:
    """Nothing that a terminal would take for an order."""
    text = str(value)
    return text if text.isprintable() else json.dumps(text)
