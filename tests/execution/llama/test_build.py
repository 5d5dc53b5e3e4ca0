"""Builds of one release: told apart by their code, and by nothing else."""

import ctypes
import io
import re

import pytest

from edgeagent.execution.llama import build
from edgeagent.execution.llama.library import backend_devices, engine_version, expert_overrides
from edgeagent.execution.llama.tensors import Node
from tests.other_engines import HARMLESS


@pytest.fixture(scope="module")
def kernels() -> bytes:
    """The library that computes here."""
    return next(path for name, path in build._libraries() if name.startswith("libggml-cpu")).read_bytes()


def code(library: bytes) -> bytes:
    return b"".join(build.code(io.BytesIO(library)))


def test_build_is_the_release_and_a_digest_that_a_process_computes_once() -> None:
    told = build.engine_build()
    assert re.fullmatch(re.escape(engine_version()) + r"\+[0-9a-f]{12}", told)
    build.engine_build.cache_clear()
    assert build.engine_build() == told


def test_libraries_that_numbers_pass_through_are_all_there() -> None:
    names = {name for name, _ in build._libraries()}
    assert {"libllama", "libggml-base", "libm"} <= names
    assert "libmtmd" not in names


def test_looking_into_the_engine_loads_no_second_copy_of_it() -> None:
    """Else the digest would depend on what a process did before."""
    backend_devices()
    expert_overrides()
    tensor = ctypes.create_string_buffer(1024)
    Node(ctypes.addressof(tensor)).check_layout()
    names = [name for name, _ in build._libraries()]
    assert len(names) == len(set(names))


def test_paths_in_a_library_are_not_its_code_and_one_instruction_is(kernels: bytes) -> None:
    whole = code(kernels)
    assert 0 < len(whole) < len(kernels)
    path = re.search(rb"/[\w/.+-]+/ggml-cpu\.c", kernels)
    assert path is not None
    renamed = kernels[: path.start()] + b"x" * len(path[0]) + kernels[path.end() :]
    assert code(renamed) == whole
    old, new = next((old, new) for old, new in HARMLESS if old in kernels)
    assert code(kernels.replace(old, new, 1)) != whole


def test_file_of_another_kind_or_cut_off_counts_whole(kernels: bytes) -> None:
    for library in (b"MZ" + bytes(range(200)), kernels[:40]):
        assert code(library) == library
    assert code(kernels[:62]) == b""
