"""`edgeagent models` on the embedded model."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeagent import parts
from edgeagent.cli.models import models
from edgeagent.core.errors import ModelNotFoundError, OutOfMemoryError
from edgeagent.settings import load_settings
from tests.model.machines import kernels

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
    assert "no variant of smollm2-135m-instruct fits 1.0 MB" in facts["why"]
    assert all("it needs" in v["rejected"] for v in facts["variants"])


def test_truncated_file_is_listed_as_bad(state: Path) -> None:
    path = state / "models" / MODEL / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    variant = document("show", MODEL)["variants"][0]
    assert not variant["on_disk"]
    assert "has 4 bytes, its card says 98362432" in variant["problem"]


@pytest.mark.usefixtures("state")
def test_text_list_has_a_line_for_each_variant() -> None:
    lines = run("list", "--all").stdout.splitlines()
    cards = document("list")["models"]
    assert sum(line[2:].startswith(tuple(f"{card['id']} " for card in cards)) for line in lines) == sum(
        len(card["variants"]) for card in cards
    )
    assert any(line.startswith("* smollm2-135m-instruct Q4_1") for line in lines)


@pytest.mark.usefixtures("state")
def test_list_hides_what_neither_fits_nor_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT__MODELS__MEMORY_LIMIT_BYTES", "300000000")
    text = run("list").stdout
    assert "qwen3-30b-a3b" not in text
    assert "smollm2-135m-instruct Q4_1" in text
    assert "more do not fit; see them with --all" in text


@pytest.mark.usefixtures("state")
def test_size_that_nobody_saw_is_predicted_and_marked() -> None:
    variants = {v["name"]: v for v in document("show", "qwen2.5-3b-instruct")["variants"]}
    predicted = next(v for v in variants.values() if v["bytes_predicted"])
    assert predicted["bytes"] > 10**9
    assert f"~{predicted['bytes'] / 1e6:.1f}" in run("show", "qwen2.5-3b-instruct").stdout


def known_profile(state: Path) -> None:
    """A kept profile of this machine, with the arithmetic of an imaginary measurement."""
    found = parts.known_profile(load_settings())
    (state / "profile.json").write_text(found.model_copy(update={"kernels": kernels(2.0)}).model_dump_json())


def test_speed_is_predicted_for_every_decoder_before_any_download(state: Path) -> None:
    known_profile(state)
    for model in document("list")["models"]:
        for variant in model["variants"]:
            if variant["quality_rank"] is not None:
                assert variant["speed"] == "predicted", (model["id"], variant["name"])
                assert variant["decode_tok_s"] > 0
                assert variant["ttft_s"] > 0


def test_show_has_the_front_first_and_the_reason(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT__MODELS__MEMORY_LIMIT_BYTES", "500000000")  # what is available changes all the time
    known_profile(state)
    result = run("show", MODEL)
    facts = document("show", MODEL)
    assert facts["why"] in result.stdout
    assert "predicted on" in facts["why"]
    assert next(v for v in facts["variants"] if v["chosen"])["pareto"]


def test_recommend_names_one_model_and_what_spoke_against_the_others(state: Path) -> None:
    known_profile(state)
    facts = document("recommend")
    chats = {m["id"] for m in document("list")["models"] if m["kind"] == "chat"}
    assert {facts["id"], *facts["others"]} == chats
    assert all(facts["others"].values())
    assert f"edgeagent models pull {facts['id']} --variant {facts['variant']}" in run("recommend").stdout


@pytest.mark.usefixtures("state")
def test_recommend_without_memory_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT__MODELS__MEMORY_LIMIT_BYTES", "1000000")
    assert isinstance(run("recommend").exception, OutOfMemoryError)


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
