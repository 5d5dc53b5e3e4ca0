"""How a variant is loaded into a worker, and what the worker says of it then."""

import hashlib
from dataclasses import asdict, dataclass, field

from edgeagent.core.invariance import Invariance
from edgeagent.execution.channel import Message
from edgeagent.execution.recovery import LoadMode

MAX_ADAPTERS = 4
"""So many adapters stay in memory, besides those in use."""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How a variant is loaded. `chunk_tokens` is the canonical prefill chunk; `read` keeps no mapping of the file."""

    path: str
    variant_sha256: str
    context_tokens: int
    kv_type: str
    flash_attention: bool
    threads: int
    extra_buffers: bool
    chunk_tokens: int
    load_mode: LoadMode = "map"
    gpu_layers: int = 0
    experts_on_cpu: bool = False
    """Of the layers on a GPU, the experts' tensors stay in the machine's own memory."""
    sequences: int = 1
    """Answers that may be under way together, each with `context_tokens`."""
    invariance: Invariance = field(default_factory=Invariance)
    prune_share: float = 0.5
    """Part of a prompt's positions that a pruned generation drops."""
    speculation: bool = True
    """Whether answers may be drafted ahead where `invariance` says that it changes no bit."""
    draft_path: str = ""
    """File of a smaller model of the same vocabulary that may draft, too; empty: only the text itself does."""

    @property
    def is_thread_invariant(self) -> bool:
        """Whether the number of threads changes no bit. ggml's flash attention over an f16 cache splits one token's
        attention among threads from 257 tokens on (ggml-cpu, `use_split_kv_path`); found by the probe.
        """
        return self.invariance.threads or not (self.flash_attention and self.kv_type == "f16")

    @property
    def draft_rows(self) -> int:
        """The largest batch of one sequence's tokens behind its prompt that changes no bit; 0: no guesses may be tried,
        as they are off, or as what was wrong could not be dropped."""
        if not self.speculation or not self.invariance.rewind:
            return 0
        return min(self.invariance.draft_batch, self.chunk_tokens)

    def parameters(self) -> Message:
        """Of the worker's op `load`."""
        return {**asdict(self), "invariance": self.invariance.model_dump()}


def pace_of(settings: LoadSettings, threads: int, duty: float) -> tuple[int, float]:
    """Threads and share of the time to compute that change no bit: fewer threads become more rest where they would."""
    if not settings.is_thread_invariant and threads < settings.threads:
        return settings.threads, duty * threads / settings.threads
    return threads, duty


@dataclass(frozen=True, slots=True)
class LoadedFacts:
    """What the engine says of a loaded variant. `kv_bytes_per_token` is 0 when its cache cannot be exchanged."""

    context_tokens: int
    kv_bytes_per_token: int
    has_template: bool
    exact_key: str
    """Two engines with one key compute the same bits."""
    can_prune: bool = True
    """Whether single positions may be dropped from its cache."""
    kv_planes: tuple[int, ...] = ()
    """Row bytes of K of every layer, then of V; they add up to `kv_bytes_per_token`."""
    layers: int = 0
    width: int = 0
    num_vocab: int | None = None
    engine: str = ""
    """Build of the engine: its release and a digest of its code."""
    system: str = ""
    """What it reports of itself: instruction sets and switches."""


def engine_name(settings: LoadSettings, reply: Message) -> str:
    """The build that a reply to `load` or `load_stage` tells, and whether a GPU takes part: it has bits of its own."""
    return f"{reply['engine_build']}{' with a GPU' if settings.gpu_layers else ''}"


def facts_of(settings: LoadSettings, reply: Message) -> LoadedFacts:
    """From the reply to op `load`."""
    return LoadedFacts(
        context_tokens=int(reply["context_tokens"]),
        kv_bytes_per_token=int(reply["kv_bytes_per_token"]),
        has_template=bool(reply["has_template"]),
        can_prune=bool(reply["can_prune"]),
        kv_planes=tuple(int(size) for size in reply["kv_planes"]),
        layers=int(reply["layers"]),
        width=int(reply["width"]),
        num_vocab=int(reply["vocab"]),
        engine=engine_name(settings, reply),
        system=str(reply["system"]),
        exact_key=exact_key_of(settings, settings.variant_sha256, reply),
    )


def exact_key_of(settings: LoadSettings, variant_sha256: str, reply: Message) -> str:
    """Of the variant, loaded like that by the engine that replied."""
    identity = [
        variant_sha256,
        settings.kv_type,
        settings.flash_attention,
        settings.extra_buffers,
        settings.chunk_tokens,
        reply["engine_build"],
        reply["system"],
    ]
    if not settings.is_thread_invariant:
        identity.append(settings.threads)
    if settings.gpu_layers:
        identity += [settings.gpu_layers, settings.experts_on_cpu]
    return hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()
