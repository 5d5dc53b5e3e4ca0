"""The governor over a simulated hour: below the throttle point, near the best there is, without flapping."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools/governor_simulation.py"


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["cases"]
    return found


def test_board_left_alone_throttles_within_ten_minutes(cases: list[dict[str, Any]]) -> None:
    assert len(cases) == 7
    assert all(case["ungoverned_throttles_at_s"] < 600 for case in cases)


def test_governed_hour_stays_below_the_throttle_point_with_nine_tenths_of_the_tokens(
    cases: list[dict[str, Any]],
) -> None:
    for case in cases:
        assert case["max_c"] < 80.0, case
        assert case["tokens"] >= 0.90 * case["clairvoyant_tokens"], case


def test_governed_hour_has_few_switches(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        assert case["num_switches"] <= (8 if "air" in case["case"] else 4), case
