"""Board profiles: the packaged ones match their machines and nothing else, and no number goes without a source."""

import itertools
import random
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from edgeagent.core.errors import ConfigError
from edgeagent.resource.boards import (
    Board,
    Match,
    Seen,
    Sourced,
    best_match,
    load_boards,
)
from edgeagent.settings import load_settings

PACKAGED = load_settings(environment={}).paths.boards
BOARDS = load_boards(PACKAGED)
IDS = [board.id for board in BOARDS]
PROMISED = {
    "raspberry-pi-zero-2-w",
    "raspberry-pi-4",
    "raspberry-pi-5-4gb",
    "raspberry-pi-5-8gb",
    "raspberry-pi-5-16gb",
    "raspberry-pi-5-hailo-8l",
    "raspberry-pi-5-coral",
    "jetson-nano",
    "jetson-orin-nano-8gb",
    "jetson-orin-nano-super",
    "jetson-agx-orin",
    "rk3588",
    "imx8m-plus",
    "intel-n100",
    "generic-x86-64",
    "generic-arm64",
}


def found_id(board: Board | None) -> str | None:
    return board.id if board else None


def test_promised_boards_are_packaged() -> None:
    assert set(IDS) >= PROMISED


@pytest.mark.parametrize(
    ("board", "arch", "expected"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", "aarch64", "raspberry-pi-5"),
        ("Raspberry Pi Compute Module 5 Rev 1.0", "aarch64", "raspberry-pi-5"),
        ("Raspberry Pi 3 Model B Rev 1.2", "aarch64", "generic-arm64"),
        ("Raspberry Pi 5 Model B Rev 1.0", "armv7l", None),
        ("Google Compute Engine", "x86_64", "generic-x86-64"),
        ("Radxa ROCK 5B", "aarch64", "rk3588"),
        ("Toradex Verdin iMX8M Plus WB on Dahlia Board", "aarch64", "imx8m-plus"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "aarch64", "jetson-agx-orin"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "aarch64", "generic-arm64"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "aarch64", "raspberry-pi-zero-2-w"),
        ("Raspberry Pi 400 Rev 1.0", "aarch64", "raspberry-pi-4"),
    ],
)
def test_packaged_board_matches_its_machines_only(board: str, arch: str, expected: str | None) -> None:
    assert found_id(best_match(BOARDS, Seen(board, arch))) == expected


NAMES = ["Raspberry Pi 5 Model B Rev 1.1", "NVIDIA Jetson Orin Nano Developer Kit", "Orange Pi 5 Plus", "HP t640", ""]
ARCHS = ["aarch64", "x86_64", "armv7l"]
ADD_ONS = ("Hailo-8 or 8L (hailo0)", "Coral Edge TPU (apex_0)", "v3d GPU (renderD128)")
MODES = [None, "15W", "25W", "MAXN_SUPER", "ondemand"]
SEEN = st.builds(
    Seen,
    board=st.sampled_from(NAMES),
    arch=st.sampled_from(ARCHS),
    cpu=st.sampled_from(["Cortex-A76", "Intel(R) N100", ""]),
    memory_bytes=st.integers(0, 20_000_000_000),
    accelerators=st.lists(st.sampled_from(ADD_ONS), unique=True).map(tuple),
    power_mode=st.sampled_from(MODES),
)


@given(SEEN, st.randoms(use_true_random=False))
def test_match_does_not_depend_on_the_order_of_the_profiles(seen: Seen, shuffler: random.Random) -> None:
    shuffled = list(BOARDS)
    shuffler.shuffle(shuffled)
    assert best_match(shuffled, seen) == best_match(BOARDS, seen)


def every_machine() -> Iterator[Seen]:
    """Each name with each set of add-ons and each mode, at both sides of every border of a memory rule."""
    borders = {size for board in BOARDS for size in board.match.memory_bytes or ()}
    sizes = sorted(borders | {size - 1 for size in borders})
    add_ons = [(), *itertools.combinations(ADD_ONS, 1), *itertools.combinations(ADD_ONS, 2), ADD_ONS]
    for board, arch, size, seen, mode in itertools.product(NAMES, ARCHS, sizes, add_ons, MODES):
        yield Seen(board, arch, "Intel(R) N100", size, seen, mode)


def test_match_is_the_only_profile_of_the_highest_specificity_that_fits() -> None:
    for seen in every_machine():
        fitting = [board for board in BOARDS if board.match.fits(seen)]
        best = best_match(BOARDS, seen)
        equals = [board.id for board in fitting if best and board.match.specificity >= best.match.specificity]
        assert equals == [best.id if best else None][: len(fitting)], seen


@pytest.mark.parametrize(("size", "fits"), [(0, False), (2, False), (3, True), (8, True), (9, False)])
def test_memory_rule_reaches_from_its_first_figure_to_right_before_its_second(size: int, fits: bool) -> None:
    assert Match(memory_bytes=(3, 9)).fits(Seen("Box", "x86_64", memory_bytes=size)) == fits


