"""What every bench shares: real processes, conditions, one JSON document."""

import argparse
import contextlib
import functools
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from edgeagent.resource.cache import load_profile
from edgeagent.resource.capability import ENGINE
from edgeagent.settings import load_settings

ROOT = Path(__file__).parent.parent.parent
CHAT_MODEL, ENCODER = "smollm2-135m-instruct", "minilm-l6-v2-int8"
START_S = 90.0
Json = dict[str, Any]
UNGOVERNED = {"EDGEAGENT__GOVERNOR__ENABLED": "false"}
"""For benches that compute beside the engine: the governor would give way to them."""
COLD = {
    "EDGEAGENT__ENGINE__SEQUENCES": "1",
    "EDGEAGENT__ENGINE__KEPT_MEMORY_BYTES": "0",
    "EDGEAGENT__ENGINE__KEPT_DISK_BYTES": "0",
}
"""Another prompt in between, and a prompt is evaluated whole again."""


def options(description: str | None) -> argparse.Namespace:
    return parser(description).parse_args()


def parser(description: str | None) -> argparse.ArgumentParser:
    """What every bench takes; some take more."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="one document on stdout")
    made.add_argument("--quick", action="store_true", help="a seeded sample, at most five minutes")
    return made


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def publish(bench: str, figures: Json, conditions: Json, *, as_json: bool) -> None:
    """The one document, or the same as lines."""
    document: Json = {"bench": bench, "figures": figures, "conditions": common_conditions() | conditions}
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for key, value in figures.items():
        print(f"{key:28} {value}")
    for key, value in document["conditions"].items():
        print(f"  {key}: {value}")


def common_conditions() -> Json:
    return {
        "cpu": cpu_model(),
        "cores": len(cores()),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def cores() -> list[int]:
    """Those this process may use."""
    return sorted(os.sched_getaffinity(0))


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def spread(values: Sequence[float]) -> Json:
    """n, minimum, median and maximum."""
    return {"n": len(values), "min": min(values), "median": statistics.median(values), "max": max(values)}


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]


def state_env() -> dict[str, str]:
    """Variables of a state folder that has the models; they are pulled when they are missing."""
    state = Path(os.environ.get("EDGEAGENT_STATE") or ROOT / ".state")
    env = os.environ | {"EDGEAGENT_STATE": str(state), "PYTHONPATH": str(ROOT)}
    for arguments in (["models", "pull", CHAT_MODEL], ["models", "pull", ENCODER], ["profile"]):
        subprocess.run([sys.executable, "-m", "edgeagent", *arguments], env=env, check=True, stdout=subprocess.DEVNULL)
    return env


def chat_model_file() -> Path:
    """The embedded chat model, fetched if need be."""
    return Path(state_env()["EDGEAGENT_STATE"]) / "models" / CHAT_MODEL / "SmolLM2-135M-Instruct.Q4_1.gguf"


@functools.cache
def repacks_weights() -> bool:
    """Whether the engine's `extra_buffers` work here, as the profile's probe found: on some machines they crash."""
    profile = load_profile(load_settings(environment=state_env()).paths.profile)
    engine = profile.engine(ENGINE) if profile else None
    if engine is None or not engine.usable:
        raise RuntimeError("the llama engine is not usable on this machine; see 'edgeagent doctor'")
    return engine.probe.settings["extra_buffers"]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def wait_for(is_there: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not is_there():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come up in {START_S:g} s")
        time.sleep(0.01)


@dataclass(slots=True)
class Program:
    """A process that can be killed and started again; `ready` is a word of its log."""

    command: list[str]
    env: dict[str, str]
    ready: str | None = None
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="edgeagent-bench-")) / "log")

    def start(self) -> None:
        if self.process and self.process.poll() is None:
            return
        with self.log.open("ab") as log:
            before = log.tell()
            self.process = subprocess.Popen(
                self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if self.ready:
            wait_for(lambda: self._said(before), " ".join(self.command[-2:]))

    def _said(self, offset: int) -> bool:
        assert self.process is not None
        said = self.log.read_text(errors="replace")[offset:]
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.command} ended: {said[-500:]}")
        return str(self.ready) in said

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def workers(self) -> list[psutil.Process]:
        """The llama engine workers below this process."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [c for c in children if "edgeagent.execution.worker" in c.cmdline() and "llama" in c.cmdline()]


