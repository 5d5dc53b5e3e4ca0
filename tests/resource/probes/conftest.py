"""Small captured-style trees, made where they are read."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgeagent.resource.probes.sysroot import Sysroot

Tree = Callable[[Mapping[str, str]], Sysroot]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Writes files below a sysroot; `-> target` as content makes a link, a name that ends in `/` a folder."""

    def make(files: Mapping[str, str]) -> Sysroot:
        for name, text in files.items():
            place = tmp_path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                place.mkdir(parents=True, exist_ok=True)
            elif text.startswith("-> "):
                place.symlink_to(text.removeprefix("-> "))
            else:
                place.write_text(text)
        return Sysroot(tmp_path)

    return make
