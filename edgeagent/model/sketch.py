"""Estimates the speed of a machine that was never measured, from what is written of its board."""

import re
from collections.abc import Iterable

from edgeagent.core.hardware import Profile
from edgeagent.model.machine import AVX2_TYPES, DOTPROD_TYPES, Machine, Sketch, machine_of
from edgeagent.resource.boards import Board, ReferenceRates

DECODE_EFFICIENCY = 0.4
"""Decoding reads weights at this share of the memory's peak rate: llama.cpp on CPUs, by the reference rates of our
boards: N100 0.39 (Llama 3.1 8B Q4_K_M of 4.92 GB, 3.01 tokens a second, 38.4 GB/s), RK3588 0.43 (Phi-3 mini IQ4_XS of
2.06 GB, 7.1, 33.8 GB/s), Raspberry Pi 5 0.62 (TinyLlama Q8_0 of 1.17 GB, 9, 17 GB/s)."""

_PARAMETERS = re.compile(r"(\d+(?:\.\d+)?) ?(B|M)\b")
_UNIT = {"B": 1e9, "M": 1e6}


def describe(profile: Profile, boards: Iterable[Board]) -> Machine:
    """The machine of a profile; what it never measured comes from its board's, if there is one."""
    board = next((b for b in boards if b.id == profile.board_profile), None)
    bandwidth = profile.memory.bandwidth_bytes_s
    if bandwidth is None and board and board.memory_bandwidth_bytes_s:
        bandwidth = board.memory_bandwidth_bytes_s.value
    load_w = board.load_w.value if board and board.load_w else None
    return machine_of(profile, sketch(bandwidth, board.reference_rates if board else ()), load_w)


def sketch(bandwidth_bytes_s: float | None, references: Iterable[ReferenceRates]) -> Sketch:
    """Decoding from memory bandwidth; prefill from the slowest that others saw with llama.cpp on the CPU."""
    prefills = [rate for reference in references if (rate := _prefill_elem_s(reference))]
    read = bandwidth_bytes_s * DECODE_EFFICIENCY if bandwidth_bytes_s else None
    return Sketch(read, min(prefills, default=None))


def _prefill_elem_s(reference: ReferenceRates) -> float | None:
    """Weights x tokens a second, with the number of weights that the model's name tells (`Llama 3.2 3B`)."""
    is_ours = "llama.cpp" in reference.engine and "CPU" in reference.engine
    size = _PARAMETERS.search(reference.model)
    if not is_ours or reference.prefill_tok_s is None or size is None:
        return None
    return reference.prefill_tok_s[0] * float(size[1]) * _UNIT[size[2]]


def board_machine(board: Board) -> Machine:
    """A board nobody measured, as its profile describes it. Everything that may be repacked there counts as repacked.

    Its storage was not measured and its engine was tried nowhere, so nothing is paged or computed on a GPU.
    """
    bandwidth = board.memory_bandwidth_bytes_s.value if board.memory_bandwidth_bytes_s else None
    return Machine(
        repacked=AVX2_TYPES if board.match.arch == "x86_64" else DOTPROD_TYPES,
        sketch=sketch(bandwidth, board.reference_rates),
        load_w=board.load_w.value if board.load_w else None,
    )
