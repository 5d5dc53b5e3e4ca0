"""`edgeagent doctor`: check what works here, and say how to mend the rest."""

from dataclasses import asdict
from pathlib import Path

import click

from edgeagent.cli.checks import (
    Check,
    check_batches,
    check_capabilities,
    check_database,
    check_disk,
    check_engine,
    check_heat,
    check_memory,
    check_model,
    check_port,
    check_python,
    check_rates,
    check_system,
    check_workers,
    failure,
)
from edgeagent.cli.governed import check_governor
from edgeagent.cli.options import json_option, print_json, run
from edgeagent.cli.reach import check_reach
from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import EdgeAgentError
from edgeagent.model.store import ModelStore
from edgeagent.settings import Settings, load_settings


@click.command()
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="F", help="Another settings file.")
@json_option
@click.pass_context
def doctor(context: click.Context, config_file: Path | None, as_json: bool) -> None:
    """Check what works here, and say how to mend the rest. Exit status 1 when something fails."""
    checks = examine(config_file)
    is_well = all(check.status != "fail" for check in checks)
    if as_json:
        print_json({"ok": is_well, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            click.echo(f"{check.status:<5} {check.name:<9} {check.reason}" + (f"; {check.todo}" if check.todo else ""))
    context.exit(0 if is_well else 1)


def examine(config_file: Path | None) -> list[Check]:
    """Every check that can be made: with unusable settings, only those of the machine."""
    checks = [check_system(), check_python(), check_database()]
    try:
        settings = load_settings(config_file)
    except EdgeAgentError as error:
        return [*checks, failure("config", error)]
    origins = sorted(set(settings.origins.values()))
    checks.append(Check("config", "ok", f"from {', '.join(origins)}" if origins else "all defaults"))
    return [*checks, *_models(settings), check_port(settings.config.http), *check_reach(settings)]


def _models(settings: Settings) -> list[Check]:
    from edgeagent import parts

    name = settings.config.models.default
    try:
        store = parts.model_store(settings)
        card = store.registry.card(name)
    except EdgeAgentError as error:
        return [failure("model", error)]
    checks = [check_model("model", store, name)]
    if settings.config.memory.enabled:
        checks.append(check_model("embedding", store, parts.EMBEDDING_MODEL))
    return [*checks, *_machine(settings, store, card)]


def _machine(settings: Settings, store: ModelStore, card: ModelCard) -> list[Check]:
    from edgeagent import parts
    from edgeagent.resource.boards import load_boards, match_machine

    try:
        profile = run(parts.profile(settings))
    except EdgeAgentError as error:
        return [failure("profile", error)]
    board = match_machine(load_boards(settings.paths.boards), profile)
    config = settings.config
    return [
        check_engine(profile.engine("llama")),
        *check_capabilities(profile),
        check_rates(profile),
        check_batches(profile),
        check_workers(config.engine),
        check_memory(profile, card, config.models.context_tokens, config.engine.kv_type),
        check_disk(profile, store, card),
        check_heat(profile, board),
        check_governor(settings),
    ]