def test_what_is_not_known_fits_no_rule_about_it() -> None:
    nothing = Seen("", "unknown")
    for rules in ({"boards": ["*"]}, {"cpus": ["*"]}, {"power_modes": ["*"]}, {"accelerators": ["*"]}):
        assert not Match.model_validate(rules).fits(nothing)
    assert Match().fits(nothing)


def models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and every model inside it."""
    yield kind
    for field in kind.model_fields.values():
        for part in parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from models(part)


def parts(annotation: object) -> Iterator[object]:
    """A type and the types it is made of."""
    yield annotation
    for argument in typing.get_args(annotation):
        yield from parts(argument)


def test_no_number_fits_into_a_profile_without_a_source() -> None:
    """Match rules aside: those say what a profile is about, they claim nothing."""
    seen = {kind for kind in models(Board) if kind is not Match}
    assert len(seen) >= 7
    for kind in seen - {k for k in seen if issubclass(k, Sourced)}:
        for name, field in kind.model_fields.items():
            assert not {int, float} & set(parts(field.annotation)), f"{kind.__name__}.{name}"
    assert Sourced.model_fields["source"].is_required()


def sources(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([str(value["source"])] if "source" in value else [])
        for part in value.values():
            yield from sources(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from sources(part)


@pytest.mark.parametrize("board", BOARDS, ids=IDS)
def test_source_can_be_looked_up(board: Board) -> None:
    found = list(sources(board.model_dump()))
    assert found
    places = ("https://", "docs/design.md, ", "Linux, arch/")
    assert [source for source in found if not any(place in source for place in places)] == []


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.toml").write_text(f'id = "{name}"\nname = "{name}"\n{text}')


def test_more_telling_rules_win_over_a_name_and_a_name_over_an_architecture(tmp_path: Path) -> None:
    write(tmp_path, "a-accelerator", 'match = {accelerators = ["Hailo*"]}')
    write(tmp_path, "b-mode", 'match = {power_modes = ["25W"]}')
    write(tmp_path, "c-memory", "match = {memory_bytes = [1, 9]}")
    write(tmp_path, "d-name", 'match = {boards = ["Box *"]}')
    write(tmp_path, "e-any", 'match = {arch = "x86_64"}')
    boards = load_boards(tmp_path)
    facts: dict[str, typing.Any] = {"accelerators": ("Hailo",), "power_mode": "25W", "memory_bytes": 5}
    for expected in ("a-accelerator", "b-mode", "c-memory", "d-name"):
        assert found_id(best_match(boards, Seen("Box 9", "x86_64", **facts))) == expected
        if facts:
            facts.pop(next(iter(facts)))
    assert found_id(best_match(boards, Seen("Cube", "x86_64"))) == "e-any"


def test_profile_that_extends_another_has_its_facts_and_its_own(tmp_path: Path) -> None:
    quirk = '[[quirks]]\ntext = "{0}"\nsource = "{0}"\n'
    write(tmp_path, "base", 'idle_w = {value = 1, source = "s"}\nmatch = {arch = "x86_64"}\n' + quirk.format("old"))
    write(tmp_path, "more", 'extends = "base"\nmatch = {boards = ["Box *"]}\n' + quirk.format("new"))
    base, more = load_boards(tmp_path)
    assert [q.text for q in base.quirks] == ["old"]
    assert [q.text for q in more.quirks] == ["old", "new"]
    assert more.idle_w == base.idle_w
    assert (more.match.arch, more.match.boards) == (None, ("Box *",))


FALLING_RATES = """
id = "box"
name = "x"
match = {}
[[reference_rates]]
model = "m"
quantization = "q"
engine = "e"
source = "s"
decode_tok_s = [9, 3]
"""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("id = ", "cannot be read"),
        ('id = "box"\nname = "x"\nmatch = {}\nspeed = 3', "key 'speed'"),
        (
            'id = "box"\nname = "x"\nmatch = {}\nmemory_bandwidth_bytes_s = {value = 1e9}',
            "memory_bandwidth_bytes_s.source",
        ),
        ('id = "box"\nname = "x"\nmatch = {}\nload_w = {value = 9, source = ""}', "load_w.source"),
        ('id = "box"\nname = "x"\nmatch = {}\nload_w = {value = -9, source = "s"}', "load_w.value"),
        ('id = "box"\nname = "x"\nmatch = {}\n[[power_modes]]\nname = "9W"\nwatts = 9', "power_modes.0.source"),
        (
            FALLING_RATES,
            "from the lowest to the highest",
        ),
        ('id = "other"\nname = "x"\nmatch = {}', "name the file after its id"),
        ('extends = "nowhere"\nid = "box"\nname = "x"\nmatch = {}', "key 'extends'"),
        ('extends = "box"\nid = "box"\nname = "x"\nmatch = {}', "key 'extends'"),
    ],
)
def test_bad_board_file_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "box.toml").write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_boards(tmp_path)
    assert "box.toml" in str(caught.value)
