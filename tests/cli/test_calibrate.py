"""`edgeagent models calibrate`: what it refuses, and a cascade from the questions to an answer, with real variants."""

import hashlib
import json
from pathlib import Path

import pytest

from edgeagent.model.store import StoredVariant
from tests.conftest import ROOT, Cli

MODEL = "smollm2-135m-instruct"
QUESTIONS = ROOT / "tools/data/cascade-questions.jsonl"


@pytest.fixture
def env(smollm2: StoredVariant, ready_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A models folder of its own, with the embedded model and nothing else, and a measured profile."""
    folder = tmp_path / "models" / MODEL
    folder.mkdir(parents=True)
    (folder / smollm2.path.name).symlink_to(smollm2.path)
    return ready_env | {"EDGEAGENT__MODELS__DIR": str(tmp_path / "models")}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((MODEL,), 2, "Missing option '--file'"),
        ((MODEL, "--file", "GOOD", "--floor", "0.5", "--budget", "0.5"), 2, "give either --floor or --budget"),
        ((MODEL, "--file", "GOOD", "--budget", "1.5"), 2, "is not in the range"),
        ((MODEL, "--file", "BAD"), 1, "bad.jsonl, line 1: check"),
        ((MODEL, "--variant", "Q8_0", "--file", "GOOD"), 1, f"run 'edgeagent models pull {MODEL} --variant Q8_0'"),
        (("nobody", "--file", "GOOD"), 1, "no model 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    edgeagent: Cli, env: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    files = {"GOOD": str(QUESTIONS), "BAD": str(tmp_path / "bad.jsonl")}
    (tmp_path / "bad.jsonl").write_text('{"question": "?", "check": "taste", "answers": ["a"]}\n')
    result = edgeagent("models", "calibrate", *(files.get(a, a) for a in arguments), env=env)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert message in result.stderr.replace("\n", " ")
    assert not list(Path(env["EDGEAGENT__MODELS__DIR"]).rglob("overlay.json"))


@pytest.mark.long
def test_calibrated_pair_answers_as_the_confidence_says(edgeagent: Cli, env: dict[str, str], tmp_path: Path) -> None:
    made = edgeagent("models", "quantize", MODEL, "Q2_K", "--json", env=env, timeout_s=600)
    assert made.returncode == 0, made.stderr
    some = tmp_path / "some.jsonl"
    some.write_text("".join(QUESTIONS.read_text(encoding="utf-8").splitlines(keepends=True)[::2]), encoding="utf-8")
    pair = (f"{MODEL}/Q2_K", f"{MODEL}/Q4_1")
    options = ("--variant", "Q2_K", "--larger", pair[1], "--file", str(some), "--budget", "0.5", "--max-tokens", "12")

    result = edgeagent("models", "calibrate", MODEL, *options, "--json", env=env, timeout_s=1800)

    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    kept = json.loads(Path(facts["overlay"]).read_text(encoding="utf-8"))["calibrations"]
    assert [(c["variant"], c["larger"]) for c in kept] == [("Q2_K", pair[1])]
    assert facts["file_sha256"] == hashlib.sha256(some.read_bytes()).hexdigest()
    assert facts["figures"]["questions"] == len(some.read_text(encoding="utf-8").splitlines())
    assert facts["figures"]["share_asked"] <= 0.5

    # Without tools: a question for the calculator is none for a cascade.
    ready = env | {"EDGEAGENT__MODELS__CASCADE": json.dumps(pair), "EDGEAGENT__TOOLS__ENABLED": "[]"}
    outcomes = set()
    for line in some.read_text(encoding="utf-8").splitlines()[::6]:
        question = json.loads(line)["question"]
        outcomes.add(check_answer(edgeagent, ready, question, pair))
    assert outcomes == {True, False}  # some stand, some are asked of the larger


def check_answer(edgeagent: Cli, env: dict[str, str], question: str, pair: tuple[str, str]) -> bool:
    """Whether the small answer stood; the report says the same in all its keys."""
    asked = edgeagent("ask", question, "--max-tokens", "12", "--no-memory", "--json", env=env, timeout_s=600)
    assert asked.returncode == 0, asked.stderr
    report = json.loads(asked.stdout)["edgeagent"]
    cascade = report["cascade"]
    assert (cascade["small"], cascade["larger"]) == pair
    assert f"{report['model']}/{report['variant']}" == pair[0 if cascade["stood"] else 1]
    assert cascade["stood"] is (cascade["larger_s"] is None)
    if cascade["early_at"] is None:
        assert cascade["stood"] is (cascade["confidence"] >= cascade["threshold"])
    return bool(cascade["stood"])
