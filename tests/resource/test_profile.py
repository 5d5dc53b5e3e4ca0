"""The profile: its fingerprint, its life in the cache, and real first and second loads."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from edgeagent.core.errors import ConfigError
from edgeagent.core.hardware import Profile, Rates
from edgeagent.execution.channel import Buffers, Received
from edgeagent.execution.supervisor import STALL_S, Worker
from edgeagent.resource.cache import load_profile, save_profile
from edgeagent.resource.calibration import Instruments
from edgeagent.resource.capability import ProbeModel
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.profile import Places, ensure_profile, fingerprint, read_machine
from edgeagent.settings import load_settings

BOARDS = load_settings(environment={}).paths.boards
BUILDS = {"llama": "1.0"}


def places(folder: Path) -> Places:
    return Places(folder / "state", folder / "state/profile.json", BOARDS)


def machine(root: Path) -> Profile:
    return read_machine(Sysroot(root), places(root), BUILDS)


class CrashingWorker(Worker):
    """A real worker that SIGSEGV hits before its first evaluation with extra buffers."""

    has_extra_buffers: object = None

    async def call(self, op: str, bulk: Buffers = (), *, stall_s: float = STALL_S, **params: object) -> Received:
        self.has_extra_buffers = params.get("extra_buffers", self.has_extra_buffers)
        if op == "bench" and self.has_extra_buffers:
            await super().call("fault", stall_s=stall_s, signal=int(signal.SIGSEGV))
        return await super().call(op, bulk, stall_s=stall_s, **params)


class Spawner:
    """Starts real workers and counts them."""

    def __init__(self, kind: type[Worker] = Worker) -> None:
        self._kind = kind
        self.num_spawned = 0

    async def __call__(self) -> Worker:
        self.num_spawned += 1
        return await self._kind.spawn("llama")


def quiet(spawner: Spawner, busy_fraction: float = 0.0) -> Instruments:
    """Real instruments, except for the other load of the machine the tests run on."""

    async def busy() -> float:
        return busy_fraction

    return Instruments(time.monotonic, spawner, busy)


def test_captured_pi_is_described_without_measurements(raspberry_pi_5: Path) -> None:
    profile = machine(raspberry_pi_5)
    assert profile.board_profile == "raspberry-pi-5-hailo-8l"
    assert profile.cpu.model == "Cortex-A76"
    assert (profile.engines, profile.rates, profile.memory.bandwidth_bytes_s) == ((), {}, None)
    assert not (raspberry_pi_5 / "state").exists()


def test_fingerprint_is_the_same_for_another_moment_of_one_machine(raspberry_pi_5: Path) -> None:
    before = machine(raspberry_pi_5)
    (raspberry_pi_5 / "sys/class/thermal/thermal_zone0/temp").write_text("80000")
    meminfo = raspberry_pi_5 / "proc/meminfo"
    meminfo.write_text(meminfo.read_text().replace("8245312", "8245360").replace("7340032", "1024"))
    after = machine(raspberry_pi_5)
    assert after != before
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("proc/cpuinfo", "0xd0b", "0xd0c"),
        ("proc/cpuinfo", " asimddp", " asimddp sve"),
        ("proc/cpuinfo", "processor\t: 3", "other\t: 3"),
        ("proc/meminfo", "MemTotal:       8245312", "MemTotal:       4122656"),
        ("sys/firmware/devicetree/base/model", "Rev 1.0", "Rev 1.1"),
    ],
)
def test_fingerprint_is_another_for_another_machine(raspberry_pi_5: Path, file: str, old: str, new: str) -> None:
    before = machine(raspberry_pi_5).fingerprint
    path = raspberry_pi_5 / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert machine(raspberry_pi_5).fingerprint != before


def test_fingerprint_is_another_for_another_engine_build(raspberry_pi_5: Path) -> None:
    profile = machine(raspberry_pi_5)
    assert fingerprint(profile, BUILDS) != fingerprint(profile, {"llama": "1.1"})


def test_kept_profile_comes_back_equal_and_leaves_no_draft(raspberry_pi_5: Path, tmp_path: Path) -> None:
    profile = machine(raspberry_pi_5).model_copy(update={"rates": {"m/v": Rates(prefill_tok_s=1, decode_tok_s=2)}})
    folder = tmp_path / "kept"
    folder.mkdir()
    save_profile(folder / "profile.json", profile)
    assert load_profile(folder / "profile.json") == profile
    assert [file.name for file in folder.iterdir()] == ["profile.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fingerprint": "x"}'])
def test_broken_cache_file_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "profile.json").write_text(content)
    assert load_profile(tmp_path / "profile.json") is None


def test_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match="make its folder writable"):
        asyncio.run(ensure_profile(places(tmp_path), None, refresh=False, instruments=quiet(Spawner())))


def test_without_a_model_the_engine_is_untested_until_there_is_one(model: ProbeModel, tmp_path: Path) -> None:
    spawner = Spawner()
    first = asyncio.run(ensure_profile(places(tmp_path), None, refresh=False, instruments=quiet(spawner)))
    assert first.engines[0].probe.verdict == "untested"
    assert spawner.num_spawned == 0
    second = asyncio.run(ensure_profile(places(tmp_path), model, refresh=False, instruments=quiet(spawner)))
    assert second.engines[0].usable
    assert second.memory.bandwidth_bytes_s == first.memory.bandwidth_bytes_s
    assert set(second.rates) == {model.key}


def test_forced_crash_is_recorded_survived_and_not_tried_again(
    model: ProbeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEAGENT_FAULTS", "1")
    spawner = Spawner(CrashingWorker)

    def load() -> Profile:
        return asyncio.run(ensure_profile(places(tmp_path), model, refresh=False, instruments=quiet(spawner)))

    first = load()
    (engine,) = first.engines
    assert engine.probe.verdict == "crashed"
    assert engine.probe.settings == {"extra_buffers": False, "flash_attention": True}
    rates = first.rates[model.key]
    assert rates.prefill_tok_s > 0
    assert rates.roofline_fraction is not None
    num_first = spawner.num_spawned

    second = load()
    assert (second.engines, second.rates) == (first.engines, first.rates)
    assert spawner.num_spawned == num_first


def test_two_at_once_measure_once(tmp_path: Path) -> None:
    async def both() -> tuple[Profile, Profile]:
        one, two = (
            ensure_profile(places(tmp_path), None, refresh=False, instruments=quiet(Spawner())) for _ in range(2)
        )
        return await asyncio.gather(one, two)

    one, two = asyncio.run(both())
    assert one.memory.bandwidth_bytes_s is not None
    assert one.memory.bandwidth_bytes_s == two.memory.bandwidth_bytes_s  # two measurements never agree to the last bit


def test_refresh_forgets_what_was_kept(tmp_path: Path) -> None:
    def load(refresh: bool) -> Profile:
        return asyncio.run(ensure_profile(places(tmp_path), None, refresh=refresh, instruments=quiet(Spawner())))

    kept = load(refresh=False).model_copy(update={"rates": {"m/v": Rates(prefill_tok_s=1, decode_tok_s=2)}})
    save_profile(places(tmp_path).cache, kept)
    assert load(refresh=False).rates == kept.rates
    assert load(refresh=True).rates == {}


def test_profile_of_another_machine_is_not_believed(tmp_path: Path) -> None:
    here = places(tmp_path)
    here.state.mkdir()
    alien = read_machine(Sysroot(tmp_path), here).model_copy(
        update={"rates": {"m/v": Rates(prefill_tok_s=1, decode_tok_s=2)}}
    )
    save_profile(here.cache, alien)
    assert asyncio.run(ensure_profile(here, None, refresh=False, instruments=quiet(Spawner()))).rates == {}


@pytest.mark.parametrize(("busy_now", "num_kept"), [(0.1, 1), (0.9, 2)])
def test_rates_taken_on_a_busy_machine_are_forgotten_once_it_is_quiet(
    tmp_path: Path, busy_now: float, num_kept: int
) -> None:
    here, instruments = places(tmp_path), quiet(Spawner(), busy_now)
    first = asyncio.run(ensure_profile(here, None, refresh=False, instruments=instruments))
    good = Rates(prefill_tok_s=2, decode_tok_s=2, busy_fraction=0.1)
    bad = Rates(prefill_tok_s=1, decode_tok_s=1, busy_fraction=0.8)
    save_profile(here.cache, first.model_copy(update={"rates": {"good/v": good, "bad/v": bad}}))
    again = asyncio.run(ensure_profile(here, None, refresh=False, instruments=instruments))
    assert "good/v" in again.rates
    assert len(again.rates) == num_kept
