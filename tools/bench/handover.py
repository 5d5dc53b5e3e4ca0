"""Answers while parts are killed: do they complete, are they the same words, and what does a loss cost?

Daemon and peer are processes on a real broker on one machine. First every plan's words are compared over 20 prompts,
greedy and seeded. Then, in seeded random order and at seeded random moments, the peer, the broker or the engine
worker gets SIGKILL in the middle of an answer.
"""

import random
import signal
import threading
import time
import urllib.error

import harness

TOPICS = (
    "the sea", "a small garden", "bread", "the moon", "old bridges", "winter", "a violin", "bees", "maps", "tea",
    "the harbour", "clouds", "a lighthouse", "trains", "paper", "the desert", "apples", "a clock", "salt", "glass",
)  # fmt: skip
FILLER = "Notes: the house is old, the cellar is dry, the roof was mended last year, and the garden is large. "
KILL_RUNS, QUICK_KILL_RUNS = 51, 12
QUICK_PROMPTS = 4
SEED = 20


def prompts() -> list[str]:
    """Twenty questions, behind none to 45 sentences of notes: about 40 to 1,100 tokens."""
    return [FILLER * (5 * (i % 10)) + f"\nWrite two sentences about {topic}." for i, topic in enumerate(TOPICS)]


def compare(client: harness.Client, questions: list[str]) -> tuple[int, int]:
    """Answers compared, and those that differ from `local`."""
    compared = mismatches = 0
    for question in questions:
        for temperature in (0.0, 0.8):
            local = harness.words(client.ask(question, "local", temperature=temperature))
            for plan in ("prefill", "remote"):
                compared += 1
                mismatches += harness.words(client.ask(question, plan, temperature=temperature)) != local
        harness.progress(f"compared {compared} answers, {mismatches} differ")
    return compared, mismatches


class Killing:
    """Runs of one answer each in which one part dies."""

    def __init__(self, client: harness.Client, daemon: harness.Program, peer: harness.Program, broker: harness.Program):
        self._client, self._daemon, self._peer, self._broker = client, daemon, peer, broker
        self._draw = random.Random(SEED)
        self.incomplete = self.mismatches = self.struck = 0
        self.added_s: list[float] = []
        self.by_part: dict[str, int] = {}

    def run(self, part: str, question: str) -> None:
        temperature = self._draw.choice((0.0, 0.8))
        plan = self._draw.choice(("local", "prefill") if part == "engine" else ("remote", "prefill"))
        harness.wait_for_peer(self._client)
        undisturbed_s, expected = self._timed(question, plan, temperature)
        harness.wait_for_peer(self._client)
        timer = threading.Timer(self._draw.uniform(0.02, max(0.05, undisturbed_s)), self._strike, (part,))
        timer.start()
        try:
            disturbed_s, got = self._timed(question, plan, temperature)
            self.mismatches += got != expected
            self.added_s.append(disturbed_s - undisturbed_s)
        except (urllib.error.URLError, OSError) as error:
            self.incomplete += 1
            harness.progress(f"incomplete: {part} {plan}: {error}")
        timer.join()
        self.by_part[part] = self.by_part.get(part, 0) + 1
        self._broker.start()
        self._peer.start()

    def _timed(self, question: str, plan: str, temperature: float) -> tuple[float, str]:
        # An engine holds one sequence: another question in between empties its cache, so this one is evaluated whole.
        self._client.ask("Say no.", "local", max_tokens=2)
        started = time.monotonic()
        answer = self._client.ask(question, plan, temperature=temperature)
        return time.monotonic() - started, harness.words(answer)

    def _strike(self, part: str) -> None:
        self.struck += 1
        if part == "engine":
            for worker in self._daemon.workers():
                worker.send_signal(signal.SIGKILL)
        else:
            (self._peer if part == "peer" else self._broker).kill()


def main() -> None:
    options = harness.options(__doc__)
    env = harness.state_env() | {"EDGEAGENT__ENGINE__THREADS": "1"}
    port = harness.free_port()
    started = time.monotonic()
    with harness.broker() as (broker, url):
        env["EDGEAGENT__MQTT__URL"] = url
        peer = harness.edgeagent(["peer"], env | {"EDGEAGENT__MQTT__DEVICE_ID": "bench-peer"}, "peer ready")
        device = env | {"EDGEAGENT__MQTT__DEVICE_ID": "bench-edge", "EDGEAGENT__HTTP__PORT": str(port)}
        daemon = harness.edgeagent(["serve"], device, "daemon ready")
        with harness.running(peer), harness.running(daemon):
            client = harness.Client(port)
            harness.wait_for_peer(client)
            questions = prompts()
            asked = questions[:: len(questions) // QUICK_PROMPTS] if options.quick else questions
            compared, different = compare(client, asked)
            killing = Killing(client, daemon, peer, broker)
            num_runs = QUICK_KILL_RUNS if options.quick else KILL_RUNS
            for run in range(num_runs):
                killing.run(("peer", "broker", "engine")[run % 3], questions[run % len(questions)])
                harness.progress(f"{run + 1} kills: {killing.incomplete} incomplete, {killing.mismatches} differ")
    figures = {
        "runs": num_runs,
        "incomplete": killing.incomplete,
        "mismatches": killing.mismatches + different,
        "added_wait_p95_s": round(harness.percentile(killing.added_s, 0.95), 3),
        "identity_answers": compared,
        "identity_mismatches": different,
    }
    conditions = {
        "prompts": len(asked),
        "seed": SEED,
        "killed": killing.by_part,
        "struck_during_or_after_the_answer": killing.struck,
        "added_wait_s": harness.spread(killing.added_s),
        "threads": 1,
        "placement": "daemon, peer and broker on one machine",
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("handover", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
