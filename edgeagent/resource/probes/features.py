"""Instruction-set extensions that matter to inference, by the names that people use for the kernel's flags."""

from collections.abc import Iterable

NAMES = {
    "asimd": "NEON",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "SVE",
    "sve2": "SVE2",
    "sme": "SME",
    "avx": "AVX",
    "f16c": "F16C",
    "fma": "FMA",
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512F",
    "avx512bw": "AVX-512BW",
    "avx512vl": "AVX-512VL",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
}
"""Flag of /proc/cpuinfo to name: Linux `Documentation/arch/arm64/elf_hwcaps.rst` and
`arch/x86/include/asm/cpufeatures.h`."""


def vector_extensions(flags: Iterable[str]) -> tuple[str, ...]:
    """The known extensions among a core's flags, oldest first: `NEON`, `dotprod`; `AVX2`, `AVX-512 VNNI`."""
    present = set(flags)
    return tuple(name for flag, name in NAMES.items() if flag in present)