@contextlib.contextmanager
def running(program: Program) -> Iterator[Program]:
    program.start()
    try:
        yield program
    finally:
        program.kill()


@contextlib.contextmanager
def broker() -> Iterator[tuple[Program, str]]:
    """Mosquitto on a free loopback port."""
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
        config.flush()
        path = os.environ["PATH"] + ":/usr/sbin"
        program = Program(["mosquitto", "-c", config.name], os.environ | {"PATH": path})
        with running(program):
            wait_for(lambda: _accepts(port), "mosquitto")
            yield program, f"mqtt://127.0.0.1:{port}"


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def edgeagent(arguments: list[str], env: dict[str, str], ready: str) -> Program:
    return Program([sys.executable, "-m", "edgeagent", *arguments], env, ready)


@dataclass(frozen=True, slots=True)
class Client:
    """Asks a daemon over HTTP."""

    port: int

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def ask(self, question: str, plan: str, *, temperature: float = 0.0, max_tokens: int = 48) -> Json:
        """The completion. Raises urllib.error.HTTPError."""
        return self._post(
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": question}],
                "max_tokens": max_tokens,
                "temperature": temperature,
                "seed": 7,
                "edgeagent": {"plan": plan, "memory": False, "reduce": "L0"},
            },
        )

    def candidates(self, prompt_tokens: int, max_tokens: int) -> list[Json]:
        """The planner's table for such a prompt. Raises urllib.error.HTTPError."""
        decision = self._post("/api/edge/plan", {"prompt_tokens": prompt_tokens, "max_tokens": max_tokens})
        return list(decision["candidates"])

    def _post(self, path: str, body: Json) -> Json:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as reply:
            answer: Json = json.load(reply)
        return answer


@dataclass(frozen=True, slots=True)
class Streamed:
    """`ttft_s` is from sending the request to the first word, as a client sees it."""

    ttft_s: float
    text: str
    report: Json
    usage: Json


def stream(base_url: str, body: Json, seen: Callable[[int], None] = lambda _num_pieces: None) -> Streamed:
    """A streamed completion; `seen` is called with the number of pieces of text so far, nearly one a token.

    Raises RuntimeError when the daemon refuses, or when there is no first word to time.
    """
    place = urllib.parse.urlsplit(base_url)
    client = http.client.HTTPConnection(place.hostname or "", place.port, timeout=600)
    report, usage, text, first_s, num_pieces = Json(), Json(), "", None, 0
    started, wanted = time.perf_counter(), {"stream": True, "stream_options": {"include_usage": True}}
    client.request("POST", "/v1/chat/completions", json.dumps(body | wanted), {"Content-Type": "application/json"})
    reply = client.getresponse()
    if reply.status != 200:
        raise RuntimeError(f"the daemon answered {reply.status}: {reply.read(500)!r}")
    for line in reply:
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            words = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            if words and first_s is None:
                first_s = time.perf_counter() - started
            text += words
            if words:
                num_pieces += 1
                seen(num_pieces)
            report, usage = chunk.get("edgeagent") or report, chunk.get("usage") or usage
    client.close()
    if first_s is None:
        raise RuntimeError("the answer was empty: there is no first word to time")
    return Streamed(first_s, text, report, usage)


def words(answer: Json) -> str:
    return str(answer["choices"][0]["message"]["content"])


def make_layers(client: Client, plan: str) -> None:
    """Until the peer says that it has layers ready for that split plan."""

    def are_ready() -> bool:
        if any(row["plan"] == plan and not row["making_s"] for row in client.candidates(200, 48)):
            return True
        client.ask("Say no.", plan, max_tokens=2)
        time.sleep(0.6)  # until its next status
        return False

    wait_for(are_ready, "the peer's layers")


def wait_for_peer(client: Client) -> None:
    """Until a remote answer comes back without a handover: the peer is there and its breaker closed."""

    def is_back() -> bool:
        try:
            return bool(client.ask("Say yes.", "remote", max_tokens=4)["edgeagent"]["handover"] == [])
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.2)
            return False

    wait_for(is_back, "the peer")
