"""Measures variants: how well they predict a text, how far they are from the best one, what they take, how fast."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeagent.core.cards import KvType
from edgeagent.core.errors import ModelNotFoundError, RequestError
from edgeagent.model import making, overlay
from edgeagent.model.making import OnStep, Spawn, silent
from edgeagent.model.overlay import Measurement
from edgeagent.model.store import ModelStore, StoredVariant

BENCH_PROMPT_TOKENS, BENCH_DECODE_TOKENS = 256, 32
BENCH_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The text, and how much of it: windows of `context_tokens`, at most `chunks` of them. `date` is today's."""

    name: str
    text: bytes
    chunks: int
    context_tokens: int
    date: str


@dataclass(frozen=True, slots=True)
class Serving:
    """How a variant runs when it serves: rates and memory are measured like that."""

    context_tokens: int
    kv_type: KvType
    flash_attention: bool
    extra_buffers: bool
    threads: int
    chunk_tokens: int


async def measure(
    store: ModelStore,
    model_id: str,
    variants: Sequence[str],
    yardstick: Yardstick,
    serving: Serving,
    spawn: Spawn,
    on_step: OnStep = silent,
) -> list[Measurement]:
    """Measure variants that are here, each in workers of its own, and keep what came out in the model's overlay.

    Raises RequestError (text too short, no decoder), ModelNotFoundError (no file), and what a worker raises.
    """
    card = store.registry.card(model_id)
    if card.architecture is None:
        raise RequestError(f"{card.id} predicts no text; measure a chat or base model")
    reference = _stored(store, model_id, making.best_base(store, card))
    made: list[Measurement] = []
    for name in variants:
        stored = _stored(store, model_id, name)
        served = await _serve(stored, serving, spawn, on_step)
        scores = await _score(stored, reference, yardstick, serving, spawn, on_step)
        made.append(_measurement(stored, reference, yardstick, serving, served | scores))
        async with store.locked(card):  # at once: an interrupted run keeps what it has
            current = overlay.load(store.folder, model_id)
            overlay.save(store.folder, model_id, current.with_measurement(made[-1]))
    overlay.refresh(store.registry, store.folder, model_id)
    return made


def _stored(store: ModelStore, model_id: str, variant: str) -> StoredVariant:
    if (stored := store.find(model_id, variant)) is None:
        command = f"edgeagent models pull {model_id} --variant {variant}"
        raise ModelNotFoundError(f"{model_id} {variant} is not here; run '{command}', or make it")
    if stored.variant.is_stage:
        raise RequestError(f"{model_id} {variant} is only a stage of the model; measure the whole")
    return stored


async def _serve(stored: StoredVariant, serving: Serving, spawn: Spawn, on_step: OnStep) -> dict[str, Any]:
    """Rates (the fastest round: whatever else runs here only slows one down) and peak memory of a serving worker."""
    stage = f"{stored.variant.name} rates"
    async with making.one_worker(spawn) as worker:
        loaded = await making.run(
            worker,
            "load",
            stage=stage,
            path=str(stored.path),
            context_tokens=serving.context_tokens,
            kv_type=serving.kv_type,
            flash_attention=serving.flash_attention,
            extra_buffers=serving.extra_buffers,
            threads=serving.threads,
            chunk_tokens=serving.chunk_tokens,
        )
        rounds: list[dict[str, Any]] = []
        for number in range(1, BENCH_ROUNDS + 1):
            sizes: dict[str, Any] = {"prompt_tokens": BENCH_PROMPT_TOKENS, "decode_tokens": BENCH_DECODE_TOKENS}
            rounds.append(await making.run(worker, "bench", stage=stage, **sizes))
            on_step(stage, number, BENCH_ROUNDS)
        peak = await making.run(worker, "peak_memory", stage=stage)
    fastest = {key: max(r[key] for r in rounds) for key in ("prefill_tok_s", "decode_tok_s")}
    engine = f"llama-cpp-python {loaded['engine_version']}"
    return fastest | peak | {"engine": engine, "served_tokens": loaded["context_tokens"]}


async def _score(
    stored: StoredVariant,
    reference: StoredVariant,
    yardstick: Yardstick,
    serving: Serving,
    spawn: Spawn,
    on_step: OnStep,
) -> dict[str, Any]:
    """Perplexity, KL and agreement. The reference is by definition at no distance from itself."""
    is_reference = stored.sha256 == reference.sha256
    async with making.one_worker(spawn) as worker:
        facts: dict[str, Any] = await making.run(
            worker,
            "perplexity",
            [yardstick.text],
            stage=f"{stored.variant.name} text",
            on_step=on_step,
            path=str(stored.path),
            reference="" if is_reference else str(reference.path),
            chunks=yardstick.chunks,
            context_tokens=yardstick.context_tokens,
            threads=serving.threads,
            extra_buffers=serving.extra_buffers,
            flash_attention=serving.flash_attention,
        )
    return facts | ({"mean_kl": 0.0, "top1": 1.0} if is_reference else {})


def _measurement(
    stored: StoredVariant,
    reference: StoredVariant,
    yardstick: Yardstick,
    serving: Serving,
    facts: dict[str, Any],
) -> Measurement:
    return Measurement(
        variant=stored.variant.name,
        sha256=stored.sha256,
        bytes=stored.bytes,
        reference=reference.variant.name,
        text=yardstick.name,
        text_sha256=hashlib.sha256(yardstick.text).hexdigest(),
        context_tokens=yardstick.context_tokens,
        threads=serving.threads,
        kv_type=serving.kv_type,
        date=yardstick.date,
        **facts,
    )
