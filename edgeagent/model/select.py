"""Chooses the variant of a model for a machine and says why: quality, speed, memory and energy under targets. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeagent.core.cards import Architecture, KvType, ModelCard
from edgeagent.core.errors import ConfigError, ModelNotFoundError, OutOfMemoryError
from edgeagent.model.explain import latency_fault, megabytes, why
from edgeagent.model.footprint import Weights, weigh
from edgeagent.model.forecast import Speed, forecast, sketch_from_rates
from edgeagent.model.limits import Limits
from edgeagent.model.machine import Machine
from edgeagent.model.pareto import Axes, Entry, choose, front, prefer
from edgeagent.model.placement import Option, options
from edgeagent.model.quality import ranks

Sizes = Mapping[str, int | None]
"""Bytes of a variant's file by variant name; None: no such file was seen, its size is predicted."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One variant and how to run it."""

    model: str
    variant: str
    context_tokens: int
    kv_type: KvType
    threads: int | None
    """None: to be measured."""
    option: Option
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One variant judged, run as well as it can be run within the limits; `choice` is None where nothing is known.

    `rejected`: why it is not a first choice, in words and figures; `faults` the same as `memory`, `quality`, `latency`
    or `size`. None and empty when nothing speaks against it.
    """

    variant: str
    rank: int
    perplexity: float | None
    bytes: int | None
    is_size_predicted: bool
    choice: Choice | None
    speed: Speed | None
    energy_j: float | None
    faults: tuple[str, ...]
    rejected: str | None
    is_on_front: bool = False

    @property
    def fits_memory(self) -> bool:
        return not {"memory", "size"} & set(self.faults)

    @property
    def axes(self) -> Axes:
        ttft_s, tpot_s = (self.speed.ttft_s, self.speed.tpot_s) if self.speed else (None, None)
        memory = self.choice.memory_bytes if self.choice else None
        return (self.rank, ttft_s, tpot_s, memory, self.energy_j)


@dataclass(frozen=True, slots=True)
class Selection:
    choice: Choice
    why: str
    table: tuple[Row, ...]

    @property
    def variant(self) -> str:
        return self.choice.variant


@dataclass(frozen=True, slots=True)
class _Variant:
    """A variant with all the ways it could run, as entries of the choice."""

    name: str
    shape: Architecture
    weights: Weights | None
    perplexity: float | None
    rank: int
    entries: tuple[Entry, ...]


def select(card: ModelCard, sizes: Sizes, machine: Machine, limits: Limits) -> Selection:
    """The variant to run, and every one of `sizes` judged.

    Raises OutOfMemoryError, ConfigError (quality floor) or ModelNotFoundError (no sizes).
    """
    found = _variants(card, sizes, machine, limits)
    if not found:
        raise ModelNotFoundError(f"no variant of {card.id} is here; run 'edgeagent models pull {card.id}'")
    entry = choose(_admitted(found, limits), limits.memory_bytes, limits.objective)
    table = _table(card, found, limits)
    if entry is None:
        raise _nothing(card, found, limits)
    chosen = next(v for v in found if v.name == entry.variant)
    table = tuple(_row(card, chosen, limits, entry, r.is_on_front) if r.variant == chosen.name else r for r in table)
    choice = next(row.choice for row in table if row.variant == chosen.name)
    assert choice is not None
    return Selection(choice, why(choice, table, limits), table)


def judge(card: ModelCard, sizes: Sizes, machine: Machine, limits: Limits) -> tuple[Row, ...]:
    """Every variant of the card that is in `sizes`, in the card's order; the front is that of those that fit."""
    return _table(card, _variants(card, sizes, machine, limits), limits)


def _variants(card: ModelCard, sizes: Sizes, machine: Machine, limits: Limits) -> list[_Variant]:
    if card.architecture is None:
        raise ValueError(f"{card.id} is no decoder")
    places, wanted = ranks(card), [v for v in card.whole_variants if v.name in sizes]
    weights = {v.name: weigh(card.shape(v), v.file_type, machine.repacked, sizes[v.name]) for v in wanted}
    by_key = {f"{card.id}/{name}": w for name, w in weights.items() if w}
    found = []
    for variant in wanted:
        shape, own, key = card.shape(variant), weights[variant.name], f"{card.id}/{variant.name}"
        entries: tuple[Entry, ...] = ()
        if own:
            speed = forecast(key, own, machine, sketch_from_rates(by_key, machine, key), limits.threads)
            ways = enumerate(options(shape, own, speed, machine, limits))
            entries = tuple(_entry(variant.name, places[variant.name], i, way, machine, limits) for i, way in ways)
        perplexity = variant.quality.perplexity if variant.quality else None
        found.append(_Variant(variant.name, shape, own, perplexity, places[variant.name], entries))
    return found


