"""When silence means that a worker hangs: pure judgement, and the readers on real processes."""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.vitals import Patience, Silence, Vitals, read_vitals, resident_bytes, thread_states

PATIENCE = Patience()


def looks(silence: Silence, states: str, cpu_share: float, seconds: float, threads: str = "") -> float | None:
    """Look each tick; seconds until the worker counts as hung."""
    at_s = cpu_s = 0.0
    silence.heard(at_s)
    silence.look(at_s, Vitals("S", 0.0), "S", 10.0)
    while at_s < seconds:
        at_s += PATIENCE.tick_s
        cpu_s += cpu_share * PATIENCE.tick_s
        if silence.look(at_s, Vitals(states, cpu_s), threads or states, 10.0):
            return at_s
    return None


def test_deadlock_and_spin_are_found_after_the_bound() -> None:
    assert looks(Silence(PATIENCE), "S", 0.0, 60) == 10.0
    assert looks(Silence(PATIENCE), "R", 1.0, 60) == 10.0
    assert looks(Silence(PATIENCE), "S", 4.0, 60, "SRRRR") == 10.0


def test_starved_worker_is_given_the_time_it_did_not_get() -> None:
    assert looks(Silence(PATIENCE), "R", 0.0, 3600) is None
    assert looks(Silence(PATIENCE), "S", 0.0, 3600, "SRSS") is None
    slow = looks(Silence(PATIENCE), "R", 0.05, 3600)
    assert slow is not None
    assert abs(slow - 200) <= 1


def test_wait_for_storage_is_not_a_hang_before_its_own_bound() -> None:
    assert looks(Silence(PATIENCE), "D", 0.0, 3600) == PATIENCE.disk_s


def test_stopped_worker_is_found_after_a_second() -> None:
    for state in "Tt":
        since_seen = PATIENCE.stopped_s + PATIENCE.tick_s
        assert looks(Silence(PATIENCE), state, 0.0, 60) == since_seen
    silence = Silence(PATIENCE)
    assert silence.look(100.0, Vitals("T", 0.0), "T", 10.0) is None
    assert silence.look(100.5, Vitals("S", 0.0), "S", 10.0) is None
    assert silence.look(101.0, Vitals("T", 0.0), "T", 10.0) is None  # it went on in between


def test_worker_that_is_stopped_and_continued_in_turns_is_slow_and_not_hung() -> None:
    assert looks(Silence(PATIENCE), "T", 0.05, 600) is None


def test_time_in_which_nobody_looked_does_not_count() -> None:
    silence = Silence(PATIENCE)
    silence.heard(0.0)
    assert silence.look(3600.0, Vitals("S", 0.0), "S", 10.0) is None
    assert silence.look(7200.0, Vitals("T", 0.0), "T", 10.0) is None
    assert silence.step_s(10_000.0) <= 4 * PATIENCE.tick_s


@given(gaps=st.lists(st.floats(0.01, 9.4), max_size=50), share=st.floats(0, 4))
def test_worker_that_is_heard_within_the_bound_is_never_hung(gaps: list[float], share: float) -> None:
    silence, at_s, cpu_s = Silence(PATIENCE), 0.0, 0.0
    silence.heard(0.0)
    for gap in gaps:
        end_s = at_s + gap
        while at_s + PATIENCE.tick_s < end_s:
            at_s += PATIENCE.tick_s
            cpu_s += share * PATIENCE.tick_s
            assert silence.look(at_s, Vitals("S", cpu_s), "SR", PATIENCE.bound_s(0.1)) is None
        at_s = end_s
        silence.heard(at_s)


def test_before_any_step_is_known_the_bound_is_a_patient_one() -> None:
    assert PATIENCE.bound_s(0.0) == 120.0


@given(st.floats(0, 1000, exclude_min=True))
def test_bound_follows_the_longest_step(step_s: float) -> None:
    assert PATIENCE.bound_s(step_s) >= max(10.0, 10 * step_s)


def test_readers_on_real_processes() -> None:
    own = read_vitals(os.getpid())
    assert own is not None
    assert own.state in "RS"
    assert own.cpu_s > 0
    assert "R" in thread_states(os.getpid())
    assert (resident_bytes(os.getpid()) or 0) > 10 * 2**20
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert read_vitals(child.pid) is None
    assert thread_states(child.pid) == ""
    assert resident_bytes(child.pid) is None


def test_name_with_brackets_and_blanks_is_read(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    fields = "S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0"
    (tmp_path / "7" / "stat").write_text(f"7 (a) b ( c) {fields}\n")
    found = read_vitals(7, tmp_path)
    assert found is not None
    assert found.state == "S"
    assert found.cpu_s == 200 / os.sysconf("SC_CLK_TCK")
