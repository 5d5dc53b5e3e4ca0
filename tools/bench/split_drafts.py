"""What do guesses gain where every token takes a round trip? A device with a head alone, a peer with the rest.

Two devices hold the head of one model and nothing else of it, one guesses and one does not; the link between them and
the broker has 20 ms there and back (`tools/chaos_proxy.py`). They answer the same requests in turn, in pairs, and the
tokens a second behind the first are compared. The first task repeats itself, the others less and less.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bad_link
import harness

from tools.chaos_link import Shape

MODEL, VARIANT, K = "gemma-3-270m", "Q4_K_M", 6
RTT_S, RATE_MBIT_S = 0.02, 100.0
LIMIT_BYTES = 345 * 2**20
"""Admits the head of Gemma 3 270M with 1,024 tokens of context, and not the whole."""
PAIRS, QUICK_PAIRS = 5, 2
MAX_TOKENS, SEED = 128, 11


@dataclass(frozen=True, slots=True)
class Task:
    text: str
    temperature: float


PROSE = "It was late in the autumn when the old lighthouse keeper heard a knock at the door, and"
TASKS = {
    "repetitive": Task("one two three four five six seven eight nine ten\n" * 8, 0.0),
    "prose": Task(PROSE, 0.0),
    "wild prose": Task(PROSE, 1.2),
}
"""Greedy prose of a model this small soon goes in circles; drawn at 1.2, hardly a guess is right."""


QUICK_TASKS = ("repetitive", "wild prose")


@dataclass(frozen=True, slots=True)
class Device:
    """A daemon, and what its answers told."""

    client: harness.Client
    program: harness.Program

    def ask(self, task: str) -> harness.Json:
        body: harness.Json = {
            "model": MODEL,
            "messages": [{"role": "user", "content": TASKS[task].text}],
            "max_tokens": MAX_TOKENS,
            "temperature": TASKS[task].temperature,
            "seed": SEED,
            "edgeagent": {"plan": "split-decode", "memory": False, "reduce": "L0"},
        }
        answer = harness.stream(f"http://127.0.0.1:{self.client.port}", body)
        report = answer.report
        if report["plan"] != "split-decode" or report["handover"]:
            raise RuntimeError(f"not an answer of both ends: {report['plan']}, {report['handover']}")
        if answer.usage["completion_tokens"] < MAX_TOKENS // 4:
            raise RuntimeError(f"{task} ended after {answer.usage['completion_tokens']} tokens")
        return {"text": answer.text, "tok_s": 1 / report["measured"]["tpot_s"], **report}

    def peak_bytes(self) -> int:
        """Of its engine's workers together."""
        files = (Path(f"/proc/{worker.pid}/status").read_text() for worker in self.program.workers())
        lines = (line for text in files for line in text.splitlines() if line.startswith("VmHWM"))
        return sum(int(line.split()[1]) * 1024 for line in lines)


def measure(guessing: Device, plain: Device, tasks: Sequence[str], num_pairs: int) -> harness.Json:
    """By task: the ratios of tokens a second, of a pair each, and what was guessed."""
    found: harness.Json = {}
    for task in tasks:
        ratios, rates, accepted = list[float](), list[float](), list[float]()
        for number in range(num_pairs):
            order = (guessing, plain) if number % 2 else (plain, guessing)
            told = {id(device): device.ask(task) for device in order}
            mine, other = told[id(guessing)], told[id(plain)]
            if mine["text"] != other["text"]:
                raise RuntimeError(f"guesses changed the words of {task}")
            ratios.append(round(mine["tok_s"] / other["tok_s"], 3))
            rates.append(round(other["tok_s"], 2))
            accepted.append(mine["accepted_tokens"])
        found[task] = {
            "median": statistics.median(ratios),
            "ratios": ratios,
            "plain_tok_s": harness.spread(rates),
            "accepted_tokens": harness.spread(accepted),
        }
        harness.progress(f"{task}: {found[task]}")
    return found


