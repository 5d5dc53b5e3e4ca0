"""`edgeagent fleet records`: what this peer has collected of its fleet's devices."""

import contextlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict

import click

from edgeagent.cli.fleet.group import fleet
from edgeagent.cli.options import json_option, print_json, with_settings
from edgeagent.execution.durable import Census, Collection, Kept
from edgeagent.settings import Settings

JsonObject = dict[str, object]


@fleet.command()
@with_settings
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="At most so many.")
@click.option("--unread", is_flag=True, help="The oldest that were not acknowledged, instead of the newest.")
@click.option(
    "--acknowledge", is_flag=True, help="With --unread: mark what is shown as read, so that it may be dropped."
)
@json_option
def records(settings: Settings, limit: int, *, unread: bool, acknowledge: bool, as_json: bool) -> None:
    """Show the newest answers that devices have recorded here (peer.collect).

    What was acknowledged is dropped when it is older than peer.collect_days, or when others need its room in
    peer.collect_bytes. The rest stays.
    """
    if acknowledge and not unread:
        raise click.UsageError("give --acknowledge together with --unread")
    if not settings.paths.collected.exists():
        _show([], None, as_json=as_json)
        return
    with contextlib.closing(Collection(settings.paths.collected)) as collection:
        if not unread:
            _show(collection.newest(limit), collection.census(), as_json=as_json)
            return
        found = collection.unread(limit)
        _show(found.values(), collection.census(), as_json=as_json)
        if acknowledge:
            sys.stdout.flush()  # what could not be written was not read
            collection.mark_read(found)


def _show(found: Iterable[tuple[str, Kept]], census: Census | None, *, as_json: bool) -> None:
    shown = [{**_facts(kept.body), "device": device} for device, kept in found]
    if as_json:
        print_json({"records": shown, "collected": asdict(census) if census else None})
        return
    if census is None or not census.num_records:
        click.echo("nothing was collected here; set peer.collect on this peer and mqtt.records on devices")
    for each in shown:
        click.echo(_line(each))


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
