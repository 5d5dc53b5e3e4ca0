"""Engines that are installed elsewhere: a release that nobody knows here, and another build of the one that is."""

import importlib.util
import shutil
from pathlib import Path

HARMLESS = (
    (bytes.fromhex("662e0f1f840000000000"), b"\x90" * 10),  # x86-64: one long NOP between functions, ten short ones
    (bytes.fromhex("1f2003d51f2003d5"), bytes.fromhex("3f2003d51f2003d5")),  # AArch64: NOP NOP, YIELD NOP
)
"""Machine code as compilers pad it, and other code that does as little."""


def other_release(folder: Path) -> Path:
    """A folder for PYTHONPATH in which llama-cpp-python is of a release from before those that are known.

    The package has nothing but its version: whoever calls anything of it ends with an AttributeError.
    """
    (folder / "llama_cpp").mkdir()
    (folder / "llama_cpp/__init__.py").write_text('__version__ = "0.3.28"\n')
    about = folder / "llama_cpp_python-0.3.28.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 0.3.28\n")
    (about / "RECORD").write_text("")
    return folder


def other_build(folder: Path) -> Path:
    """A folder for PYTHONPATH with the installed release, whose kernels are other machine code that does the same."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    shutil.copytree(
        Path(spec.origin).parent, folder / "llama_cpp", ignore=shutil.ignore_patterns("server", "*mtmd*.so*")
    )
    for library in (folder / "llama_cpp/lib").glob("libggml-cpu*.so*"):
        library.write_bytes(_changed(library.read_bytes()))
    return folder


def _changed(library: bytes) -> bytes:
    for old, new in HARMLESS:
        if old in library:
            return library.replace(old, new, 1)
    raise AssertionError("this machine's compiler pads code in a way that HARMLESS does not know")
