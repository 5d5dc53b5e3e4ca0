"""Board profiles: the packaged ones match, bad ones are refused with their name and key."""

from pathlib import Path

import pytest

from edgeagent.core.errors import ConfigError
from edgeagent.resource.boards import load_boards, match_board
from edgeagent.settings import load_settings

PACKAGED = load_settings(environment={}).paths.boards


@pytest.mark.parametrize(
    ("board", "arch", "expected"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", "aarch64", "raspberry-pi-5"),
        ("Raspberry Pi Compute Module 5 Rev 1.0", "aarch64", "raspberry-pi-5"),
        ("Raspberry Pi 4 Model B Rev 1.4", "aarch64", None),
        ("Raspberry Pi 5 Model B Rev 1.0", "armv7l", None),
        ("Google Compute Engine", "x86_64", "generic-x86-64"),
    ],
)
def test_packaged_board_matches_its_machines_only(board: str, arch: str, expected: str | None) -> None:
    found = match_board(load_boards(PACKAGED), board, arch)
    assert (found.id if found else None) == expected


def test_board_that_names_boards_wins_over_a_whole_architecture(tmp_path: Path) -> None:
    (tmp_path / "a-any.toml").write_text('id = "a-any"\nname = "any"\nmatch = {arch = "x86_64"}')
    (tmp_path / "z-named.toml").write_text('id = "z-named"\nname = "named"\nmatch = {boards = ["Box *"]}')
    found = match_board(load_boards(tmp_path), "Box 9", "x86_64")
    assert found is not None
    assert found.id == "z-named"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("id = ", "cannot be read"),
        ('id = "box"\nname = "x"\nmatch = {}\nspeed = 3', "key 'speed'"),
        (
            'id = "box"\nname = "x"\nmatch = {}\nmemory_bandwidth_bytes_s = {value = 1e9}',
            "memory_bandwidth_bytes_s.source",
        ),
        ('id = "other"\nname = "x"\nmatch = {}', "name the file after its id"),
    ],
)
def test_bad_board_file_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "box.toml").write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_boards(tmp_path)
    assert "box.toml" in str(caught.value)
