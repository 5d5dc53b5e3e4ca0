"""Chooses the variant of a model that fits memory and latency with the best quality, and says why. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgeagent.core.cards import Architecture, KvType, ModelCard
from edgeagent.core.errors import ConfigError, ModelNotFoundError, OutOfMemoryError
from edgeagent.core.hardware import Rates

PROMPT_TOKENS = 1000
"""The prompt whose time to first token the latency target is about."""
CHUNK_TOKENS = 64

# Measured with llama-cpp-python 0.3.36 on x86-64 (VmRSS, and the sizes that llama.cpp logs). Its compute buffer is
# 12.42 MiB (64 tokens) and 99.38 MiB (512) for SmolLM2-135M: exactly 4 bytes x tokens x (vocabulary + 3 x width); for
# Gemma 3 270M the same formula is 0.2 % above the measured 64.31 MiB.
# A worker with nothing loaded: 40 MiB. Loading adds, beside the weights, 18 MiB for 49,152 tokens with merges and
# 42 MiB for 262,144 without: at most 384 bytes a token.
WORKER_BYTES = 40 * 2**20
VOCAB_BYTES_PER_TOKEN = 384


@dataclass(frozen=True, slots=True)
class Limits:
    """What a variant must respect. `quality_floor` is the highest perplexity allowed (None: any)."""

    memory_bytes: int
    ttft_s: float
    context_tokens: int
    kv_type: KvType
    quality_floor: float | None = None
    chunk_tokens: int = CHUNK_TOKENS


@dataclass(frozen=True, slots=True)
class Row:
    """One variant judged. `ttft_s` is for a prompt of 1,000 tokens; None: no variant's rate is known."""

    variant: str
    bytes: int
    memory_bytes: int
    ttft_s: float | None
    estimated: bool
    """True when `ttft_s` is scaled by bytes from another variant's measured rate."""
    perplexity: float | None
    fits_memory: bool
    meets_latency: bool
    meets_quality: bool

    @property
    def rejected(self) -> str | None:
        """Why the variant is not a first choice; None when nothing speaks against it."""
        faults = {"memory": self.fits_memory, "quality": self.meets_quality, "latency": self.meets_latency}
        return ", ".join(name for name, is_met in faults.items() if not is_met) or None


@dataclass(frozen=True, slots=True)
class Selection:
    variant: str
    why: str
    table: tuple[Row, ...]


def select(card: ModelCard, sizes: Mapping[str, int], rates: Mapping[str, Rates], limits: Limits) -> Selection:
    """The variant with the lowest perplexity among those that fit memory, quality floor and latency target.

    `sizes` (file bytes) and `rates` are by variant name; only variants in `sizes` are judged. When none is fast
    enough, the fastest that fits. Raises OutOfMemoryError, ConfigError (quality floor) or ModelNotFoundError.
    """
    table = judge(card, sizes, rates, limits)
    if not table:
        raise ModelNotFoundError(f"no variant of {card.id} is here; run 'edgeagent models pull {card.id}'")
    fitting = [row for row in table if row.fits_memory]
    if not fitting:
        raise OutOfMemoryError(_too_large(card, table, limits))
    good = [row for row in fitting if row.meets_quality]
    if not good:
        floor = limits.quality_floor
        raise ConfigError(f"no variant of {card.id} that fits has a perplexity of {floor} or less; raise quality_floor")
    fast = [row for row in good if row.meets_latency]
    chosen = min(fast or good, key=_by_quality if fast else _by_speed)
    return Selection(chosen.variant, _why(chosen, table, limits, is_fast=bool(fast)), table)


def judge(card: ModelCard, sizes: Mapping[str, int], rates: Mapping[str, Rates], limits: Limits) -> tuple[Row, ...]:
    """Every variant of the card that is in `sizes`, in the card's order."""
    return tuple(_row(card, v.name, sizes, rates, limits) for v in card.variants if v.name in sizes)


