"""`edgeagent models calibrate`: learns when a small model's answer may stand, and when a larger one is asked."""

import datetime as dt
import hashlib
from pathlib import Path

import click

from edgeagent import parts
from edgeagent.cli.models.group import JsonObject, as_json_option, models, print_facts
from edgeagent.cli.options import run
from edgeagent.cli.steps import show_steps
from edgeagent.model import overlay
from edgeagent.model.cascade import EARLY_TOKENS, Calibration, Fit, Target, calibrate
from edgeagent.model.grading import Item, read_items
from edgeagent.model.resident import Resident
from edgeagent.model.store import ModelStore
from edgeagent.resource.capability import engine_build
from edgeagent.settings import Settings, load_settings

share = click.FloatRange(0, 1)


@models.command("calibrate")
@click.argument("model_id", metavar="ID")
@click.option("--variant", metavar="V", help="The variant that answers first, instead of the one chosen here.")
@click.option(
    "--file",
    "path",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="F",
    help="Questions with known answers, one JSON object a line.",
)
@click.option("--larger", metavar="NAME", help="Whom to ask else: ID or ID/VARIANT, here or at a peer.")
@click.option("--floor", type=share, metavar="A", help="The least share of right answers.")
@click.option("--budget", type=share, metavar="S", help="The largest share of questions that may be passed on.")
@click.option("--max-tokens", type=click.IntRange(1), default=48, show_default=True, metavar="N")
@as_json_option
def calibrate_model(
    model_id: str,
    variant: str | None,
    path: Path,
    larger: str | None,
    floor: float | None,
    budget: float | None,
    max_tokens: int,
    as_json: bool,
) -> None:
    """Learn when ID's answers may stand, for models.cascade.

    Without --floor and --budget the cascade shall be right as often as the larger model alone; without --larger, nine
    in ten of the answers that stand shall be right.
    """
    if floor is not None and budget is not None:
        raise click.UsageError("give either --floor or --budget")
    settings, content = load_settings(), path.read_bytes()
    items = read_items(content, path.name)
    small, fitted = run(_learn(settings, model_id, variant, items, larger, Target(floor, budget), max_tokens))
    made = Calibration(
        variant=small.variant.name,
        sha256=small.variant.sha256 or "",
        larger=larger or "",
        confidence=fitted.confidence,
        threshold=fitted.threshold,
        early=fitted.early,
        target=fitted.target,
        figures=fitted.figures,
        file=path.name,
        file_sha256=hashlib.sha256(content).hexdigest(),
        max_tokens=max_tokens,
        engine=f"llama-cpp-python {engine_build()}",
        date=dt.datetime.now(dt.UTC).date().isoformat(),
    )
    kept = run(_keep(parts.model_store(settings), model_id, made))
    facts: JsonObject = {"id": model_id, "overlay": str(kept), **made.model_dump(mode="json")}
    print_facts(facts, as_json, _text(model_id, made))


async def _learn(
    settings: Settings,
    model_id: str,
    variant: str | None,
    items: list[Item],
    larger: str | None,
    target: Target,
    max_tokens: int,
) -> tuple[Resident, Fit]:
    from edgeagent.agent.calibrating import Examiner
    from edgeagent.daemon import open_house

    async with open_house(settings, role="calibrate") as house:
        small = await house.pool.get(f"{model_id}/{variant}" if variant else model_id)
        examiner = Examiner(house.pool, house.assistant.answerer, max_tokens)
        with show_steps(model_id) as on_step:
            name = f"{model_id}/{small.variant.name}"
            outcomes = await examiner.outcomes(items, name, larger, on_step)
    return small, calibrate(outcomes, target)


async def _keep(store: ModelStore, model_id: str, made: Calibration) -> Path:
    async with store.locked(store.registry.card(model_id)):
        overlay.save(store.folder, model_id, overlay.load(store.folder, model_id).with_calibration(made))
    return overlay.path_of(store.folder, model_id)


def _text(model_id: str, made: Calibration) -> str:
    figures, name = made.figures, f"{model_id}/{made.variant}"
    lines = [
        f"{name}: {figures.accuracy:.1%} of {figures.questions} questions right, {figures.small_s:.2f} s each",
        f"confidence: AUROC {figures.auroc:.3f}, calibration error {figures.calibration_error:.3f} (out of fold)",
        f"threshold {made.threshold:.3f}, so that {made.target}: {figures.share_asked:.1%} are passed on",
    ]
    if figures.standing_accuracy is not None:
        lines.append(f"of the answers that stand {figures.standing_accuracy:.1%} are right")
    if figures.cascade_accuracy is not None and figures.larger_accuracy is not None and figures.larger_s is not None:
        mean_s = figures.small_s + figures.share_asked * figures.larger_s
        lines.append(f"{made.larger} alone: {figures.larger_accuracy:.1%} right, {figures.larger_s:.2f} s each")
        blind = figures.accuracy + figures.share_asked * (figures.larger_accuracy - figures.accuracy)
        lines.append(f"cascade: {figures.cascade_accuracy:.1%} right, {mean_s:.2f} s each")
        lines.append(f"passing on as many at random: {blind:.1%} right")
    lines.append(_early_text(made))
    if figures.share_asked == 1:
        lines.append("every question would be passed on: this cascade costs more than the larger model alone")
    second = made.larger or "LARGER"
    lines.append(f'use it: cascade = ["{name}", "{second}"] under [models]')
    return "\n".join(lines)


def _early_text(made: Calibration) -> str:
    bounds = made.early and [
        f"stands from {made.early.accept:.3f}" if made.early.accept is not None else "",
        f"is left up to {made.early.reject:.3f}" if made.early.reject is not None else "",
    ]
    said = " and ".join(filter(None, bounds or []))
    if not said:
        return "no answer is decided before its end"
    return f"after {EARLY_TOKENS} tokens an answer {said}"
