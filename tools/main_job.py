"""The main job, once, on this machine: what `make run` does, through the same commands that a person would type.

profile → select → remember → reduce → answer → hand a heavy prefill to a peer over MQTT → say what happened and why.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
NOTES, MORE_NOTES = DATA / "house-notes.md", DATA / "house-notes-more.md"
SLOW_EDGE = Path(__file__).parent / "slow_edge.py"
QUESTION = "What is the serial number of the boiler?"
FACTS = (
    "My sister Ada lives in Lisbon.",
    "Maria from Nordwind Heating knows the boiler best.",
    "I prefer tea to coffee in the evening.",
)
CHAT_MODEL, ENCODER = "smollm2-135m-instruct", "minilm-l6-v2-int8"
MADE_VARIANTS = ("Q8_0", "Q4_0")
MAX_TOKENS = "48"
LATENCY_TARGET_S = "3"
EDGE_SHARE = 0.5
"""The edge's engine runs half of the time in the hand-over, so that a peer on the same machine is faster."""
START_S = 60.0

Json = dict[str, Any]


class JobError(Exception):
    """A step failed; the message says which and how."""


def edgeagent(*arguments: str, env: dict[str, str] | None = None, share: float | None = None) -> str:
    """Run one command; its stdout. `share` holds its engine to that part of the CPU. Raises JobError."""
    command = [sys.executable, "-m", "edgeagent", *arguments]
    if share is not None:
        command = [sys.executable, str(SLOW_EDGE), "--share", str(share), "--", *command]
    done = subprocess.run(
        command, env=os.environ | (env or {}), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise JobError(f"edgeagent {' '.join(arguments)}: {done.stderr.strip() or 'no message'}")
    return done.stdout


def facts(*arguments: str, env: dict[str, str] | None = None, share: float | None = None) -> Json:
    document: Json = json.loads(edgeagent(*arguments, "--json", env=env, share=share))
    return document


def say(step: str, text: str) -> None:
    print(f"{step:>9}  {text}", flush=True)


def fetch_models() -> None:
    for model in (CHAT_MODEL, ENCODER):
        facts("models", "pull", model)


def profile() -> Json:
    found = facts("profile", "--budget-s", "0")
    if found["kernels"] is None:
        say("measure", "what this machine can do, once, for about a minute …")
        found = facts("profile", "--budget-s", "45")
    cpu, memory = found["cpu"], found["memory"]
    say("profile", f"{found['board'] or 'unknown board'}: {cpu['model']}, {cpu['cores']} cores, {cpu['arch']}")
    bandwidth = memory["bandwidth_bytes_s"]
    speed = f", read at {bandwidth / 1e9:.0f} GB/s" if bandwidth else ""
    say("", f"{memory['available_bytes'] / 2**30:.1f} of {memory['total_bytes'] / 2**30:.1f} GiB memory free{speed}")
    for engine in found["engines"]:
        probe, capabilities = engine["probe"], engine["capabilities"]
        works = ", ".join(c["name"] for c in capabilities if c["verdict"] == "ok")
        tried = f"tried in child processes: {probe['verdict']} ({works or probe['reason']})"
        say("", f"{engine['name']} {engine['version']} {tried}")
    if kernels := found["kernels"]:
        say(
            "", f"{len({r['type'] for r in kernels['rates']})} types of weights timed: any model's speed is predictable"
        )
    for key, rates in found["rates"].items():
        told = f"{rates['prefill_tok_s']:.0f} tok/s prefill, {rates['decode_tok_s']:.0f} tok/s decode"
        say("", f"{key} measured: {told}, {rates['threads']} threads")
    return found


def select() -> str:
    for kind in MADE_VARIANTS:
        facts("models", "quantize", CHAT_MODEL, kind)
    model = next(m for m in facts("models", "list")["models"] if m["id"] == CHAT_MODEL)
    here = ", ".join(f"{v['name']} {v['bytes'] / 1e6:.0f} MB" for v in model["variants"] if v["on_disk"])
    say("select", f"on disk: {here}")
    say("", str(model["why"]))
    return next(str(v["name"]) for v in model["variants"] if v["chosen"])


def remember() -> None:
    for fact in FACTS:
        facts("memory", "add", fact)
    say("remember", f"{len(FACTS)} facts in SQLite vectors, {facts('memory', 'stats')['memories']} memories in all")


def told(answer: Json) -> str:
    return " ".join(str(answer["text"]).split()) or "(no words)"


def answer_reduced(question: str) -> Json:
    answer = facts(
        "ask", question, "--file", str(NOTES), "--file", str(MORE_NOTES), "--max-tokens", MAX_TOKENS,
        env={"EDGEAGENT__MODELS__LATENCY_TARGET_S": LATENCY_TARGET_S},
    )  # fmt: skip
    report = answer["edgeagent"]
    say("ask", f"{question}   (with two files of notes; target for the first token: {LATENCY_TARGET_S} s)")
    say("", f"plan and reduction chosen: {report['why']}")
    for item in report["memory"]["recalled"]:
        say("recall", f"{item['id']} (score {item['score']:.2f})")
    reduction = report["reduction"]
    say("reduce", f"{reduction['level']}: {reduction['tokens_kept']} of {reduction['tokens_in']} prompt tokens kept")
    for dropped in reduction["dropped"]:
        say("", f"dropped {dropped['tokens']} tokens of {dropped['source']}: {dropped['reason']}")
    say("answer", told(answer))
    return answer


def hand_over(question: str, *, is_embedded: bool) -> tuple[Json, Json]:
    """The whole document through plan `prefill` with a peer, and the same through plan `local`."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    with running_broker(is_embedded=is_embedded) as url, fleet_of_two() as (of_peer, of_edge):
        env = {"EDGEAGENT__MQTT__URL": url, "EDGEAGENT__ENGINE__THREADS": threads}
        env |= {"EDGEAGENT__ENGINE__KEPT_MEMORY_BYTES": "0"}  # nothing from the run before: both read the whole prompt
        with running_peer(env | of_peer):
            env |= of_edge
            say("peer", f"a second process on this machine, {threads} thread(s) each; the edge's engine is held to")
            say("", f"{EDGE_SHARE:.0%} of its time, to stand for a smaller board than its peer")
            arguments = ("ask", question, "--file", str(NOTES), "--reduce", "L0", "--max-tokens", MAX_TOKENS)
            shared = facts(*arguments, "--plan", "prefill", env=env, share=EDGE_SHARE)
            alone = facts(*arguments, "--plan", "local", env=env, share=EDGE_SHARE)
    report = shared["edgeagent"]
    say("hand over", str(report["why"]))
    for note in report["notes"]:
        say("", f"note: {note}")
    return shared, alone


@contextlib.contextmanager
def fleet_of_two() -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Variables of a peer and of an edge in a fleet that lasts as long as the block; the state folder knows nothing."""
    with tempfile.TemporaryDirectory() as folder:
        operator = {"EDGEAGENT_STATE": folder}
        facts("fleet", "init", env=operator)
        members = []
        for name, role in (("garage", "peer"), ("kitchen", "device")):
            bundle = f"{folder}/{name}.json"
            facts("fleet", "enroll", name, "--role", role, "--days", "1", "--out", bundle, env=operator)
            env = {"EDGEAGENT__MQTT__IDENTITY": f"{folder}/{name}", "EDGEAGENT__MQTT__DEVICE_ID": name}
            facts("fleet", "join", bundle, env=operator | env)
            members.append(env)
        say("fleet", "garage (peer) and kitchen (this edge), for this run: what they send is sealed end to end")
        yield members[0], members[1]


@contextlib.contextmanager
def running_broker(*, is_embedded: bool) -> Iterator[str]:
    """A broker on a free port of 127.0.0.1: Mosquitto if it is installed, else the embedded one."""
    port = free_port()
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    program = None if is_embedded else shutil.which("mosquitto", path=search)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "broker.toml"  # the embedded broker goes by the ending
        if program:
            config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
            say("broker", f"Mosquitto on 127.0.0.1:{port}")
            command = [program, "-c", str(config)]
        else:
            config.write_text(EMBEDDED_BROKER.format(port=port))
            say("broker", f"the embedded one on 127.0.0.1:{port}")
            command = [sys.executable, "-m", "iotcore", "--log-level", "CRITICAL", "--config", str(config)]
        with running(command):
            wait_for(lambda: accepts(port), "the broker")
            yield f"mqtt://127.0.0.1:{port}"


# The embedded broker (rumqttd) listens for MQTT 5 only when it is told so in its own file.
EMBEDDED_BROKER = """\
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5-1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 131072
max_inflight_count = 100
dynamic_filters = true
"""


@contextlib.contextmanager
def running_peer(env: dict[str, str]) -> Iterator[None]:
    """A peer process, known to be on the broker."""
    with running([sys.executable, "-m", "edgeagent", "peer"], os.environ | env) as process:
        wait_for(lambda: "peer ready" in process.said(), "the peer", process)
        yield


@dataclass(frozen=True, slots=True)
class Process:
    child: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str] | None = None) -> Iterator[Process]:
    """A process that ends when the block does."""
    with tempfile.NamedTemporaryFile(prefix="edgeagent-", suffix=".log") as log:
        child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield Process(child, Path(log.name))
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def wait_for(is_there: Any, what: str, process: Process | None = None) -> None:
    deadline = time.monotonic() + START_S
    while not is_there():
        if time.monotonic() > deadline or (process and process.child.poll() is not None):
            raise JobError(f"{what} did not start" + (f": {process.said().strip()[-400:]}" if process else ""))
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def conclude(machine: Json, variant: str, reduced: Json, shared: Json, alone: Json) -> None:
    report, local = shared["edgeagent"], alone["edgeagent"]
    reduction, memories = reduced["edgeagent"]["reduction"], reduced["edgeagent"]["memory"]["recalled"]
    traffic, prompt = report["measured"], report["reduction"]["tokens_in"]
    print()
    say("profile", f"{machine['cpu']['model']}, {machine['cpu']['cores']} cores, {machine['fingerprint'][:12]}")
    say("variant", f"{CHAT_MODEL} {variant}")
    say("reduction", f"{reduction['level']}: {reduction['tokens_in']} → {reduction['tokens_kept']} tokens")
    say("recalled", ", ".join(item["id"] for item in memories) or "nothing that fits the question")
    say("plan", f"{report['plan']} with peer {report['peer']}, requested: {prompt} prompt tokens, "
        f"the cache of {report['kv_tokens']} came back, {report['peer_tokens']} answer tokens drawn there, "
        f"{traffic['up_bytes']:,} bytes up, {traffic['down_bytes']:,} bytes down")  # fmt: skip
    say("TTFT", f"{local['measured']['ttft_s']:.2f} s local, {traffic['ttft_s']:.2f} s with the peer "
        f"(predicted {local['predicted']['ttft_s']:.2f} s and {report['predicted']['ttft_s']:.2f} s)")  # fmt: skip
    same = "token for token the local answer" if shared["text"] == alone["text"] else "NOT the local answer"
    say("answer", f"{told(shared)}   ({same})")
    if shared["text"] != alone["text"]:
        raise JobError("the answer with the peer differs from the local one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default=QUESTION, help="the question to answer from the notes")
    parser.add_argument("--embedded-broker", action="store_true", help="even if Mosquitto is installed")
    arguments = parser.parse_args()
    question = arguments.prompt
    started = time.monotonic()
    fetch_models()
    machine = profile()
    variant = select()
    remember()
    reduced = answer_reduced(question)
    shared, alone = hand_over(question, is_embedded=arguments.embedded_broker)
    conclude(machine, variant, reduced, shared, alone)
    say("done", f"in {time.monotonic() - started:.0f} s; next: make serve, then http://127.0.0.1:8477")


if __name__ == "__main__":
    try:
        main()
    except JobError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
