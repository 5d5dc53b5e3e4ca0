"""What of a machine decides which variant it gets. Made from a profile, or from what is written of a board. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeagent.core.cards import KvType
from edgeagent.core.hardware import Accelerator, EngineFacts, Kernels, Profile, Rates
from edgeagent.resource.speed import Quota

ENGINE = "llama"
GPU_LAYERS = "gpu_layers"
"""Name of the engine's capability to compute layers on a GPU here."""

# ggml/src/ggml-cpu/repack.cpp and amx/common.h in the release of llama-cpp-python 0.3.36, for matrices whose rows are
# a multiple of 8, which those of our cards are.
AVX2_TYPES = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
AVX512_TYPES = frozenset({"Q2_K"})
DOTPROD_TYPES = frozenset({"Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4"})
AMX_TYPES = frozenset({"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"})
REPACKED = {
    "avx2": AVX2_TYPES, "avx512f": AVX512_TYPES, "avx512": AVX512_TYPES, "amx_int8": AMX_TYPES,
    "asimddp": DOTPROD_TYPES, "dotprod": DOTPROD_TYPES,
}  # fmt: skip
"""Tensor types that llama.cpp copies into another layout, by CPU feature (kernel's and engine's names)."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """Speed derived from few figures. `read_bytes_s`: weights applied to one token; `prefill_elem_s`: weights x prompt
    tokens a second."""

    read_bytes_s: float | None = None
    prefill_elem_s: float | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """`memory_bytes` None: it computes in the machine's own memory."""

    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Machine:
    """`rates` and `kernels` were measured; `sketch` serves where they are silent. `load_w`: the whole board at work."""

    repacked: frozenset[str]
    flash_attention: bool = True
    can_map: bool = True
    """Whether model files can be mapped instead of read."""
    kv_types: frozenset[KvType] = frozenset({"f16", "q8_0", "q4_0"})
    kernels: Kernels | None = None
    quota: Quota | None = None
    rates: Mapping[str, Rates] = field(default_factory=dict)
    sketch: Sketch = Sketch()
    gpu: Gpu | None = None
    storage_read_bytes_s: float | None = None
    load_w: float | None = None


def machine_of(profile: Profile, sketch: Sketch | None = None, load_w: float | None = None) -> Machine:
    """The machine of a profile. What its engine was never tried with counts as usual: it is tried before it is used."""
    engine = profile.engine(ENGINE)
    safe = engine.probe.settings if engine and engine.usable else {}
    flash_attention = safe.get("flash_attention", True)
    bad, quota = _failed(engine), profile.cpu.quota_cores
    return Machine(
        repacked=repacked_types(profile.cpu.features, engine) if safe.get("extra_buffers", True) else frozenset(),
        flash_attention=flash_attention,
        can_map="mmap" not in bad,
        kv_types=_kv_types(bad, flash_attention=flash_attention),
        kernels=profile.kernels,
        quota=Quota(quota) if quota is not None else None,
        rates=profile.rates,
        sketch=sketch or Sketch(),
        gpu=_gpu(profile.accelerators, engine),
        storage_read_bytes_s=profile.storage.read_bytes_s,
        load_w=load_w,
    )


def repacked_types(features: tuple[str, ...], engine: EngineFacts | None) -> frozenset[str]:
    """What the engine copies: by the instruction sets it was built for, if it said so, else by the CPU's."""
    built = {name.lower() for name, is_on in engine.flags.items() if is_on} if engine and engine.flags else None
    names = built if built is not None else {feature.lower() for feature in features}
    found = [types for feature, types in REPACKED.items() if feature in names]
    return frozenset().union(*found)


def _failed(engine: EngineFacts | None) -> frozenset[str]:
    """Capabilities that were tried and are not there."""
    return frozenset(c.name for c in engine.capabilities if c.verdict != "ok") if engine else frozenset()


def _kv_types(bad: frozenset[str], *, flash_attention: bool) -> frozenset[KvType]:
    """Cache types that may be used: all, less those that failed here; quantised ones need flash attention."""
    if not flash_attention:
        return frozenset({"f16"})
    every: tuple[KvType, ...] = ("f16", "q8_0", "q4_0")
    return frozenset(kind for kind in every if kind == "f16" or f"kv_{kind}" not in bad)


def _gpu(accelerators: tuple[Accelerator, ...], engine: EngineFacts | None) -> Gpu | None:
    """The first usable GPU, when the engine was seen to compute layers on one here."""
    if engine is None or not engine.can(GPU_LAYERS):
        return None
    usable = next((a for a in accelerators if a.kind == "gpu" and a.usable), None)
    return Gpu(usable.name, usable.memory_bytes) if usable else None
