"""`edgeagent profile`: what this machine, or a captured one, is and can do."""

from pathlib import Path

import click

from edgeagent.cli.machine import LABEL_CHARS, describe
from edgeagent.cli.options import json_option, print_json, run, with_settings
from edgeagent.cli.progress import show_steps
from edgeagent.core.hardware import Profile
from edgeagent.settings import Settings


@click.command()
@click.option(
    "--sysroot",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="D",
    help="Read a captured machine's files below D; nothing is measured or kept.",
)
@click.option(
    "--budget-s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds the measuring pass may take; what is left is measured next time. 0: only what answering needs.",
)
@click.option("--refresh", is_flag=True, help="Measure again instead of using what was measured before.")
@with_settings
@json_option
def profile(settings: Settings, sysroot: Path | None, budget_s: float, refresh: bool, as_json: bool) -> None:
    """Measure and describe this machine."""
    if sysroot and refresh:
        raise click.UsageError("--refresh measures, and a --sysroot cannot be measured.")
    found = _captured(settings, sysroot) if sysroot else _measured(settings, refresh, budget_s)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for label, text in describe(found):
        click.echo(f"{label:<{LABEL_CHARS}} {text}")


def _captured(settings: Settings, sysroot: Path) -> Profile:
    from edgeagent import parts
    from edgeagent.resource.probes.sysroot import Sysroot
    from edgeagent.resource.profile import read_machine

    return read_machine(Sysroot(sysroot), parts.places(settings))


def _measured(settings: Settings, refresh: bool, budget_s: float) -> Profile:
    from edgeagent import parts
    from edgeagent.resource.profile import Depth, Effort

    if refresh or not settings.paths.profile.exists():
        click.echo("measuring this machine, about ten seconds, then a pass of", err=True, nl=False)
        click.echo(f" {budget_s:.0f} s at most …", err=True)
    with show_steps("measuring") as progress:
        depth = Depth.ALL if budget_s else Depth.NEEDED
        effort = Effort(depth=depth, budget_s=budget_s, progress=progress)
        return run(parts.profile(settings, refresh=refresh, effort=effort))
