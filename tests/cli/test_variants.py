"""`edgeagent models quantize, prune, slice, measure`: what they refuse, and measuring the embedded model for real."""

import json
from pathlib import Path

import pytest

from edgeagent.model.store import StoredVariant
from tests.conftest import ROOT, Cli

MODEL = "smollm2-135m-instruct"


@pytest.fixture
def env(smollm2: StoredVariant, tmp_path: Path) -> dict[str, str]:
    """A models folder of its own, with the embedded model and nothing else."""
    folder = tmp_path / "models" / MODEL
    folder.mkdir(parents=True)
    (folder / smollm2.path.name).symlink_to(smollm2.path)
    return {"EDGEAGENT__MODELS__DIR": str(tmp_path / "models")}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("measure", MODEL), 1, "no text to measure with; give --text FILE, or set EDGEAGENT_BENCH_DATA"),
        (("prune", MODEL, "--layers", "26"), 1, "give --calibration FILE, or set EDGEAGENT_BENCH_DATA"),
        (("prune", MODEL), 2, "Missing option '--layers'"),
        (
            ("prune", MODEL, "--layers", "4", "--calibration", "TEXT"),
            1,
            "30 layers and cannot be cut to 4; --layers may",
        ),
        (("prune", "minilm-l6-v2-int8", "--layers", "4", "--calibration", "TEXT"), 1, "has no layers to leave out"),
        (("measure", "minilm-l6-v2-int8", "--text", "TEXT"), 1, "predicts no text; measure a chat or base model"),
        (("measure", MODEL, "--variant", "Q8_0", "--text", "TEXT"), 1, "Q8_0 is not here; run 'edgeagent models pull"),
        (("measure", MODEL, "--variant", "Q9", "--text", "TEXT"), 1, "has no variant 'Q9'"),
        (("slice", MODEL), 2, "Missing option '--layers'"),
        (("slice", MODEL, "--layers", "8"), 2, "'8' is not A:B, for instance 0:8"),
        (("slice", MODEL, "--layers", "9:3"), 1, "no stage 9:3; legal are 0:K, K:30 and K:L with K and L out of 1, 2,"),
        (("slice", "minilm-l6-v2-int8", "--layers", "0:2"), 1, "has no layers to cut; slice a chat or base model"),
        (("quantize", MODEL, "Q2_K", "--imatrix", "TEXT", "--calibration", "TEXT"), 2, "give either"),
        (("quantize", MODEL, "Q2_K", "--imatrix", "TEXT"), 1, "is no importance matrix"),
        (("quantize", MODEL, "Q4_1"), 1, "is fetched, not made"),
        (("quantize", MODEL, "NVFP4"), 1, "is no type that llama.cpp makes; use one of BF16,"),
        (("quantize", "minilm-l6-v2-int8", "Q8_0"), 1, "is no GGUF model"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    edgeagent: Cli,
    env: dict[str, str],
    ready_env: dict[str, str],
    arguments: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    text = str(ROOT / "LICENSE")
    result = edgeagent("models", *(text if a == "TEXT" else a for a in arguments), env=ready_env | env)
    assert result.returncode == status, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not list(Path(env["EDGEAGENT__MODELS__DIR"]).rglob("overlay.json"))


@pytest.mark.long
def test_measured_model_shows_its_figures_from_then_on(
    edgeagent: Cli, env: dict[str, str], ready_env: dict[str, str]
) -> None:
    ready = ready_env | env
    options = ("--text", str(ROOT / "LICENSE"), "--chunks", "2", "--context", "64", "--json")
    result = edgeagent("models", "measure", MODEL, "--all", *options, env=ready, timeout_s=600)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    (measured,) = facts["measurements"]
    assert (measured["variant"], measured["positions"]) == ("Q4_1", 62)
    assert (measured["mean_kl"], measured["top1"]) == (0, 1)
    assert measured["peak_rss_bytes"] > measured["bytes"]
    assert measured["prefill_tok_s"] > 0
    assert "Q8_0" in facts["note"]  # its card figure is of another text, so the two are not compared
    shown = json.loads(edgeagent("models", "show", MODEL, "--json", env=ready).stdout)
    assert shown["variants"][0]["perplexity"] == 23.12
    overlay = Path(facts["overlay"])
    overlay.write_text("{}}")
    broken = edgeagent("models", "show", MODEL, "--json", env=ready)
    assert broken.returncode == 1
    assert broken.stderr.startswith(f"error: overlay {overlay}: ")
