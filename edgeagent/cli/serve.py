"""`edgeagent serve`: the daemon."""

import click

from edgeagent.cli.options import run, start_logging, with_settings
from edgeagent.settings import Settings


@click.command()
@with_settings
def serve(settings: Settings) -> None:
    """Serve the HTTP API and the page until SIGTERM or Ctrl-C."""
    from edgeagent.service import serve_house

    start_logging(settings)
    run(serve_house(settings))