def predict_memory(shape: Architecture, file_bytes: int, limits: Limits) -> int:
    """Bytes a worker holds with this model loaded and its context full.

    Every layer's cache counts for the whole context: an upper bound for models with a sliding window. Weights that
    an engine repacks are counted once: the mapped originals may be dropped by the kernel.
    """
    cache = shape.kv_bytes_per_token(limits.kv_type) * limits.context_tokens
    compute = 4 * limits.chunk_tokens * (shape.vocab + 3 * shape.width)
    return WORKER_BYTES + VOCAB_BYTES_PER_TOKEN * shape.vocab + file_bytes + cache + compute


def _row(card: ModelCard, name: str, sizes: Mapping[str, int], rates: Mapping[str, Rates], limits: Limits) -> Row:
    variant = card.variant(name)
    if variant is None or card.architecture is None:
        raise ValueError(f"{card.id} {name} is not a decoder's variant")
    memory = predict_memory(card.architecture, sizes[name], limits)
    ttft_s = _ttft(name, sizes, rates)
    perplexity = variant.quality.perplexity if variant.quality else None
    floor = limits.quality_floor
    return Row(
        variant=name,
        bytes=sizes[name],
        memory_bytes=memory,
        ttft_s=ttft_s,
        estimated=ttft_s is not None and name not in rates,
        perplexity=perplexity,
        fits_memory=memory <= limits.memory_bytes,
        meets_latency=ttft_s is None or ttft_s <= limits.ttft_s,
        meets_quality=floor is None or (perplexity is not None and perplexity <= floor),
    )


def _ttft(name: str, sizes: Mapping[str, int], rates: Mapping[str, Rates]) -> float | None:
    """Measured, or scaled by bytes from the measured variant of the nearest size."""
    if name in rates:
        return PROMPT_TOKENS / rates[name].prefill_tok_s
    measured = [other for other in sizes if other in rates]
    if not measured:
        return None
    nearest = min(measured, key=lambda other: abs(sizes[other] - sizes[name]))
    return PROMPT_TOKENS / rates[nearest].prefill_tok_s * sizes[name] / sizes[nearest]


def _by_quality(row: Row) -> tuple[float, int]:
    return (float("inf") if row.perplexity is None else row.perplexity, row.bytes)


def _by_speed(row: Row) -> tuple[float, float]:
    return (float("inf") if row.ttft_s is None else row.ttft_s, _by_quality(row)[0])


def _why(chosen: Row, table: tuple[Row, ...], limits: Limits, *, is_fast: bool) -> str:
    memory = f"{chosen.memory_bytes / 1e6:.0f} of {limits.memory_bytes / 1e6:.0f} MB"
    choice = f"of {len(table)} variants" if len(table) > 1 else "the only one to choose from"
    if not is_fast:
        return (
            f"{choice}, none reaches a first token within {limits.ttft_s:g} s after {PROMPT_TOKENS} tokens; "
            f"{chosen.variant} is the fastest that fits ({_speed(chosen)}, {memory})"
        )
    quality = "no measured quality" if chosen.perplexity is None else f"perplexity {chosen.perplexity:g}"
    return f"{choice}, {chosen.variant} has the best quality that fits: {quality}, {memory}, {_speed(chosen)}"


def _speed(row: Row) -> str:
    if row.ttft_s is None:
        return "speed not measured yet"
    return f"first token after {row.ttft_s:.1f} s" + (" (estimated)" if row.estimated else "")


def _too_large(card: ModelCard, table: tuple[Row, ...], limits: Limits) -> str:
    least = min(table, key=lambda row: row.memory_bytes)
    return (
        f"no variant of {card.id} fits {limits.memory_bytes / 1e6:.0f} MB; {least.variant} would with "
        f"{least.memory_bytes / 1e6:.0f} MB at {limits.context_tokens} tokens of context: "
        "shorten models.context_tokens or raise models.memory_limit_bytes"
    )
