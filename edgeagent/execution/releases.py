"""Releases of the llama-cpp-python bindings that this program knows, and in what they differ. Pure.

A release pins one llama.cpp, and structures, functions and the layout of a cache's state change between them. With
those here the exactness bench found no difference (docs/exactness.md says in how much); in any other, a field that is
gone would be written nowhere, and an argument that is new would be read from a register. So any other is refused before
one call is made.
"""

from dataclasses import dataclass

from edgeagent.core.errors import EngineError


@dataclass(frozen=True, slots=True)
class Release:
    """In what a release differs from the newest one."""

    has_load_mode: bool = True
    """A model's parameters have one `load_mode`; before, they have `use_mmap` and `use_mlock`."""
    penalties_take_vocabulary: bool = True
    """`llama_sampler_init_penalties` takes the size of the vocabulary first."""
    copies_penalise: bool = True
    """A copy of a penalties part knows the tokens that its original was given; before, it penalises nothing."""


PINNED = "0.3.36"
"""The one that is installed with this program (pyproject.toml)."""

RELEASES = {
    "0.3.34": Release(has_load_mode=False, penalties_take_vocabulary=False, copies_penalise=False),
    "0.3.35": Release(),
    PINNED: Release(),
}


def fault(version: str) -> str:
    """What is wrong with a release that is not known, and after a semicolon what to do; empty for one that is."""
    if version in RELEASES:
        return ""
    known = ", ".join(RELEASES)
    return (
        f"llama-cpp-python {version} is installed here, and edgeagent knows {known};"
        f" run 'pip install llama-cpp-python=={PINNED}'"
    )


def release(version: str) -> Release:
    """Raises EngineError for one that is not known."""
    if told := fault(version):
        raise EngineError(told)
    return RELEASES[version]
