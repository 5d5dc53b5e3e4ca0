"""`edgeagent peer`: the cloud role."""

import click

from edgeagent.cli.options import run, start_logging, with_settings
from edgeagent.settings import Settings


@click.command()
@with_settings
def peer(settings: Settings) -> None:
    """Offer this machine's models to devices on the broker until SIGTERM or Ctrl-C."""
    from edgeagent.service import serve_peer

    start_logging(settings)
    run(serve_peer(settings))