def _entry(variant: str, rank: int, place: int, option: Option, machine: Machine, limits: Limits) -> Entry:
    speed = option.speed
    request_s = speed.request_s if speed else None
    energy_j = machine.load_w * request_s if machine.load_w and request_s else None
    is_coarse = option.placement.setup.kv_type == "q4_0" != limits.kv_type
    return Entry(variant, rank, is_coarse, place, option, latency_fault(speed, limits) is None, energy_j)


def _admitted(found: list[_Variant], limits: Limits) -> list[Entry]:
    """The options of variants that the quality floor lets pass."""
    return [entry for variant in found if _quality_fault(variant, limits) is None for entry in variant.entries]


def _table(card: ModelCard, found: list[_Variant], limits: Limits) -> tuple[Row, ...]:
    rows = [_row(card, variant, limits, _best_entry(variant, limits)) for variant in found]
    fitting = [row for row in rows if row.fits_memory]
    on_front = {row.variant for row, is_on in zip(fitting, front(fitting), strict=True) if is_on}
    return tuple(replace(row, is_on_front=row.variant in on_front) for row in rows)


def _best_entry(variant: _Variant, limits: Limits) -> Entry | None:
    """How the variant would run: as preferred where it fits, else as small as possible."""
    fitting = [e for e in variant.entries if e.option.least_bytes <= limits.memory_bytes]
    if fitting:
        return prefer(fitting, limits.objective)
    return min(variant.entries, key=lambda e: e.option.least_bytes, default=None)


def _row(card: ModelCard, variant: _Variant, limits: Limits, entry: Entry | None, is_on_front: bool = False) -> Row:
    weights = variant.weights
    choice = _choice(card, variant, entry, limits) if entry else None
    speed = entry.option.speed if entry else None
    faults = {
        "size": None if weights else "its size is not known before it is here",
        "memory": _memory_fault(choice, limits),
        "quality": _quality_fault(variant, limits),
        "latency": None if limits.objective == "quality" else latency_fault(speed, limits),
    }
    return Row(
        variant=variant.name,
        rank=variant.rank,
        perplexity=variant.perplexity,
        bytes=weights.file_bytes if weights else None,
        is_size_predicted=bool(weights and weights.is_predicted),
        choice=choice,
        speed=speed,
        energy_j=entry.energy_j if entry else None,
        faults=tuple(name for name, text in faults.items() if text),
        rejected="; ".join(text for text in faults.values() if text) or None,
        is_on_front=is_on_front,
    )


def _choice(card: ModelCard, variant: _Variant, entry: Entry, limits: Limits) -> Choice:
    assert variant.weights is not None
    context = entry.option.context_within(variant.shape, variant.weights, limits)
    return Choice(
        model=card.id,
        variant=variant.name,
        context_tokens=context,
        kv_type=entry.option.placement.setup.kv_type,
        threads=limits.threads or (entry.option.speed.threads if entry.option.speed else None),
        option=entry.option,
        memory_bytes=entry.option.memory_bytes(variant.shape, variant.weights, context),
    )


def _memory_fault(choice: Choice | None, limits: Limits) -> str | None:
    if choice is None or choice.memory_bytes <= limits.memory_bytes:
        return None
    needed, allowed = megabytes(choice.memory_bytes), megabytes(limits.memory_bytes)
    return f"it needs {needed} with {choice.context_tokens} tokens of context, {allowed} may be used"


def _quality_fault(variant: _Variant, limits: Limits) -> str | None:
    floor = limits.quality_floor
    if floor is None or (variant.perplexity is not None and variant.perplexity <= floor):
        return None
    if variant.perplexity is None:
        return f"its quality was never measured, and a perplexity of {floor:g} or less is asked for"
    return f"its perplexity is {variant.perplexity:g}, {floor:g} or less is asked for"


def _nothing(card: ModelCard, found: list[_Variant], limits: Limits) -> OutOfMemoryError | ConfigError:
    """Why no variant can be chosen: memory, or else the quality floor."""
    smallest = min((e for v in found for e in v.entries), key=lambda e: e.option.least_bytes, default=None)
    if smallest is None:
        return ConfigError(f"no file of {card.id} has a known size; run 'edgeagent models pull {card.id}'")
    if smallest.option.least_bytes > limits.memory_bytes:
        least, context = smallest.option.least_bytes, smallest.option.placement.setup.context_tokens
        return OutOfMemoryError(
            f"no variant of {card.id} fits {megabytes(limits.memory_bytes)}; {smallest.variant} would with "
            f"{megabytes(least)} at {context} tokens of context: "
            "shorten models.context_tokens or raise models.memory_limit_bytes"
        )
    floor = limits.quality_floor
    return ConfigError(f"no variant of {card.id} that fits has a perplexity of {floor} or less; raise quality_floor")
