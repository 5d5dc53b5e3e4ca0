"""A device that holds a model's head and nothing else of it, under a limit that refuses the whole; as processes."""

import asyncio
import json
import os
import shutil
import signal
import urllib.request
from pathlib import Path

import pytest

from edgeagent.model.slicing import slice_variant
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.parts import spawn_llama
from tests.conftest import Mosquitto, free_port
from tests.test_product import Daemon, Json, Program, environment, fleet, running

__all__ = ["fleet"]  # a fixture

MODEL, K = "gemma-3-270m", 6
LIMIT_BYTES = 345 * 2**20
"""Between what head and whole take with 1,024 tokens of context (docs/adr/0025)."""


@pytest.fixture
def head_only(models_dir: Path, smollm2: StoredVariant, embedded_store: ModelStore, tmp_path: Path) -> Path:
    """A model folder with Gemma's head and with SmolLM2."""

    async def make() -> StoredVariant:
        await embedded_store.ensure(MODEL)
        return (await slice_variant(embedded_store, MODEL, 0, K, spawn_llama)).stored

    stored, folder = asyncio.run(make()), tmp_path / "device-models"
    for each in (smollm2, stored):
        (folder / each.card.id).mkdir(parents=True)
        (folder / each.card.id / each.path.name).symlink_to(each.path)
    shutil.copy(models_dir / MODEL / "overlay.json", folder / MODEL)
    shutil.copytree(models_dir / "minilm-l6-v2-int8", folder / "minilm-l6-v2-int8")
    return folder


def ask(daemon: Daemon, plan: str, seen: int | None = None, then: Program | None = None) -> tuple[str, Json]:
    """The words of a streamed answer, and its report; after so many pieces `then` is killed."""
    body = {
        "model": MODEL, "messages": [{"role": "user", "content": "Tell me about the sea."}], "max_tokens": 32,
        "temperature": 0.0, "stream": True, "edgeagent": {"plan": plan, "memory": False, "reduce": "L0"},
    }  # fmt: skip
    request = urllib.request.Request(
        f"{daemon.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    text, report, count = "", Json(), 0
    with urllib.request.urlopen(request, timeout=240) as reply:
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            piece = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            text, count, report = text + piece, count + bool(piece), chunk.get("edgeagent") or report
            if then is not None and count == seen and then.process and then.process.poll() is None:
                os.kill(then.process.pid, signal.SIGKILL)
    return text, report


@pytest.mark.long
def test_model_that_memory_refuses_is_served_by_its_head_and_a_lost_peer_is_marked(
    ready_env: dict[str, str], tmp_path: Path, mosquitto: Mosquitto, fleet: dict[str, str], head_only: Path
) -> None:
    port = free_port()
    shared = {"EDGEAGENT__MQTT__URL": mosquitto.url, "EDGEAGENT__MQTT__PREFIX": f"test/{port}"}
    shared |= {"EDGEAGENT__MODELS__CONTEXT_TOKENS": "1024"}
    there, here = (
        environment(
            ready_env, tmp_path, EDGEAGENT__MQTT__DEVICE_ID=name, EDGEAGENT__MQTT__IDENTITY=fleet[name], **shared
        )
        for name in ("garage", "shelf")
    )
    there |= {"EDGEAGENT__PEER__MODELS": f'["{MODEL}"]'}
    here |= {
        "EDGEAGENT__HTTP__PORT": str(port),
        "EDGEAGENT__MODELS__DIR": str(head_only),
        "EDGEAGENT__MODELS__MEMORY_LIMIT_BYTES": str(LIMIT_BYTES),
    }
    peer = Program(("peer",), there, tmp_path / "peer.log", "peer ready")
    program = Program(("serve",), here, tmp_path / "daemon.log", "daemon ready")
    with running(peer), running(program):
        daemon = Daemon(program, port)
        _, warm = ask(daemon, "remote")
        assert (warm["plan"], warm["model"]) == ("remote", MODEL)
        expected, _ = ask(daemon, "remote")
        got, report = ask(daemon, "split-decode")
        assert (report["plan"], report["model"], report["k"], report["handover"]) == ("split-decode", MODEL, K, [])
        assert got == expected
        assert sum(worker.memory_info().rss for worker in program.workers()) < LIMIT_BYTES
        broken, report = ask(daemon, "split-decode", seen=6, then=peer)
        [marked] = report["handover"]
        assert marked["at_token"] >= 6
        assert marked["from"].startswith(MODEL)
        assert report["model"] == "smollm2-135m-instruct"
        assert broken[: len(expected) // 8] == expected[: len(expected) // 8]
        assert len(broken) > len(expected) // 4
