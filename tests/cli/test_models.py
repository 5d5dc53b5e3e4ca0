"""`edgeagent models` on the embedded model."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeagent.cli.models import models
from edgeagent.core.errors import ModelNotFoundError

MODEL = "smollm2-135m-instruct"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [n for n in os.environ if n.startswith("EDGEAGENT")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGEAGENT_STATE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(models, list(arguments))


def document(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exception is None, result.output
    return json.loads(result.stdout)


@pytest.mark.usefixtures("state")
def test_list_before_any_pull_shows_every_variant_as_absent() -> None:
    models_by_id = {model["id"]: model for model in document("list")["models"]}
    variants = {v["name"]: v for v in models_by_id[MODEL]["variants"]}
    assert list(variants) == ["Q4_1", "Q8_0", "Q4_0", "Q3_K_M", "Q2_K"]
    assert not any(v["on_disk"] for v in variants.values())
    assert [name for name, v in variants.items() if v["chosen"]] == ["Q4_1"]
    assert variants["Q4_1"]["bytes"] == 98_362_432


def test_list_with_too_little_memory_chooses_nothing_and_says_why(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del state
    monkeypatch.setenv("EDGEAGENT__MODELS__MEMORY_LIMIT_BYTES", "1000000")
    facts = document("show", MODEL)
    assert not any(v["chosen"] for v in facts["variants"])
    assert "no variant of smollm2-135m-instruct fits 1 MB" in facts["why"]


def test_truncated_file_is_listed_as_bad(state: Path) -> None:
    path = state / "models" / MODEL / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    variant = document("show", MODEL)["variants"][0]
    assert not variant["on_disk"]
    assert "has 4 bytes, its card says 98362432" in variant["problem"]


@pytest.mark.usefixtures("state")
def test_text_list_has_a_line_for_each_variant() -> None:
    lines = run("list").stdout.splitlines()
    assert len(lines) == 1 + sum(len(model["variants"]) for model in document("list")["models"])
    assert any(line.startswith("* smollm2-135m-instruct Q4_1") for line in lines)


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize(
    "arguments", [("show", "nope"), ("pull", "nope"), ("quantize", "nope", "Q4_0"), ("rm", "nope")]
)
def test_unknown_model_is_one_error(arguments: tuple[str, ...]) -> None:
    assert isinstance(run(*arguments).exception, ModelNotFoundError)


def test_removed_model_frees_its_bytes(state: Path) -> None:
    path = state / "models" / MODEL / "SmolLM2-135M-Instruct.Q2_K.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(1000))
    assert document("rm", MODEL, "--variant", "Q2_K")["freed_bytes"] == 1000
    assert not path.exists()