@contextlib.contextmanager
def states(env: dict[str, str]) -> Iterator[tuple[Path, Path]]:
    """State folders of a peer with the whole model, and of devices with a head of it; nothing else is touched."""
    source = Path(env["EDGEAGENT_STATE"])
    with tempfile.TemporaryDirectory(prefix="edgeagent-bench-") as name:
        peer, device = Path(name) / "peer", Path(name) / "device"
        whole = peer / "models" / MODEL
        whole.mkdir(parents=True)
        if (source / "models" / MODEL).is_dir():
            shutil.copytree(source / "models" / MODEL, whole, dirs_exist_ok=True)
        _run(env, peer, "models", "pull", MODEL)
        _run(env, peer, "models", "slice", MODEL, "--layers", f"0:{K}")
        part = device / "models" / MODEL
        part.mkdir(parents=True)
        for file in (*whole.glob(f"*-0to{K}.gguf*"), whole / "overlay.json"):
            shutil.copy(file, part)
        if (source / "profile.json").exists():
            for folder in (peer, device):
                shutil.copy(source / "profile.json", folder)
        yield peer, device


def _run(env: dict[str, str], state: Path, *arguments: str) -> None:
    own = env | {"EDGEAGENT_STATE": str(state)}
    subprocess.run([sys.executable, "-m", "edgeagent", *arguments], env=own, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def devices(env: dict[str, str], state: Path, url: str) -> Iterator[list[Device]]:
    """One that guesses, one that does not."""
    with contextlib.ExitStack() as stack:
        made: list[Device] = []
        for name, speculation in (("guessing", "auto"), ("plain", "off")):
            own_state, port = state.parent / name, harness.free_port()
            shutil.copytree(state, own_state)
            own = env | {
                "EDGEAGENT_STATE": str(own_state),
                "EDGEAGENT__MQTT__URL": url,
                "EDGEAGENT__MQTT__DEVICE_ID": f"bench-{name}",
                "EDGEAGENT__HTTP__PORT": str(port),
                "EDGEAGENT__MODELS__DEFAULT": MODEL,
                "EDGEAGENT__MODELS__MEMORY_LIMIT_BYTES": str(LIMIT_BYTES),
                "EDGEAGENT__ENGINE__SPECULATION": speculation,
            }
            program = harness.edgeagent(["serve"], own, "daemon ready")
            stack.enter_context(harness.running(program))
            made.append(Device(harness.Client(port), program))
        yield made


def main() -> None:
    options = harness.options(__doc__)
    started = time.monotonic()
    env = harness.state_env() | harness.UNGOVERNED
    env |= {"EDGEAGENT__ENGINE__THREADS": "1", "EDGEAGENT__ENGINE__IDLE_UNLOAD_S": "0"}
    env |= {"EDGEAGENT__MODELS__CONTEXT_TOKENS": "1024"}
    shape = Shape(RATE_MBIT_S, RATE_MBIT_S, RTT_S)
    with (
        states(env) as (peer_state, device_state),
        harness.broker() as (_, url),
        bad_link.bad_link(int(url.rpartition(":")[2])) as link,
    ):
        there = env | {"EDGEAGENT_STATE": str(peer_state), "EDGEAGENT__MQTT__URL": url}
        there |= {"EDGEAGENT__MQTT__DEVICE_ID": "bench-peer", "EDGEAGENT__PEER__MODELS": f'["{MODEL}"]'}
        with (
            harness.running(harness.edgeagent(["peer"], there, "peer ready")),
            devices(env, device_state, link.url) as (guessing, plain),
        ):
            for device in (guessing, plain):
                device.ask("repetitive")  # heads and tail are tried now
            link.set(shape)
            tasks = QUICK_TASKS if options.quick else tuple(TASKS)
            found = measure(guessing, plain, tasks, QUICK_PAIRS if options.quick else PAIRS)
            peaks = [device.peak_bytes() for device in (guessing, plain)]
    figures = {
        "repetitive_speedup": found["repetitive"]["median"],
        "worst_speedup": min(task["median"] for task in found.values()),
        "head_peak_bytes": max(peaks),
    }
    conditions = {
        "model": f"{MODEL} {VARIANT}, a head of {K} layers, {LIMIT_BYTES >> 20} MiB allowed",
        "link": f"{RATE_MBIT_S:g} Mbit/s, {1000 * RTT_S:g} ms there and back",
        "pairs": QUICK_PAIRS if options.quick else PAIRS,
        "max_tokens": MAX_TOKENS,
        "by_task": found,
        "threads": "1 at each end",
        "cores": len(os.sched_getaffinity(0)),
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("split_drafts", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
