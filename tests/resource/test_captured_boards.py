"""Captured-style machines through all readers: each matches its own board profile, and shows what that one promises."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeagent.core.hardware import Profile
from edgeagent.resource.boards import Seen, load_boards, match_machine
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.profile import Places, read_machine
from edgeagent.settings import load_settings
from tests.resource.captures import captured_ids

PACKAGED = load_settings(environment={}).paths.boards
BOARDS = load_boards(PACKAGED)
IDS = [board.id for board in BOARDS]
SysrootOf = Callable[[str], Path]


def machine_of(root: Path) -> Profile:
    return read_machine(Sysroot(root), Places(Path("/var/lib/edgeagent"), root / "profile.json", PACKAGED))


def matched(machine: Profile) -> str | None:
    board = match_machine(BOARDS, machine)
    return board.id if board else None


def test_every_profile_has_a_captured_machine_and_every_machine_a_profile() -> None:
    assert captured_ids() == sorted(IDS)


@pytest.mark.parametrize("board_id", IDS)
def test_captured_machine_matches_its_own_profile(board_id: str, sysroot_of: SysrootOf) -> None:
    machine = machine_of(sysroot_of(board_id))
    assert matched(machine) == board_id
    assert machine.board_profile == board_id


@pytest.mark.parametrize("board_id", IDS)
def test_captured_machine_fits_no_two_profiles_with_one_specificity(board_id: str, sysroot_of: SysrootOf) -> None:
    seen = Seen.of(machine_of(sysroot_of(board_id)))
    fitting = [board for board in BOARDS if board.match.fits(seen)]
    assert len({board.match.specificity for board in fitting}) == len(fitting)


def test_captured_machine_shows_the_accelerators_of_its_profile(sysroot_of: SysrootOf) -> None:
    for board in BOARDS:
        seen_kinds = {accelerator.kind for accelerator in machine_of(sysroot_of(board.id)).accelerators}
        assert {accelerator.kind for accelerator in board.accelerators} <= seen_kinds, board.id


def test_captured_machine_has_less_memory_than_is_installed_and_more_than_two_thirds(sysroot_of: SysrootOf) -> None:
    for board in BOARDS:
        if board.memory_bytes:
            share = machine_of(sysroot_of(board.id)).memory.total_bytes / board.memory_bytes.value
            assert 2 / 3 < share <= 1, board.id


def test_captured_machine_slows_down_where_its_profile_says(sysroot_of: SysrootOf) -> None:
    told = {board.id: machine_of(sysroot_of(board.id)).thermal.throttle_c for board in BOARDS}
    for board in BOARDS:
        if told[board.id] is not None:
            assert board.thermal.throttle_c is not None
            assert told[board.id] == board.thermal.throttle_c.value
    assert {key for key, celsius in told.items() if celsius} == {"imx8m-plus", "jetson-agx-orin", "rk3588"}


def test_captured_jetson_offers_the_power_modes_of_its_profile(sysroot_of: SysrootOf) -> None:
    jetsons = [board for board in BOARDS if board.power_modes]
    assert len(jetsons) == 4
    for board in jetsons:
        assert {mode.name for mode in board.power_modes} == set(machine_of(sysroot_of(board.id)).power.modes)


def test_super_kit_in_its_15_w_mode_is_the_plain_orin_nano(sysroot_of: SysrootOf) -> None:
    root = sysroot_of("jetson-orin-nano-super")
    (root / "var/lib/nvpmodel/status").write_text("pmode:0000\n")
    assert matched(machine_of(root)) == "jetson-orin-nano-8gb"


def test_pi_5_with_hailo_and_coral_is_the_one_with_hailo(sysroot_of: SysrootOf) -> None:
    root = sysroot_of("raspberry-pi-5-coral")
    (root / "dev/hailo0").touch()
    assert matched(machine_of(root)) == "raspberry-pi-5-hailo-8l"
