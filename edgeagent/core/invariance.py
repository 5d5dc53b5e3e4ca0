"""Which ways to evaluate a variant change no bit of its logits: what a probe concludes from its comparisons."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import BaseModel, ConfigDict, Field

SEQUENCES = 4
"""So many sequences are probed together unless somebody asks for another number."""


class Invariance(BaseModel):
    """Which ways to evaluate change no bit of a variant's logits under given settings, as probed on this machine.

    The defaults are what is safe when nothing is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decode_batch: int = Field(default=1, ge=1)
    """Most sequences that may decode one token each together, bit-equal to alone (1: alone only)."""
    draft_batch: int = Field(default=1, ge=1)
    """Most tokens of one sequence that may be evaluated together after the prompt, bit-equal to one by one."""
    free_prefill: bool = False
    """A prompt may be cut into pieces of any size up to the chunk, and generated tokens count as prompt."""
    rewind: bool = False
    """Cells dropped at the tail and evaluated again give the same bits, whatever other sequences did meanwhile."""
    mixed: bool = False
    """Decoding beside another sequence's prefill in one batch changes nothing."""
    restore: bool = False
    """A sequence saved and restored, into another slot too, goes on with the same bits."""
    threads: bool = False
    """The number of threads changes nothing."""
    complete: bool = False
    """Every check was made; else time ran out, and a longer probe may find more."""
    max_abs_logit: dict[str, float] = Field(default_factory=dict)
    """Worst difference seen per finished check; above 0 but tiny: no logit, but a bit of the cache, differs."""


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What the bits of a variant's logits depend on, beside the machine and the engine's build."""

    kv_type: str
    flash_attention: bool
    extra_buffers: bool
    threads: int
    chunk_tokens: int
    sequences: int = SEQUENCES
    gpu_layers: int = 0
    experts_on_cpu: bool = False

    def key(self, variant: str) -> str:
        """`<model id>/<variant> kv_type=q8_0 flash_attention=1 …`: under which a profile keeps the verdict."""
        told = (f"{name}={int(value) if isinstance(value, bool) else value}" for name, value in asdict(self).items())
        return " ".join([variant, *told])


def conclude(worst: Mapping[str, float], *, has_window: bool, complete: bool) -> Invariance:
    """The verdict from finished checks, each with its worst difference: what was not checked counts as not invariant.

    Checks are `cut …`, `decode N`, `draft N`, `mixed …`, `rewind …`, `restore …`, `threads …`. A sliding window's
    cells are overwritten behind what a probe can afford to fill: such caches are not called rewindable. Mixing cuts a
    prompt's piece (llama.cpp evaluates as many of its tokens beside the others as each of those has, then the rest), so
    it is granted only where cutting is.
    """

    def holds(kind: str) -> bool:
        seen = [difference for check, difference in worst.items() if check.partition(" ")[0] == kind]
        return bool(seen) and not any(seen)

    free_prefill = holds("cut") and "cut far" in worst
    return Invariance(
        decode_batch=_largest(worst, "decode"),
        draft_batch=_largest(worst, "draft"),
        free_prefill=free_prefill,
        rewind=holds("rewind") and not has_window,
        mixed=holds("mixed") and free_prefill,
        restore=holds("restore"),
        threads=holds("threads"),
        complete=complete,
        max_abs_logit=dict(worst),
    )


def _largest(worst: Mapping[str, float], kind: str) -> int:
    """The largest tested size up to which every tested size is exact."""
    sizes = sorted(int(check.split()[1]) for check in worst if check.partition(" ")[0] == kind)
    largest = 1
    for size in sizes:
        if worst[f"{kind} {size}"]:
            break
        largest = size
    return largest
