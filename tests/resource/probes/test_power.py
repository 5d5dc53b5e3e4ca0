"""Rails, supplies, energy counters and power modes."""

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeagent.resource.probes.power import read_power
from edgeagent.resource.probes.power_modes import read_power_modes
from edgeagent.resource.probes.rapl import Counter, rapl_watts, read_rapl
from edgeagent.resource.probes.sysroot import Sysroot

Tree = Callable[[Mapping[str, str]], Sysroot]
HWMON = "sys/class/hwmon"
SUPPLY = "sys/class/power_supply"
CPUFREQ = "sys/devices/system/cpu/cpu0/cpufreq"

ORIN_RAILS = {
    f"{HWMON}/hwmon1/name": "ina3221\n",
    f"{HWMON}/hwmon1/in1_label": "VDD_IN\n",
    f"{HWMON}/hwmon1/in1_input": "5064\n",
    f"{HWMON}/hwmon1/curr1_input": "1000\n",
    f"{HWMON}/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    f"{HWMON}/hwmon1/in2_input": "5000\n",
    f"{HWMON}/hwmon1/curr2_input": "200\n",
    f"{HWMON}/hwmon1/in3_label": "NC\n",
    f"{HWMON}/hwmon1/in3_input": "5000\n",
    f"{HWMON}/hwmon1/curr3_input": "8\n",
    f"{HWMON}/hwmon1/in7_label": "sum of shunt voltages\n",
    f"{HWMON}/hwmon1/in7_input": "2000\n",
}
NVPMODEL = {
    "etc/nvpmodel.conf": (
        "# FORMAT: < POWER_MODEL ID=id_num NAME=mode_name >\n"
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n"
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=1 >\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull\n",
}


def test_rails_are_millivolts_times_milliamperes(tree: Tree) -> None:
    power = read_power(tree(ORIN_RAILS))
    assert power.draw_w == {"VDD_IN": pytest.approx(5.064), "VDD_CPU_GPU_CV": pytest.approx(1.0)}
    assert power.sources == {"meter:ina3221": "seen as hwmon1"}


def test_two_meters_of_one_kind_are_both_named(tree: Tree) -> None:
    root = tree({f"{HWMON}/hwmon{n}/name": "ina3221\n" for n in (1, 2)})
    assert read_power(root).sources == {"meter:ina3221": "seen as hwmon1", "meter:ina3221@hwmon2": "seen as hwmon2"}


def test_monitor_that_tells_microwatts_is_taken_at_its_word(tree: Tree) -> None:
    chip = {f"{HWMON}/hwmon2/name": "amdgpu\n", f"{HWMON}/hwmon2/power1_average": "23000000\n"}
    assert read_power(tree({**chip, f"{HWMON}/hwmon2/power1_label": "PPT\n"})).draw_w == {"amdgpu PPT": 23.0}


def test_rails_of_jetpack_4_are_told_in_milliwatts(tree: Tree) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    root = tree(
        {
            f"{folder}/rail_name_0": "POM_5V_IN\n",
            f"{folder}/in_power0_input": "2875\n",
            f"{folder}/rail_name_1": "NC",
            f"{folder}/in_power1_input": "9",
        }
    )
    power = read_power(root)
    assert power.draw_w == {"POM_5V_IN": 2.875}
    assert power.sources == {"meter:ina3221x@6-0040": "seen as 6-0040"}
    assert "power" not in root.gaps


@pytest.mark.parametrize(
    ("facts", "draw"),
    [
        ({"type": "Battery", "status": "Discharging", "power_now": "7500000"}, {"X": 7.5}),
        ({"type": "Battery", "status": "Discharging", "voltage_now": "12000000", "current_now": "-500000"}, {"X": 6.0}),
        ({"type": "Battery", "status": "Charging", "power_now": "7500000"}, {}),
        ({"type": "USB", "online": "1", "voltage_now": "5000000", "current_now": "2000000"}, {"X": 10.0}),
        ({"type": "Mains", "online": "1"}, {}),
    ],
)
def test_supply_tells_what_flows_from_it(tree: Tree, facts: dict[str, str], draw: dict[str, float]) -> None:
    root = tree({f"{SUPPLY}/X/{name}": f"{text}\n" for name, text in facts.items()})
    assert read_power(root).draw_w == draw
    assert ("power.draw_w" in root.gaps) == (not draw)


def test_what_usb_c_agreed_on_is_not_a_draw(tree: Tree) -> None:
    facts = {"type": "USB", "online": "1", "voltage_now": "20000000", "current_now": "3000000"}
    root = tree({f"{SUPPLY}/ucsi-source-psy-USBC000:001/{name}": text for name, text in facts.items()})
    assert read_power(root).draw_w == {}


def test_pi_undervoltage_is_said(tree: Tree) -> None:
    root = tree({f"{HWMON}/hwmon1/name": "rpi_volt\n", f"{HWMON}/hwmon1/in0_lcrit_alarm": "1\n"})
    assert read_power(root).sources == {"rpi_volt": "undervoltage now"}


def test_nvpmodel_status_names_the_mode_of_its_number(tree: Tree) -> None:
    power = read_power(tree({**NVPMODEL, f"{CPUFREQ}/scaling_governor": "schedutil\n"}))
    assert (power.mode, power.modes) == ("MAXN_SUPER", ("15W", "25W", "MAXN_SUPER"))


def test_nvpmodel_without_status_is_in_its_default_mode(tree: Tree) -> None:
    assert read_power_modes(tree({"etc/nvpmodel.conf": NVPMODEL["etc/nvpmodel.conf"]})).mode == "25W"


def test_nvpmodel_status_alone_is_a_number(tree: Tree) -> None:
    assert read_power_modes(tree({"var/lib/nvpmodel/status": "pmode:0003"})) == ("3", ())


def test_nvpmodel_files_of_nonsense_fall_through_to_the_governor(tree: Tree) -> None:
    root = tree(
        {
            "etc/nvpmodel.conf": "< POWER_MODEL >",
            "var/lib/nvpmodel/status": "pmode:",
            f"{CPUFREQ}/scaling_governor": "ondemand\n",
        }
    )
    assert read_power_modes(root).mode == "ondemand"


def test_platform_profile_goes_before_the_governor(tree: Tree) -> None:
    acpi = "sys/firmware/acpi/platform_profile"
    files = {acpi: "balanced\n", f"{acpi}_choices": "low-power balanced performance\n"}
    root = tree({**files, f"{CPUFREQ}/scaling_governor": "powersave\n"})
    assert read_power_modes(root) == ("balanced", ("low-power", "balanced", "performance"))


def test_governor_of_a_policy_counts_without_the_link_to_it(tree: Tree) -> None:
    folder = "sys/devices/system/cpu/cpufreq/policy0"
    root = tree(
        {f"{folder}/scaling_governor": "ondemand\n", f"{folder}/scaling_available_governors": "ondemand performance \n"}
    )
    assert read_power_modes(root) == ("ondemand", ("ondemand", "performance"))


def test_energy_counters_of_one_name_stay_apart(tree: Tree) -> None:
    folders = ("intel-rapl:0", "intel-rapl-mmio:0")
    files = {"name": "package-0\n", "energy_uj": "7\n", "max_energy_range_uj": "262143328850\n"}
    root = tree({f"sys/class/powercap/{folder}/{name}": text for folder in folders for name, text in files.items()})
    assert set(read_power(root).sources) == {"rapl:package-0", "rapl:package-0@intel-rapl-mmio:0"}
    assert read_rapl(root)["package-0"] == Counter(7, 262143328850)


def test_watts_are_microjoules_over_time_and_survive_a_wrap() -> None:
    before = {"package-0": Counter(1_000_000, 262_143_328_850), "dram": Counter(262_143_000_000, 262_143_328_850)}
    after = {
        "package-0": Counter(13_000_000, 262_143_328_850),
        "dram": Counter(671_150, 262_143_328_850),
        "new": Counter(1, 2),
    }
    assert rapl_watts(before, after, 2.0) == {"package-0": 6.0, "dram": 0.5}
    assert rapl_watts(before, after, 0.0) == {}


def test_counter_that_fell_without_a_known_range_gives_no_watts() -> None:
    assert rapl_watts({"x": Counter(5, None)}, {"x": Counter(1, None)}, 1.0) == {}


@settings(deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 2**40), st.floats(0.01, 1e6))
def test_watts_are_never_negative(start: int, end: int, span: int, elapsed_s: float) -> None:
    for watts in rapl_watts({"x": Counter(start, span)}, {"x": Counter(end, span)}, elapsed_s).values():
        assert watts >= 0
