"""What is installed for each release of the engine, and what counts as exact."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FIGURES: dict[str, Any] = {
    "kv_max_abs_logit": 0.0, "kv_token_mismatches": 0, "resume_token_mismatches": 0, "split_max_abs_logit": 0.0,
    "split_token_mismatches": 0, "split_head_mismatches": 0, "f16_mean_kl": 0.0036, "int8_mean_kl": 0.0048,
    "int8_top1": 0.956,
}  # fmt: skip


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("exactness_releases", ROOT / "tools/exactness_releases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_the_engine_is_another_one(tool: ModuleType) -> None:
    pinned, other = tool.requirements(tool.PINNED), tool.requirements("0.3.34")
    assert set(pinned) ^ set(other) == {f"llama-cpp-python=={tool.PINNED}", "llama-cpp-python==0.3.34"}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, 1e-6) for name in FIGURES if name.endswith(("logit", "mismatches"))]
    + [("f16_mean_kl", 0.0041), ("int8_mean_kl", 0.0061), ("int8_top1", 0.93)],
)
def test_one_figure_out_of_bounds_is_not_exact(tool: ModuleType, name: str, value: float) -> None:
    assert tool.is_exact(FIGURES)
    assert not tool.is_exact(FIGURES | {name: value})


def test_row_has_a_cell_for_each_column(tool: ModuleType) -> None:
    types = {kv_type: {"caches": 12, "resumed": 4} for kv_type in ("q8_0", "f16")}
    facts = {"by_cache_type": types, "split_compared": 100, "engine": "llama-cpp-python 0.3.34+0123456789ab"}
    row = tool.row("0.3.34", {"figures": FIGURES, "conditions": facts})
    assert row == ("| 0.3.34 | `0123456789ab` | 0, 0 of 24 | 0 of 8 | 0, 0 of 100 | 0.0036 | 0.0048, 95.6% |")
    assert row.count("|") == tool.row_of(tool.COLUMNS).count("|")


def test_tests_that_it_runs_are_there(tool: ModuleType) -> None:
    assert all((ROOT / path).exists() for path in tool.TESTS)
