"""`edgeagent models quantize`, `prune` and `measure`: variants made and judged on this machine."""

import asyncio
import datetime as dt
from pathlib import Path

import click

from edgeagent import parts
from edgeagent.cli.models.group import JsonObject, as_json_option, models, print_facts, stored_facts
from edgeagent.cli.steps import show_steps
from edgeagent.core.errors import EngineError, RequestError
from edgeagent.execution.confine import HOSTILE_FILE
from edgeagent.execution.supervisor import Worker
from edgeagent.model import overlay
from edgeagent.model.making import CALIBRATION_WINDOW
from edgeagent.model.measure import Serving, Yardstick, measure
from edgeagent.model.overlay import Measurement
from edgeagent.model.prune import Pruned, prune
from edgeagent.model.quantize import Guidance, quantize
from edgeagent.model.store import ModelStore
from edgeagent.resource.capability import ENGINE
from edgeagent.settings import Settings, load_settings

DEFAULT_TEXT = "wikitext2-test.txt"
BENCH_DATA = "EDGEAGENT_BENCH_DATA"
SKIPPED_BYTES = 400_000
"""The front of the default text is what `measure` scores; layers are chosen on what comes after it."""

text_file = click.Path(path_type=Path, exists=True, dir_okay=False)
base_option = click.option("--variant", metavar="V", help="The variant to make it from, instead of the best here.")
data_option = click.option("--bench-data", envvar=BENCH_DATA, type=click.Path(path_type=Path), hidden=True)


async def spawn() -> Worker:
    return await Worker.spawn("llama", limits=HOSTILE_FILE)


@models.command("quantize")
@click.argument("model_id", metavar="ID")
@click.argument("type_", metavar="TYPE")
@click.option("--imatrix", type=text_file, metavar="FILE", help="An importance matrix, as llama-imatrix writes it.")
@click.option("--calibration", type=text_file, metavar="TEXTFILE", help="Compute an importance matrix from this text.")
@click.option(
    "--chunks", default=32, show_default=True, help=f"Windows of {CALIBRATION_WINDOW} tokens to calibrate on."
)
@base_option
@as_json_option
def quantize_model(
    model_id: str,
    type_: str,
    imatrix: Path | None,
    calibration: Path | None,
    chunks: int,
    variant: str | None,
    as_json: bool,
) -> None:
    """Make a variant of any llama.cpp type (Q8_0, Q4_K_M, IQ2_XXS, …) on this machine.

    An importance matrix tells the quantiser which weights matter; types of very few bits cannot do without. A variant
    made with one is called TYPE-imatrix.
    """
    if imatrix and calibration:
        raise click.UsageError("give either --imatrix or --calibration")
    guidance = Guidance.from_file(imatrix) if imatrix else None
    if calibration:
        guidance = Guidance.from_text(calibration.read_bytes(), chunks)
    settings = load_settings()
    store, threads = parts.model_store(settings), parts.engine_threads(settings)
    with show_steps(f"{model_id} {type_}") as on_step:
        job = quantize(store, model_id, type_, spawn, threads, base=variant, guidance=guidance, on_step=on_step)
        stored = asyncio.run(job)
    print_facts(stored_facts(stored), as_json, f"{stored.card.id} {stored.variant.name} is made: {stored.path}")


@models.command("prune")
@click.argument("model_id", metavar="ID")
@click.option("--layers", type=int, required=True, metavar="N", help="How many layers the result has.")
@click.option("--calibration", type=text_file, metavar="TEXTFILE", help="The text on which layers are judged.")
@base_option
@data_option
@as_json_option
def prune_model(
    model_id: str, layers: int, calibration: Path | None, variant: str | None, bench_data: Path | None, as_json: bool
) -> None:
    """Make a variant with fewer layers: those go that change least what passes through them.

    What that costs is not known before it is measured: 'edgeagent models measure ID --variant …'.
    """
    text = calibration.read_bytes() if calibration else _default_text("--calibration", bench_data)[SKIPPED_BYTES:]
    settings = load_settings()
    store, threads = parts.model_store(settings), parts.engine_threads(settings)
    with show_steps(f"{model_id} to {layers} layers") as on_step:
        made = asyncio.run(prune(store, model_id, layers, text, spawn, threads, base=variant, on_step=on_step))
    facts: JsonObject = {"dropped": list(made.dropped), "influence": list(made.influence)}
    print_facts(stored_facts(made.stored) | facts, as_json, _pruned_text(made))


def _pruned_text(made: Pruned) -> str:
    card, name = made.stored.card, made.stored.variant.name
    dropped = ", ".join(f"{i} ({made.influence[i]:.3f})" for i in made.dropped)
    return (
        f"{card.id} {name} is made: {made.stored.path}\nlayers left out, with their influence: {dropped}\n"
        f"now measure it: edgeagent models measure {card.id} --variant {name}"
    )


