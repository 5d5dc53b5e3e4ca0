"""The policy: it gives way late, takes back later, says why, and never goes to and fro."""

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.governor import Conditions, EngineAdvice, Levers
from edgeagent.resource.governor import GovernorLimits, GovernorState, step

WELL = Conditions(
    at_s=0.0,
    busy=1.0,
    engine_threads=4,
    cores=4,
    temperature_c=50.0,
    throttle_c=80.0,
    available_bytes=4 * 2**30,
    total_bytes=8 * 2**30,
    pressure_percent=0.0,
    other_cores=0.0,
)
LEVERS = Levers("q8_0", 4096, has_smaller_variant=True)
SHORT = replace(WELL, available_bytes=2**28)


def advise(moments: Iterable[Conditions], limits: GovernorLimits | None = None) -> list[EngineAdvice]:
    state, found = GovernorState(), []
    for number, now in enumerate(moments):
        state, advice = step(state, replace(now, at_s=3.0 * number), LEVERS, limits or GovernorLimits())
        found.append(advice)
    return found


def memory_lever(advice: EngineAdvice) -> tuple[object, ...]:
    return (advice.smaller_variant, advice.kv_type, advice.context_tokens, advice.pause)


def test_well_machine_is_left_alone() -> None:
    assert all(advice == EngineAdvice() for advice in advise([WELL] * 100))


def test_machine_that_tells_nothing_is_left_alone() -> None:
    dumb = Conditions(at_s=0.0, busy=1.0, engine_threads=2, cores=2)
    assert all(advice.is_neutral for advice in advise([dumb] * 50))


def test_heat_reduces_threads_and_duty_before_the_throttle_point() -> None:
    rising = [60 + 0.5 * number for number in range(38)]
    found = advise(replace(WELL, temperature_c=celsius) for celsius in rising)
    held = next(number for number, advice in enumerate(found) if not advice.is_neutral)
    assert rising[held] < 80
    first = found[held]
    assert first.threads is not None
    assert first.threads * first.duty < 4
    assert "80 °C" in first.reasons[0]


def test_heat_is_released_far_below_only() -> None:
    hot = [replace(WELL, temperature_c=79.0)] * 10
    warm = [replace(WELL, busy=0.0, temperature_c=79.0 - 0.1 * number) for number in range(60)]
    cool = [replace(WELL, busy=0.0, temperature_c=73.0 - 0.1 * number) for number in range(60)]
    found = advise([*hot, *warm, *cool])
    assert not found[9].is_neutral
    assert all(advice.threads == found[9].threads for advice in found[9:69])
    assert found[-1] == EngineAdvice()


def test_requests_wait_only_when_the_least_work_is_lastingly_too_much() -> None:
    hot = [replace(WELL, temperature_c=84.0)] * 80
    found = advise([*hot, *[replace(WELL, temperature_c=82.0 - 0.2 * number) for number in range(60)]])
    assert not any(advice.pause for advice in found[:20])
    assert found[79].pause
    assert "requests wait" in found[79].reasons[0]
    assert not found[-1].pause


def test_throttle_point_that_is_unknown_leaves_heat_alone() -> None:
    assert advise([replace(WELL, temperature_c=99.0, throttle_c=None)] * 20)[-1].is_neutral


def test_machine_that_slows_itself_below_its_heat_limit_gets_fewer_threads_for_a_while() -> None:
    found = advise([*[replace(WELL, is_throttled=True)] * 3, *[replace(WELL, is_throttled=False)] * 60])
    assert found[0].threads == 3
    assert "power supply" in found[0].reasons[0]
    assert found[20].threads == 3
    assert found[-1].is_neutral


def test_memory_levers_come_one_by_one_mildest_first() -> None:
    found = advise([SHORT] * 40)
    order = list(dict.fromkeys(memory_lever(advice) for advice in found))
    assert order == [
        (False, None, None, False),
        (True, None, None, False),
        (True, "q4_0", None, False),
        (True, "q4_0", 2048, False),
        (True, "q4_0", 2048, True),
    ]
    assert "256 MiB available" in found[-1].reasons[0]


def test_short_pressure_changes_nothing() -> None:
    assert all(advice.is_neutral for advice in advise([SHORT, SHORT, WELL] * 30))


