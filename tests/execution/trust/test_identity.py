"""Identities on disk: made once, private, and refused when they are not what was written."""

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from edgeagent.core.errors import TrustError
from edgeagent.execution.trust.identity import load_identity, load_or_make_identity


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trust/identity.json"


def test_identity_is_made_once_and_private(path: Path) -> None:
    made = load_or_make_identity(path)
    assert load_or_make_identity(path).public == made.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_two_machines_have_two_identities(tmp_path: Path) -> None:
    ids = {load_or_make_identity(tmp_path / f"{number}.json").public.id for number in range(4)}
    assert len(ids) == 4


def test_processes_that_start_at_once_agree_on_one_identity(path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(made_id, [path] * 4))) == 1


def made_id(path: Path) -> str:
    return load_or_make_identity(path).public.id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_identity_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    load_or_make_identity(path)
    path.chmod(mode)
    with pytest.raises(TrustError, match="can be read or changed by others"):
        load_identity(path)


def test_identity_behind_a_link_or_in_no_file_is_refused(path: Path) -> None:
    load_or_make_identity(path)
    link = path.with_name("link.json")
    link.symlink_to(path)
    with pytest.raises(TrustError, match="cannot be read"):
        load_identity(link)
    with pytest.raises(TrustError, match="cannot be read"):
        load_identity(path.parent)
    os.mkfifo(path.with_name("pipe.json"), 0o600)
    with pytest.raises(TrustError, match="no regular file"):
        load_identity(path.with_name("pipe.json"))


def test_damaged_identity_is_refused_and_its_keys_are_not_shown(path: Path) -> None:
    load_or_make_identity(path)
    text = path.read_text()
    seed = text.partition('"signing_seed": "')[2][:64]
    changed = seed.translate(str.maketrans("0123456789abcdef", "1032547698badcfe"))
    for damaged in (
        "",
        text[:-20],
        text.replace(seed, changed),
        text.replace(seed, "x" * 64),
        text.replace("1,", "2,"),
    ):
        path.write_text(damaged)
        with pytest.raises(TrustError, match="damaged") as caught:
            load_identity(path)
        assert seed not in str(caught.value)
        assert changed not in str(caught.value)


def test_identity_shows_its_fingerprint_and_no_key(path: Path) -> None:
    made = load_or_make_identity(path)
    assert repr(made) == f"Identity({made.public.id})"
