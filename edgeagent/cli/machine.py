"""Says what a machine is and can do, as labelled lines for people."""

from collections.abc import Iterator
from itertools import groupby

from edgeagent.core.hardware import Accelerator, Cpu, CpuCluster, EngineFacts, Kernels, MemoryFacts, Profile, Rates
from edgeagent.core.invariance import Invariance
from edgeagent.resource.probes.features import vector_extensions

GIB, MIB, KIB = 2**30, 2**20, 2**10
LABEL_CHARS = 12
Line = tuple[str, str]


def describe(profile: Profile) -> list[Line]:
    """The profile as label and text. What is not known comes last, with why."""
    return [
        ("board", profile.board + (f" (board profile {profile.board_profile})" if profile.board_profile else "")),
        *_cpu(profile.cpu),
        *_memory(profile.memory),
        ("storage", _storage(profile)),
        *_heat(profile),
        *_power(profile),
        *(("accelerator", _accelerator(accelerator)) for accelerator in profile.accelerators),
        *(line for engine in profile.engines for line in _engine(engine)),
        *_kernels(profile.kernels),
        *(("rates", f"{key}: {_rates(rates)}") for key, rates in profile.rates.items()),
        *(("invariance", f"{key}: {tell_invariance(found)}") for key, found in profile.invariance.items()),
        *(("not known", f"{fact}: {why}") for fact, why in profile.gaps.items()),
        ("fingerprint", profile.fingerprint[:16]),
    ]


def _cpu(cpu: Cpu) -> Iterator[Line]:
    clock = f", {cpu.max_mhz:.0f} MHz" if cpu.max_mhz else ""
    quota = f", a quota of {cpu.quota_cores:.2f} cores" if cpu.quota_cores is not None else ""
    yield "cpu", f"{cpu.model}, {cpu.arch}, {cpu.cores} cores{clock}{quota}"
    if len(cpu.clusters) > 1:
        yield from (("cluster", _cluster(cluster)) for cluster in cpu.clusters)
    if extensions := vector_extensions(cpu.features):
        yield "features", ", ".join(extensions)
    if cpu.caches:
        yield "caches", ", ".join(f"{name} {_size(size)}" for name, size in cpu.caches.items())


def _cluster(cluster: CpuCluster) -> str:
    clock = f", {cluster.max_mhz:.0f} MHz" if cluster.max_mhz else ""
    return f"{len(cluster.cores)}x {cluster.name} (cores {_runs(cluster.cores)}){clock}"


def _runs(cores: tuple[int, ...]) -> str:
    """`0-3,6`. Neighbours have the same distance to their places in the list."""
    runs = [[core for _, core in run] for _, run in groupby(enumerate(cores), key=lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _memory(memory: MemoryFacts) -> Iterator[Line]:
    reads = f", reads {memory.bandwidth_bytes_s / 1e9:.1f} GB/s" if memory.bandwidth_bytes_s else ""
    yield "memory", f"{_gib(memory.total_bytes)}, {_gib(memory.available_bytes)} available{reads}"
    if memory.swap_total_bytes:
        yield "swap", f"{_gib(memory.swap_total_bytes)}, {_gib(memory.swap_free_bytes)} free"
    if memory.pressure_percent is not None:
        yield "pressure", f"tasks waited for memory {memory.pressure_percent:.1f} % of the last 10 s"


def _storage(profile: Profile) -> str:
    storage = profile.storage
    kind = f" on {storage.kind}" if storage.kind else ""
    reads = f", reads {storage.read_bytes_s / 1e6:.0f} MB/s" if storage.read_bytes_s else ""
    return f"{_gib(storage.free_bytes)} free for {storage.path}{kind}{reads}"


def _heat(profile: Profile) -> Iterator[Line]:
    thermal = profile.thermal
    yield from (("thermal", f"{zone} {celsius:.1f} °C") for zone, celsius in thermal.zones.items())
    if thermal.throttle_c is not None:
        yield "thermal", f"the kernel slows the CPU from {thermal.throttle_c:.0f} °C"
    if thermal.throttled is not None:
        yield "thermal", "throttled now" if thermal.throttled else "not throttled"


def _power(profile: Profile) -> Iterator[Line]:
    power = profile.power
    yield from (("power", f"{name}: {state}") for name, state in power.sources.items())
    if power.battery_percent is not None:
        yield "power", f"battery at {power.battery_percent:.0f} %"
    yield from (("draw", f"{name} {watts:.2f} W") for name, watts in power.draw_w.items())
    if power.mode:
        others = [mode for mode in power.modes if mode != power.mode]
        yield "power mode", power.mode + (f" (others: {', '.join(others)})" if others else "")


def _accelerator(found: Accelerator) -> str:
    memory = f", {_gib(found.memory_bytes)} of its own" if found.memory_bytes else ""
    driver = f", driver {found.driver}" if found.driver else ""
    verdict = "usable" if found.usable else "not usable"
    return f"{found.kind} {found.name}{driver}{memory}: {verdict} with {found.runtime}, {found.why}"


def _engine(engine: EngineFacts) -> Iterator[Line]:
    yield "engine", f"{engine.name} {engine.version}: {engine.probe.verdict}, {engine.probe.reason}"
    for capability in engine.capabilities:
        reason = "" if capability.verdict == "ok" else f", {capability.reason}"
        yield "capability", f"{engine.name} {capability.name}: {capability.verdict}{reason}"


def _kernels(kernels: Kernels | None) -> Iterator[Line]:
    """A line for each thread count: the types with their speed for one token, and for a prompt chunk."""
    if kernels is None:
        return
    for threads in kernels.threads:
        speeds = [
            f"{rate.type} {rate.token_elem_s / 1e9:.1f} and {rate.chunk_elem_s / 1e9:.1f}"
            for rate in kernels.rates
            if rate.threads == threads
        ]
        yield "kernels", f"{threads} threads, billion weights/s for a token and for a chunk: {', '.join(speeds)}"
    if kernels.steady_fraction is not None:
        yield "kernels", f"{kernels.steady_fraction:.0%} of the burst rate under sustained load"


def _rates(rates: Rates) -> str:
    share = f", {rates.roofline_fraction:.0%} of memory bandwidth" if rates.roofline_fraction else ""
    share += f", {rates.compute_fraction:.0%} of the arithmetic peak" if rates.compute_fraction else ""
    speeds = f"prefill {rates.prefill_tok_s:.0f} tok/s, decode {rates.decode_tok_s:.1f} tok/s"
    return f"{speeds} with {rates.threads} threads and a {rates.kv_type} cache{share}"


def tell_invariance(found: Invariance) -> str:
    """What changes no bit of answers, and what does."""
    batch = f"up to {found.decode_batch} answers share a batch" if found.decode_batch > 1 else "answers decode alone"
    drafts = f"drafts of up to {found.draft_batch} tokens" if found.draft_batch > 1 else "no drafts"
    others = {
        "prompts in any pieces": found.free_prefill,
        "prompts beside answers": found.mixed,
        "rewinding": found.rewind,
        "saving and restoring": found.restore,
        "any number of threads": found.threads,
    }
    told = ", ".join([batch, drafts, *(what for what, holds in others.items() if holds)])
    lacking = ", ".join(what for what, holds in others.items() if not holds)
    return told + (f"; not {lacking}" if lacking else "") + ("" if found.complete else "; not all was tried")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _size(size: int) -> str:
    return f"{size / MIB:g} MiB" if size >= MIB else f"{size / KIB:g} KiB"
