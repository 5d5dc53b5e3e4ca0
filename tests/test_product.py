"""The product as a user meets it: a daemon, a peer and a broker as processes, other people's client in front."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from edgeagent.execution.durable import Outbox
from tests.browser import ENTER, Browser
from tests.conftest import Mosquitto, free_port
from tests.members import Members

ROOT = Path(__file__).parent.parent
START_S = 60.0
QUESTIONS = (
    "What is the capital of France?",
    "Name three animals that live in the sea, and say one thing about each of them.",
    "Write two sentences about the weather in April. " * 12,
)
PLANS = ("prefill", "remote", "split-prefill", "split-decode", "local")
Json = dict[str, Any]


@dataclass(slots=True)
class Program:
    """One `edgeagent` process; `restart` brings it back with the same settings."""

    arguments: tuple[str, ...]
    env: dict[str, str]
    log: Path
    ready: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "edgeagent", *self.arguments]
            self.process = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while self.ready not in self.log.read_text()[offset:]:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.arguments} did not start:\n{self.log.read_text()[offset:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit status. Its log is printed if that is not 0."""
        assert self.process is not None
        self.process.terminate()
        if status := self.process.wait(40):
            sys.stderr.write(self.log.read_text())
        return status

    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [c for c in children if "edgeagent.execution.worker" in c.cmdline() and "llama" in c.cmdline()]


def environment(ready_env: dict[str, str], folder: Path, **more: str) -> dict[str, str]:
    base = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    return base | ready_env | more


@dataclass(slots=True)
class Daemon:
    program: Program
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, question: str, plan: str = "local", temperature: float = 0.0) -> Json:
        body = {
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 40,
            "temperature": temperature,
            "seed": 7,
            "edgeagent": {"plan": plan, "memory": False, "reduce": "L0"},
        }
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            answer: Json = json.load(reply)
        return answer


@contextlib.contextmanager
def running(program: Program) -> Iterator[Program]:
    program.start()
    try:
        yield program
    finally:
        program.kill()


@pytest.fixture
def daemon(ready_env: dict[str, str], tmp_path: Path) -> Iterator[Daemon]:
    """A daemon without a broker."""
    port = free_port()
    env = environment(ready_env, tmp_path, EDGEAGENT__HTTP__PORT=str(port))
    with running(Program(("serve",), env, tmp_path / "daemon.log", "daemon ready")) as program:
        yield Daemon(program, port)


@pytest.fixture
def fleet(tmp_path: Path) -> dict[str, str]:
    """Folders with the keys of `garage`, a peer, and `shelf`, a device, by name."""
    members = Members(tmp_path)
    return {"garage": str(members.enroll("garage", "peer")), "shelf": str(members.enroll("shelf", "device"))}


@pytest.fixture
def pair(
    ready_env: dict[str, str], tmp_path: Path, mosquitto: Mosquitto, fleet: dict[str, str]
) -> Iterator[tuple[Daemon, Program]]:
    """A daemon and a peer of one fleet on a real broker."""
    with two(ready_env, tmp_path, mosquitto, fleet) as both:
        yield both


@contextlib.contextmanager
def two(
    ready_env: dict[str, str], tmp_path: Path, mosquitto: Mosquitto, keys: dict[str, str]
) -> Iterator[tuple[Daemon, Program]]:
    """The device `shelf` and the peer `garage`, with the keys of each, if there are any."""
    port = free_port()
    shared = {"EDGEAGENT__MQTT__URL": mosquitto.url, "EDGEAGENT__MQTT__PREFIX": f"test/{port}"}
    shared |= {"EDGEAGENT__MQTT__RECORDS": "true", "EDGEAGENT__PEER__COLLECT": "true"}
    peer_env, env = (
        environment(
            ready_env,
            tmp_path,
            EDGEAGENT__MQTT__DEVICE_ID=name,
            EDGEAGENT__MQTT__IDENTITY=keys.get(name, ""),
            EDGEAGENT__HTTP__PORT=str(port),
            **shared,
        )
        for name in ("garage", "shelf")
    )
    with running(Program(("peer",), peer_env, tmp_path / "peer.log", "peer ready")) as peer:
        program = Program(("serve",), env, tmp_path / "daemon.log", "daemon ready")
        with running(program):
            yield Daemon(program, port), peer


