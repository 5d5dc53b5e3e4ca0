"""Accelerators the kernel shows become usable when something ran on them and computed the right thing. Pure."""

from collections.abc import Sequence

from edgeagent.core.hardware import Accelerator, Capability, EngineFacts

RUNNERS: dict[str, tuple[tuple[str, str], ...]] = {
    "cuda": (
        ("llama", "gpu_layers"),
        ("onnxruntime", "CUDAExecutionProvider"),
        ("onnxruntime", "TensorrtExecutionProvider"),
    ),
    "vulkan": (("llama", "gpu_layers"),),
    "litert": (("litert", "edgetpu"),),
    "vx": (("litert", "vx"), ("onnxruntime", "VSINPUExecutionProvider")),
    "ethosu": (("litert", "ethosu"),),
    "qnn": (("onnxruntime", "QNNExecutionProvider"), ("litert", "qnn")),
}
"""An accelerator's runtime to what can run something on it: engine and capability."""
DEVICE_FLAGS = {"cuda": "CUDA", "vulkan": "Vulkan"}
"""llama.cpp's GPU trial says nothing of another vendor's chip: its device must be of this accelerator's kind."""


def with_usable(accelerators: Sequence[Accelerator], engines: Sequence[EngineFacts]) -> tuple[Accelerator, ...]:
    """The accelerators, those usable on which a trial succeeded; of the others the first trial's reason is added."""
    return tuple(_judged(accelerator, engines) for accelerator in accelerators)


def _judged(accelerator: Accelerator, engines: Sequence[EngineFacts]) -> Accelerator:
    tried = _tried(accelerator.runtime, engines)
    if not tried:
        return accelerator
    engine, capability = next(((e, c) for e, c in tried if c.verdict == "ok"), tried[0])
    told = f"{engine} {capability.name}: {capability.verdict}, {capability.reason}"
    return accelerator.model_copy(update={"usable": capability.verdict == "ok", "why": told})


def _tried(runtime: str, engines: Sequence[EngineFacts]) -> list[tuple[str, Capability]]:
    found = {(engine.name, c.name): (engine, c) for engine in engines for c in engine.capabilities}
    pairs = [found[runner] for runner in RUNNERS.get(runtime, ()) if runner in found]
    return [(engine.name, c) for engine, c in pairs if _is_kind(engine, c, runtime)]


def _is_kind(engine: EngineFacts, capability: Capability, runtime: str) -> bool:
    if (engine.name, capability.name) != ("llama", "gpu_layers") or capability.verdict == "absent":
        return True
    return engine.flags.get(DEVICE_FLAGS[runtime], False)
