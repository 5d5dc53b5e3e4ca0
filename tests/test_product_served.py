"""A peer in front of a server that others made (llama-cpp-python's own), with a daemon on the same broker."""

import contextlib
import importlib.util
import json
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeagent.model.store import StoredVariant
from tests.conftest import Mosquitto, free_port
from tests.test_product import Program, environment, running

NEEDED = ("uvicorn", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings")
MODEL = "house-model"
START_S = 60.0
Json = dict[str, Any]


@pytest.fixture
def server(smollm2: StoredVariant, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """It calls the model `House/House-Model`."""
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"no {lacking[0]} here; install llama-cpp-python[server]")
    port = free_port()
    settings = {
        "host": "127.0.0.1",
        "port": port,
        "models": [{"model": str(smollm2.path), "model_alias": "House/House-Model", "n_ctx": 1024, "n_threads": 1,
                    "chat_format": "chatml"}],
    }  # fmt: skip
    (tmp_path / "server.json").write_text(json.dumps(settings))
    command = [sys.executable, "-c", SERVER, str(tmp_path / "server.json")]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process, f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


# Its own entry point; only that models are opened without the buffers that crash on some CPUs (docs/design.md).
SERVER = """
import functools, runpy, sys
import llama_cpp
defaults = llama_cpp.llama_model_default_params
def careful():
    params = defaults()
    params.use_extra_bufts = False
    return params
llama_cpp.llama_cpp.llama_model_default_params = careful
sys.argv = ["llama_cpp.server", "--config_file", sys.argv[1]]
runpy.run_module("llama_cpp.server", run_name="__main__")
"""


@contextlib.contextmanager
def front(ready_env: dict[str, str], folder: Path, broker: Mosquitto, url: str) -> Iterator[str]:
    """The address of a daemon whose one peer fronts the server."""
    port = free_port()
    shared = {"EDGEAGENT__MQTT__URL": broker.url, "EDGEAGENT__MQTT__PREFIX": f"test/{secrets.token_hex(4)}"}
    there = shared | {"EDGEAGENT__PEER__BACKEND": "openai", "EDGEAGENT__PEER__OPENAI_URL": url}
    peer_env = environment(ready_env, folder, EDGEAGENT__MQTT__DEVICE_ID="garage", **there)
    env = environment(ready_env, folder, EDGEAGENT__MQTT__DEVICE_ID="shelf", EDGEAGENT__HTTP__PORT=str(port), **shared)
    with (
        running(Program(("peer",), peer_env, folder / "peer.log", "peer ready")),
        running(Program(("serve",), env, folder / "daemon.log", "daemon ready")),
    ):
        yield f"http://127.0.0.1:{port}/v1"


def fetch(url: str, body: Json | None = None) -> Any:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def question(max_tokens: int, **more: object) -> Json:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me a long story about a lighthouse and its keeper."}],
        "max_tokens": max_tokens,
        "edgeagent": {"memory": False, "reduce": "L0"},
    } | more


@pytest.mark.long
def test_model_of_another_server_is_offered_answers_and_is_taken_over_with_a_mark(
    ready_env: dict[str, str], tmp_path: Path, mosquitto: Mosquitto, server: tuple[subprocess.Popen[bytes], str]
) -> None:
    process, url = server
    deadline = time.monotonic() + START_S
    while not _is_up(url):
        assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with front(ready_env, tmp_path, mosquitto, url) as base:
        listed = {entry["id"]: entry["owned_by"] for entry in fetch(f"{base}/models")["data"]}
        assert listed[MODEL] == "peer garage"

        whole = fetch(f"{base}/chat/completions", question(24))
        report = whole["edgeagent"]
        assert (report["plan"], report["model"], report["variant"], report["peer"]) == ("remote", MODEL, "served",
                                                                                      "garage")  # fmt: skip
        assert whole["choices"][0]["message"]["content"].strip()
        assert report["handover"] == []
        assert report["peer_tokens"] == whole["usage"]["completion_tokens"] > 4

        timer = threading.Timer(1.0, process.kill)
        timer.start()
        struck = fetch(f"{base}/chat/completions", question(400))
        timer.join()
        switch = struck["edgeagent"]["handover"][-1]
        assert 0 < switch["at_token"] < struck["usage"]["completion_tokens"]
        assert switch["from"] == f"{MODEL} on peer garage"
        assert switch["to"].startswith("local smollm2-135m-instruct")
        assert "another model goes on" in switch["reason"]


def _is_up(url: str) -> bool:
    try:
        return bool(fetch(f"{url}/models")["data"])
    except OSError:
        return False
