"""Making the int8 encoder at first use, and what happens where it cannot be made."""

import asyncio
import shutil
from pathlib import Path

import pytest

from edgeagent.core.errors import EngineError, ModelNotFoundError
from edgeagent.core.hardware import Capability, EngineFacts, Verdict
from edgeagent.execution.embedding import CPU, choose_provider
from edgeagent.execution.supervisor import Worker
from edgeagent.model.fetch import SourceFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.registry import Registry
from edgeagent.model.requantize import ensure_computing_in_int8, spawn_onnx
from edgeagent.model.store import ModelStore, StoredVariant

CARDS = Path(__file__).parents[2] / "models"


@pytest.fixture
def store(tmp_path: Path, minilm: StoredVariant) -> ModelStore:
    """A folder of its own that has the published files."""
    folder = tmp_path / "models"
    (folder / minilm.card.id).mkdir(parents=True)
    for path in (minilm.path, *minilm.companions.values()):
        shutil.copy2(path, folder / minilm.card.id / path.name)
    return ModelStore(folder, Registry.load(CARDS), SourceFetcher(WheelFetcher({}), UrlFetcher()))


def test_int8_form_is_made_once_and_then_found(store: ModelStore) -> None:
    async def no_worker() -> Worker:
        raise AssertionError("it is there already")

    made = asyncio.run(ensure_computing_in_int8(store, "minilm-l6-v2-int8", spawn_onnx))
    assert (made.variant.name, set(made.companions)) == ("int8-dynamic", {"tokenizer.json"})
    assert asyncio.run(ensure_computing_in_int8(store, "minilm-l6-v2-int8", no_worker)) == made


def test_published_form_is_used_where_the_other_cannot_be_made(
    store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> Worker:
        raise EngineError("no worker today")

    stored = asyncio.run(ensure_computing_in_int8(store, "minilm-l6-v2-int8", broken))
    assert stored.variant.name == "int8"
    assert "the published encoder is used as it is" in caplog.text


def test_int8_form_cannot_be_pulled(store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError, match=r"is made from int8 when it is first needed"):
        asyncio.run(store.ensure("minilm-l6-v2-int8", "int8-dynamic"))


@pytest.mark.parametrize(
    ("verdicts", "chosen"),
    [
        ({}, CPU),
        ({CPU: "ok"}, CPU),
        ({CPU: "ok", "CUDAExecutionProvider": "crashed"}, CPU),
        (
            {CPU: "ok", "OpenVINOExecutionProvider": "ok", "CUDAExecutionProvider": "failed"},
            "OpenVINOExecutionProvider",
        ),
        ({"OpenVINOExecutionProvider": "ok", "CUDAExecutionProvider": "ok"}, "CUDAExecutionProvider"),
        ({"TensorrtExecutionProvider": "ok"}, CPU),
    ],
)
def test_provider_is_the_first_faster_one_with_a_good_verdict(verdicts: dict[str, str], chosen: str) -> None:
    found = tuple(
        Capability.model_validate({"name": name, "verdict": verdict, "reason": "", "at": "2026-11-24"})
        for name, verdict in verdicts.items()
    )
    probe = Verdict(verdict="ok", reason="")
    engine = EngineFacts(name="onnxruntime", version="1", usable=True, probe=probe, capabilities=found)
    assert choose_provider(engine) == chosen
    assert choose_provider(None) == CPU