def collected(daemon: Daemon) -> list[Json]:
    """What the peer keeps of the daemon's answers, the newest first, once nothing waits to be sent."""
    deadline, env = time.monotonic() + START_S, daemon.program.env
    outbox = Outbox(Path(env["EDGEAGENT_STATE"]) / "outbox.sqlite")
    while outbox.num_waiting:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    outbox.close()
    command = [sys.executable, "-m", "edgeagent", "fleet", "records", "-n", "1000", "--json"]
    found: list[Json] = json.loads(subprocess.run(command, env=env, check=True, stdout=-1).stdout)["records"]
    return found


def words(answer: Json) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_openai_client_chats_streams_and_gets_a_tool_call(daemon: Daemon) -> None:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none") as client:
        question: Any = [{"role": "user", "content": "What is the capital of France?"}]
        models = [model.id for model in client.models.list()]
        whole = client.chat.completions.create(model=models[0], messages=question, max_tokens=16)
        chunks = list(client.chat.completions.create(model=models[0], messages=question, max_tokens=16, stream=True))
        weather: Any = {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Get the current weather in a city",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
        called = client.chat.completions.create(
            model=models[0],
            messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
            tools=[weather],
            tool_choice="required",
        )
    text = whole.choices[0].message.content
    assert text  # which words a model of this size finds differs from CPU to CPU
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    calls: Any = called.choices[0].message.tool_calls
    assert called.choices[0].finish_reason == "tool_calls"
    assert (calls[0].function.name, json.loads(calls[0].function.arguments)) == ("get_weather", {"city": "Oslo"})


def test_page_shows_a_real_answer_and_what_happened(daemon: Daemon, browser: Browser, tmp_path: Path) -> None:
    """Set EDGEAGENT_PAGE_IMAGE to keep the picture that the README shows."""
    for fact in ("My sister Ada lives in Lisbon.", "The spare key is with Mr Lindqvist at number 14."):
        remembered = [sys.executable, "-m", "edgeagent", "memory", "add", fact]
        subprocess.run(remembered, env=daemon.program.env, check=True, stdout=subprocess.DEVNULL)
    browser.open("about:blank")  # the page of an earlier test may still look for its server
    browser.complaints()
    browser.appear("light", 1100, 900)
    browser.open(daemon.url)
    browser.wait_for("document.querySelector('#state-text').innerText == 'ready'")
    browser.type("#question", "Where does my sister live?" + ENTER)
    browser.wait_for("document.querySelector('.turn:last-child .answer[aria-busy=false]')")
    assert "Lisbon" in browser.text(".turn .body")
    browser.type(".report summary", ENTER)
    panel = browser.text(".report-body")
    for fact in ("local", "smollm2-135m-instruct", "Q4_1", "My sister Ada lives in Lisbon."):
        assert fact in panel, (fact, panel)
    image = Path(os.environ.get("EDGEAGENT_PAGE_IMAGE") or tmp_path / "page.png")
    browser.screenshot(image)
    assert image.stat().st_size > 10_000
    assert browser.complaints() == []


def test_daemon_without_a_model_loaded_is_small_and_imports_no_inference(daemon: Daemon) -> None:
    assert daemon.program.process is not None
    process = psutil.Process(daemon.program.process.pid)
    mapped = " ".join(region.path for region in process.memory_maps())
    assert "numpy" not in mapped
    assert "llama" not in mapped
    assert "onnxruntime" not in mapped
    assert process.memory_info().rss < 80e6


def test_daemon_on_sigterm_ends_its_workers_and_exits_zero(daemon: Daemon) -> None:
    daemon.ask("Say hello.")
    workers = daemon.program.workers()
    assert workers
    assert daemon.program.stop() == 0
    assert not any(worker.is_running() for worker in workers)


def test_prompt_over_the_context_is_refused_by_name(daemon: Daemon) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        daemon.ask("word " * 6000)
    body = json.load(refused.value)
    refused.value.close()
    assert (refused.value.code, body["error"]["code"]) == (400, "context_length_exceeded")


def test_plans_give_the_same_words(pair: tuple[Daemon, Program]) -> None:
    daemon, _ = pair
    for question in QUESTIONS:
        for temperature in (0.0, 0.8):
            wait_for_peer(daemon)
            answers = {plan: daemon.ask(question, plan, temperature) for plan in PLANS}
            assert {plan: a["edgeagent"]["plan"] for plan, a in answers.items()} == {p: p for p in answers}
            assert len({words(answer) for answer in answers.values()}) == 1, (question, temperature)
    recorded = collected(daemon)
    assert [each["plan"] for each in reversed(recorded)][-len(PLANS) :] == list(PLANS)
    assert {each["device"] for each in recorded} == {"shelf"}


def test_plans_give_the_same_words_between_machines_that_are_in_no_fleet(
    ready_env: dict[str, str], tmp_path: Path, mosquitto: Mosquitto
) -> None:
    with two(ready_env, tmp_path, mosquitto, {}) as (daemon, _):
        wait_for_peer(daemon)
        answers = [daemon.ask(QUESTIONS[0], plan, 0.8) for plan in ("prefill", "remote", "local")]
        assert [answer["edgeagent"]["plan"] for answer in answers] == ["prefill", "remote", "local"]
        assert len({words(answer) for answer in answers}) == 1


def test_named_plan_whose_peer_is_gone_is_answered_here_and_says_so(pair: tuple[Daemon, Program]) -> None:
    daemon, peer = pair
    wait_for_peer(daemon)
    assert peer.stop() == 0
    answer = daemon.ask(QUESTIONS[0], "prefill")
    report = answer["edgeagent"]
    assert words(answer) == words(daemon.ask(QUESTIONS[0], "local"))
    assert report["plan"] == "local"
    assert (report["handover"][0]["from"], report["handover"][0]["to"]) == ("plan prefill", "plan local")
    assert "chosen instead" in report["why"]


def test_killed_parts_change_no_word(pair: tuple[Daemon, Program], mosquitto: Mosquitto) -> None:
    kill_runs(*pair, mosquitto, num_runs=6, seed=1)


@pytest.mark.long
def test_fifty_killed_parts_change_no_word(pair: tuple[Daemon, Program], mosquitto: Mosquitto) -> None:
    kill_runs(*pair, mosquitto, num_runs=50, seed=2)


def kill_runs(daemon: Daemon, peer: Program, broker: Mosquitto, *, num_runs: int, seed: int) -> None:
    """Peer, broker or engine worker is killed at a random moment of an answer; the words stay the same."""
    import threading

    draw = random.Random(seed)
    expected = {(q, t): words(daemon.ask(q, "local", t)) for q in QUESTIONS for t in (0.0, 0.8)}
    for run in range(num_runs):
        part = ("peer", "broker", "engine")[run % 3]
        question, temperature = draw.choice(list(expected))
        plan = draw.choice(("prefill", "remote")) if part != "engine" else draw.choice(("prefill", "local"))
        wait_for_peer(daemon)

        def strike(part: str = part) -> None:
            if part == "peer":
                peer.kill()
            elif part == "broker":
                broker.kill()
            else:
                for worker in daemon.program.workers():
                    worker.send_signal(signal.SIGKILL)

        timer = threading.Timer(draw.uniform(0.0, 1.2), strike)
        timer.start()
        try:
            answer = daemon.ask(question, plan, temperature)
        finally:
            timer.join()
        assert words(answer) == expected[question, temperature], (run, part, plan, answer["edgeagent"])
        broker.start()
        if peer.process is None or peer.process.poll() is not None:
            peer.start()


def wait_for_peer(daemon: Daemon) -> None:
    """Until the daemon sees the peer and its breaker is closed again."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            answer = daemon.ask("Say yes.", "remote")
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.3)
            continue
        if answer["edgeagent"]["handover"] == []:
            return
    raise AssertionError("the peer did not come back")