@models.command("measure")
@click.argument("model_id", metavar="ID")
@click.option("--variant", "variants", multiple=True, metavar="V", help="A variant; may be repeated.")
@click.option("--all", "is_all", is_flag=True, help="Every variant whose file is here.")
@click.option("--text", type=text_file, metavar="FILE", help=f"The text; else {DEFAULT_TEXT} in ${BENCH_DATA}.")
@click.option("--chunks", default=12, show_default=True, type=click.IntRange(1), help="Windows of the text.")
@click.option("--context", default=512, show_default=True, type=click.IntRange(4), help="Tokens of a window.")
@data_option
@as_json_option
def measure_model(
    model_id: str,
    variants: tuple[str, ...],
    is_all: bool,
    text: Path | None,
    chunks: int,
    context: int,
    bench_data: Path | None,
    as_json: bool,
) -> None:
    """Perplexity, distance to the best variant, memory and speed of variants that are here (else of the first).

    What comes out is kept beside the model, and used to choose variants from then on.
    """
    settings = load_settings()
    store = parts.model_store(settings)
    content = text.read_bytes() if text else _default_text("--text", bench_data)
    yardstick = Yardstick(text.name if text else DEFAULT_TEXT, content, chunks, context, _today())
    names = _here(store, model_id) if is_all else list(variants) or [store.registry.card(model_id).variants[0].name]
    for name in names:
        store.registry.variant(model_id, name)  # an unknown name is an error before anything is measured
    with show_steps(model_id) as on_step:
        serving = asyncio.run(_serving(settings))
        made = asyncio.run(measure(store, model_id, names, yardstick, serving, spawn, on_step))
    facts: JsonObject = {
        "id": model_id,
        "overlay": str(overlay.path_of(store.folder, model_id)),
        "measurements": [m.model_dump(mode="json") for m in made],
        "note": _note(store, model_id, made),
    }
    print_facts(facts, as_json, "\n".join(_table(made) + ([str(facts["note"])] if facts["note"] else [])))


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()


def _default_text(option: str, folder: Path | None) -> bytes:
    """Raises RequestError that says what to give."""
    path = folder / DEFAULT_TEXT if folder else None
    if path is None or not path.is_file():
        raise RequestError(f"there is no text to measure with; give {option} FILE, or set {BENCH_DATA}")
    return path.read_bytes()


def _here(store: ModelStore, model_id: str) -> list[str]:
    names = [v.name for v in store.registry.card(model_id).whole_variants if store.find(model_id, v.name)]
    if not names:
        raise RequestError(f"no file of {model_id} is here; run 'edgeagent models pull {model_id}'")
    return names


async def _serving(settings: Settings) -> Serving:
    """As this machine serves: the engine switches that work here, and the configured cache and context."""
    engine = (await parts.profile(settings)).engine(ENGINE)
    if engine is None or not engine.usable:
        raise EngineError("llama.cpp does not run on this machine; 'edgeagent doctor' says why")
    flash, config = engine.probe.settings["flash_attention"], settings.config
    return Serving(
        context_tokens=config.models.context_tokens,
        kv_type=config.engine.kv_type if flash else "f16",
        flash_attention=flash,
        extra_buffers=engine.probe.settings["extra_buffers"],
        threads=parts.engine_threads(settings),
        chunk_tokens=config.engine.chunk_tokens,
    )


def _note(store: ModelStore, model_id: str, made: list[Measurement]) -> str:
    """What keeps the new figures from being used, in one line; empty when nothing does."""
    card = store.registry.shipped(model_id)
    others = overlay.missing(card, made[-1], [m.variant for m in overlay.load(store.folder, model_id).measurements])
    if not others:
        return ""
    return f"not used for choosing yet: {', '.join(others)} have figures from another text; measure these, too"


def _table(made: list[Measurement]) -> list[str]:
    first = f"{'variant':<20}{'MB':>8}{'perplexity':>18}{'mean KL':>9}"
    return [first + f"{'top-1':>8}{'RSS MB':>8}{'prefill/s':>11}{'decode/s':>10}"] + [
        f"{m.variant:<20}{m.bytes / 1e6:>8.1f}{m.perplexity:>11.3f} ± {m.perplexity_error:<4.2f}{m.mean_kl:>9.4f}"
        f"{m.top1:>8.1%}{m.peak_rss_bytes / 1e6:>8.0f}{m.prefill_tok_s:>11.0f}{m.decode_tok_s:>10.1f}"
        for m in made
    ]
