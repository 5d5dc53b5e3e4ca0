"""Accelerators the kernel shows become usable when something ran on them and computed the right thing. Pure."""

from collections.abc import Sequence

from edgeagent.core.hardware import Accelerator, Capability, EngineFacts

RUNNERS: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("gpu", "cuda"): (
        ("llama", "gpu_layers"),
        ("onnxruntime", "CUDAExecutionProvider"),
        ("onnxruntime", "TensorrtExecutionProvider"),
    ),
    ("gpu", "vulkan"): (("llama", "gpu_layers"),),
    ("tpu", "litert"): (("litert", "edgetpu"),),
    ("npu", "litert"): (("litert", "ethosu"),),
    ("npu", "mesa teflon"): (("litert", "teflon"),),
    ("npu", "qnn"): (("onnxruntime", "QNNExecutionProvider"), ("litert", "qnn")),
    ("npu", "vendor driver"): (("litert", "vx"),),
}
"""An accelerator's kind and runtime to what runs on nothing else: engine and capability."""
DEVICE_FLAGS = {"cuda": "CUDA", "vulkan": "Vulkan"}
"""llama.cpp's GPU trial says nothing of another vendor's chip: its device must be of this accelerator's kind."""


def with_usable(accelerators: Sequence[Accelerator], engines: Sequence[EngineFacts]) -> tuple[Accelerator, ...]:
    """The accelerators, those usable on which a trial succeeded; the others say why not, and what stood in the way."""
    return tuple(_judged(accelerator, engines) for accelerator in accelerators)


def _judged(accelerator: Accelerator, engines: Sequence[EngineFacts]) -> Accelerator:
    tried = _tried(accelerator, engines)
    if not tried:
        return accelerator
    engine, capability = next(((e, c) for e, c in tried if c.verdict == "ok"), tried[0])
    told = f"{engine} {capability.name}: {capability.verdict}, {capability.reason}"
    is_usable = capability.verdict == "ok"
    why = told if is_usable else f"{told} ({accelerator.why})"
    return accelerator.model_copy(update={"usable": is_usable, "why": why})


def _tried(accelerator: Accelerator, engines: Sequence[EngineFacts]) -> list[tuple[str, Capability]]:
    found = {(engine.name, c.name): (engine, c) for engine in engines for c in engine.capabilities}
    runners = RUNNERS.get((accelerator.kind, accelerator.runtime), ())
    pairs = [found[runner] for runner in runners if runner in found]
    return [(engine.name, c) for engine, c in pairs if _is_kind(engine, c, accelerator.runtime)]


def _is_kind(engine: EngineFacts, capability: Capability, runtime: str) -> bool:
    if (engine.name, capability.name) != ("llama", "gpu_layers") or capability.verdict == "absent":
        return True
    return engine.flags.get(DEVICE_FLAGS[runtime], False)