def test_swap_that_grows_is_pressure_and_old_swap_is_not() -> None:
    old = replace(WELL, swapped_bytes=2**30)
    assert all(advice.is_neutral for advice in advise([old] * 30))
    grown = replace(WELL, swapped_bytes=2**30 + 2**27)
    assert advise([old, *[grown] * 10])[-1].smaller_variant


def test_relief_that_proved_too_early_is_waited_for_twice_as_long() -> None:
    state, changes, last = GovernorState(), 0, memory_lever(EngineAdvice())
    is_eased_by_lever = False
    for number in range(4800):  # four hours of a machine that is short of memory whenever nothing was given
        now = replace(WELL if is_eased_by_lever else SHORT, at_s=3.0 * number)
        state, advice = step(state, now, LEVERS, GovernorLimits())
        is_eased_by_lever = advice.smaller_variant
        changes += memory_lever(advice) != last
        last = memory_lever(advice)
    assert changes <= 14  # at a fixed five minutes it would be 90


def test_other_programs_get_their_cores_once_their_load_lasts() -> None:
    busy = replace(WELL, other_cores=2.0)
    found = advise([WELL, busy, busy, *[WELL] * 5])
    assert all(advice.threads is None for advice in found)
    found = advise([WELL, *[busy] * 30])
    assert found[-1].threads == 2
    assert "other programs" in found[-1].reasons[0]
    assert advise([WELL, *[busy] * 30, *[WELL] * 60])[-1].is_neutral


def test_battery_on_mains_is_no_reason_and_a_low_one_is() -> None:
    low = replace(WELL, battery_percent=15.0, is_discharging=True)
    assert advise([replace(low, is_discharging=False)])[-1].is_neutral
    assert advise([low])[-1].threads == 2
    assert not advise([low])[-1].smaller_variant
    assert advise([replace(low, battery_percent=5.0)])[-1].smaller_variant
    around = [replace(low, battery_percent=20 + wobble) for wobble in (0, 1, 0, 2, 0, 3)]
    assert {advice.threads for advice in advise(around)} == {2}


def test_jetson_in_maximum_mode_is_advised_another_where_joules_count() -> None:
    jetson = replace(WELL, power_mode="MAXN_SUPER", power_modes=("15W", "25W", "MAXN_SUPER"))
    assert advise([jetson])[-1].power_mode is None
    assert advise([jetson], GovernorLimits(saves_energy=True))[-1].power_mode == "25W"
    on_battery = replace(jetson, is_discharging=True, battery_percent=80.0)
    assert advise([on_battery])[-1].power_mode == "25W"
    assert advise([replace(on_battery, power_mode="25W")])[-1].power_mode is None


@given(
    st.lists(
        st.builds(
            Conditions,
            at_s=st.just(0.0),
            busy=st.floats(0, 1),
            engine_threads=st.just(4),
            cores=st.just(4),
            temperature_c=st.none() | st.floats(-20, 120),
            throttle_c=st.none() | st.floats(50, 110),
            is_throttled=st.none() | st.booleans(),
            available_bytes=st.none() | st.integers(0, 2**33),
            total_bytes=st.none() | st.integers(0, 2**33),
            pressure_percent=st.none() | st.floats(0, 100),
            swapped_bytes=st.integers(0, 2**33),
            battery_percent=st.none() | st.floats(0, 100),
            is_discharging=st.booleans(),
            other_cores=st.none() | st.floats(0, 8),
        ),
        max_size=40,
    )
)
def test_advice_is_always_possible_and_never_without_a_reason(moments: list[Conditions]) -> None:
    for advice in advise(moments):
        assert advice.threads is None or 1 <= advice.threads <= 4
        assert 0 < advice.duty <= 1
        assert bool(advice.reasons) == (advice != EngineAdvice())


def test_a_better_power_mode_alone_holds_nothing_back() -> None:
    jetson = replace(WELL, power_mode="MAXN", power_modes=("15W", "25W", "MAXN"))
    [advice] = advise([jetson], GovernorLimits(saves_energy=True))
    assert advice.reasons
    assert not advice.holds_back
    assert advise([SHORT] * 60)[-1].holds_back
    assert not advise([WELL])[-1].holds_back
