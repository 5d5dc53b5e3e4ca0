"""`edgeagent profile`: what this machine, or a captured one, is and can do."""

from pathlib import Path

import click

from edgeagent.cli.options import json_option, print_json, run, with_settings
from edgeagent.core.hardware import Profile, Rates
from edgeagent.settings import Settings

GIB = 2**30
LABEL_CHARS = 12


@click.command()
@click.option(
    "--sysroot",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="D",
    help="Read a captured machine's files below D; nothing is measured or kept.",
)
@click.option("--refresh", is_flag=True, help="Measure again instead of using what was measured before.")
@with_settings
@json_option
def profile(settings: Settings, sysroot: Path | None, refresh: bool, as_json: bool) -> None:
    """Measure and describe this machine."""
    if sysroot and refresh:
        raise click.UsageError("--refresh measures, and a --sysroot cannot be measured.")
    found = _captured(settings, sysroot) if sysroot else _measured(settings, refresh)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for label, text in describe(found):
        click.echo(f"{label:<{LABEL_CHARS}} {text}")


def _captured(settings: Settings, sysroot: Path) -> Profile:
    from edgeagent import daemon
    from edgeagent.resource.probes.sysroot import Sysroot
    from edgeagent.resource.profile import read_machine

    return read_machine(Sysroot(sysroot), daemon.places(settings))


def _measured(settings: Settings, refresh: bool) -> Profile:
    from edgeagent import daemon

    if refresh or not settings.paths.profile.exists():
        click.echo("measuring this machine, about ten seconds …", err=True)
    return run(daemon.profile(settings, refresh=refresh))


def describe(profile: Profile) -> list[tuple[str, str]]:
    """The profile as labelled lines for people."""
    cpu, memory = profile.cpu, profile.memory
    clock = f", {cpu.max_mhz:.0f} MHz" if cpu.max_mhz else ""
    reads = f", reads {memory.bandwidth_bytes_s / 1e9:.1f} GB/s" if memory.bandwidth_bytes_s else ""
    free = f"{memory.total_bytes / GIB:.1f} GiB, {memory.available_bytes / GIB:.1f} GiB available"
    return [
        ("board", profile.board + (f" (board profile {profile.board_profile})" if profile.board_profile else "")),
        ("cpu", f"{cpu.model}, {cpu.arch}, {cpu.cores} cores{clock}"),
        ("memory", free + reads),
        ("storage", f"{profile.storage.free_bytes / GIB:.1f} GiB free for {profile.storage.path}"),
        *_heat_and_power(profile),
        *(
            ("accelerator", f"{a.kind} {a.name}: {'usable' if a.usable else 'not usable'}, {a.why}")
            for a in profile.accelerators
        ),
        *(("engine", f"{e.name} {e.version}: {e.probe.verdict}, {e.probe.reason}") for e in profile.engines),
        *(("rates", f"{key}: {_rates(rates)}") for key, rates in profile.rates.items()),
        *(("not known", f"{fact}: {why}") for fact, why in profile.gaps.items()),
        ("fingerprint", profile.fingerprint[:16]),
    ]


def _heat_and_power(profile: Profile) -> list[tuple[str, str]]:
    lines = [("thermal", f"{zone} {celsius:.1f} °C") for zone, celsius in profile.thermal.zones.items()]
    if profile.thermal.throttled is not None:
        lines.append(("thermal", "throttled now" if profile.thermal.throttled else "not throttled"))
    return lines + [("power", f"{name}: {state}") for name, state in profile.power.sources.items()]


def _rates(rates: Rates) -> str:
    share = f", {rates.roofline_fraction:.0%} of memory bandwidth" if rates.roofline_fraction else ""
    speeds = f"prefill {rates.prefill_tok_s:.0f} tok/s, decode {rates.decode_tok_s:.1f} tok/s"
    return f"{speeds} with {rates.threads} threads and a {rates.kv_type} cache{share}"
