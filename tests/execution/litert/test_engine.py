"""The LiteRT engine in a real worker: a tiny model built here, a real one, and real libraries as delegates."""

import asyncio
import shutil
import subprocess
from array import array
from pathlib import Path

import pytest

from edgeagent.core.errors import EngineError, EngineLostError, ModelFileError
from edgeagent.execution.channel import Received
from edgeagent.execution.litert.tiny import CHANNELS, INPUT_SCALE, KERNEL, OUTPUT_SCALE, SIDE, WEIGHT_SCALE, model_bytes
from edgeagent.execution.supervisor import Worker
from edgeagent.resource.capability.judging import Judged
from edgeagent.resource.capability.litert import LIBRARIES, LitertTrials
from edgeagent.resource.capability.trial import ABSENT, engine_builds, spawn_limited

pytestmark = pytest.mark.skipif(
    engine_builds()["litert"] == ABSENT, reason="LiteRT is not installed here (pip install 'edgeagent[litert]')"
)

DELEGATES = {
    "takes nothing": "static int prepare(void *c, struct delegate *d) { return 0; }",
    "crashes": "static int prepare(void *c, struct delegate *d) { return *(volatile int *)0; }",
    "hangs": "static int prepare(void *c, struct delegate *d) { for (;;) ; }",
    "refuses": "static int prepare(void *c, struct delegate *d) { return 1; }",
}
DELEGATE_SOURCE = """
struct delegate {{ void *data; int (*prepare)(void *, struct delegate *); void *copy_from, *copy_to, *release;
                   long long flags; void *builder; }};
{prepare}
static struct delegate it;
void *tflite_plugin_create_delegate(char **keys, char **values, unsigned long n, void (*error)(const char *))
{{ it.prepare = prepare; return &it; }}
void tflite_plugin_destroy_delegate(void *d) {{ }}
"""
"""The plug-in interface of external delegates and the head of TfLiteDelegate, as in tensorflow/lite/core/c/common.h."""


def call(*operations: dict[str, object], bulk: bytes = b"") -> list[Received]:
    """One worker, these operations in order; the last gets the bulk."""

    async def run() -> list[Received]:
        worker = await Worker.spawn("litert", is_quiet=True)
        try:
            return [
                await worker.call(
                    str(o["op"]), [bulk] if bulk and o is operations[-1] else (), stall_s=60, **_parameters(o)
                )
                for o in operations
            ]
        finally:
            await worker.close()

    return asyncio.run(run())


def _parameters(operation: dict[str, object]) -> dict[str, object]:
    return {key: str(value) for key, value in operation.items() if key != "op"}


def test_tiny_model_is_the_same_at_every_call_and_small() -> None:
    assert model_bytes() == model_bytes()
    assert model_bytes()[4:8] == b"TFL3"
    assert len(model_bytes()) < 2048


@pytest.mark.parametrize("delegate", ["", "xnnpack"])
def test_tiny_model_computes_the_convolution_that_is_written_in_it(delegate: str) -> None:
    image = [(i * 29) % 255 - 127 for i in range(SIDE * SIDE * CHANNELS)]
    given = array("b", image).tobytes()
    (loaded, _), (shape, bulk) = call({"op": "load", "delegate": delegate}, {"op": "run"}, bulk=given)
    found = array("f", bulk)
    assert shape["shape"] == [1, SIDE, SIDE, CHANNELS]
    assert (loaded["nodes"], loaded["delegated"]) == (1, int(bool(delegate)))
    for place in ((0, 0, 0), (3, 4, 5), (7, 7, 7)):
        expected = min(127 * OUTPUT_SCALE, max(0.0, convolution(image, *place)))
        y, x, channel = place
        assert found[(y * SIDE + x) * CHANNELS + channel] == pytest.approx(expected, abs=OUTPUT_SCALE)


def convolution(image: list[int], y: int, x: int, out: int) -> float:
    """One output value, by the definition: 3 x 3 cells around (y, x), zeros outside."""
    total = 100 * out
    for dy in range(KERNEL):
        for dx in range(KERNEL):
            if 0 <= (row := y + dy - 1) < SIDE and 0 <= (column := x + dx - 1) < SIDE:
                for c in range(CHANNELS):
                    index = ((out * KERNEL + dy) * KERNEL + dx) * CHANNELS + c
                    total += image[(row * SIDE + column) * CHANNELS + c] * ((index * 37) % 201 - 100)
    return total * INPUT_SCALE * WEIGHT_SCALE


def test_file_is_loaded_and_run(tmp_path: Path) -> None:
    file = tmp_path / "tiny.tflite"
    file.write_bytes(model_bytes())
    (from_file,) = call({"op": "trial", "path": file})
    (built_in,) = call({"op": "trial"})
    assert from_file == built_in


@pytest.mark.parametrize("content", [b"", b"TFL3 no model", model_bytes()[:300]])
def test_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "torn.tflite"
    file.write_bytes(content)
    with pytest.raises((ModelFileError, EngineLostError)):
        call({"op": "load", "path": file})


def test_run_before_load_and_unknown_operations_are_errors() -> None:
    with pytest.raises(EngineError, match="model is loaded in this worker"):
        call({"op": "run"})
    with pytest.raises(EngineError, match="no operation 'walk'"):
        call({"op": "walk"})


def test_library_that_is_no_delegate_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be loaded"):
        call({"op": "load", "delegate": compiled(tmp_path / "none.so", "int nothing;")})


def compiled(target: Path, source: str) -> Path:
    if not (compiler := shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler here")
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", str(target)], input=source, text=True, check=True
    )
    return target


def judge_delegate(root: Path, kind: str) -> Judged:
    source = DELEGATE_SOURCE.format(prepare=DELEGATES[kind])
    compiled(root / "usr/lib" / LIBRARIES["vx"], source)
    trials = LitertTrials(spawn_limited, timeout_s=5, root=root)
    return asyncio.run(trials.judge("vx"))


@pytest.mark.parametrize(
    ("kind", "verdict", "reason"),
    [
        ("takes nothing", "failed", "it took none of the tiny model's operations (1)"),
        ("crashes", "crashed", "SIGSEGV"),
        ("hangs", "hung", "no answer"),
        ("refuses", "failed", "the model cannot be prepared"),
    ],
)
def test_delegate_library_that_misbehaves_costs_its_verdict(
    tmp_path: Path, kind: str, verdict: str, reason: str
) -> None:
    judged = judge_delegate(tmp_path, kind)
    assert judged.verdict == verdict
    assert reason in judged.reason


def test_delegate_without_a_library_is_absent(tmp_path: Path) -> None:
    judged = asyncio.run(LitertTrials(spawn_limited, root=tmp_path).judge("edgetpu"))
    assert judged == Judged("absent", "libedgetpu.so.1 is not in the standard folders")


def test_cpu_and_xnnpack_agree() -> None:
    trials = LitertTrials(spawn_limited, timeout_s=60)

    async def both() -> tuple[Judged, Judged]:
        return await trials.judge("cpu"), await trials.judge("xnnpack")

    cpu, xnnpack = asyncio.run(both())
    assert (cpu.verdict, xnnpack.verdict) == ("ok", "ok")
    assert "off the CPU's output" in xnnpack.reason


def test_runtime_that_cannot_be_imported_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed for the package manager, broken for Python: the verdict is the import's own words."""
    for package in ("ai_edge_litert", "tflite_runtime"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    judged = asyncio.run(LitertTrials(spawn_limited, timeout_s=60).judge("cpu"))
    assert judged.verdict == "failed"
    assert "LiteRT cannot be imported (numpy.core.multiarray failed to import" in judged.reason
