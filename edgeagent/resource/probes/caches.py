"""Sizes of a core's caches."""

import re

from edgeagent.resource.probes.cores import BASE
from edgeagent.resource.probes.sysroot import Sysroot

SIZE = re.compile(r"([0-9]{1,9})([KMG]?)")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
SUFFIXES = {"Data": "d", "Instruction": "i", "Unified": ""}


def read_caches(root: Sysroot, core: int = 0) -> dict[str, int]:
    """`l1d`, `l1i`, `l2`, `l3` to bytes; empty when the kernel does not say (old device trees leave them out)."""
    found: dict[str, int] = {}
    for index in [name for name in root.names(f"{BASE}/cpu{core}/cache") if name.startswith("index")]:
        folder = f"{BASE}/cpu{core}/cache/{index}"
        level, size = root.number(f"{folder}/level"), SIZE.fullmatch(root.text(f"{folder}/size") or "")
        suffix = SUFFIXES.get(root.text(f"{folder}/type") or "")
        if size and level in {1, 2, 3, 4} and suffix is not None:
            found[f"l{level}{suffix}"] = int(size[1]) * UNITS[size[2]]
    return dict(sorted(found.items()))
