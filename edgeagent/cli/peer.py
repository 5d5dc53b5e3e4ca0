"""`edgeagent peer`: the cloud role."""

import click

from edgeagent.cli.options import json_option, run, start_logging, with_settings
from edgeagent.settings import Settings


@click.command()
@click.option("--pair", is_flag=True, help="Show a one-time code, enrol the device that is given it, and end.")
@with_settings
@json_option
def peer(settings: Settings, *, pair: bool, as_json: bool) -> None:
    """Offer this machine's models to devices on the broker until SIGTERM or Ctrl-C."""
    if pair:
        from edgeagent.cli.fleet.pairing import show_code

        show_code(settings, as_json=as_json)
        return
    if as_json:
        raise click.UsageError("--json goes with --pair")
    from edgeagent.service import serve_peer

    start_logging(settings)
    run(serve_peer(settings))
