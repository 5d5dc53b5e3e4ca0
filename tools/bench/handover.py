"""Answers while parts are killed: do they complete, are they the same words, and what does a loss cost?

Daemon and peer are processes on a real broker on one machine; the daemon reaches it over a link that can be frozen.
First every plan's words are compared over 20 prompts, greedy and seeded. Then, in the middle of an answer,

- the peer, the broker or the engine worker gets SIGKILL at a random moment;
- the link is frozen at a random moment, until the answer is there;
- the peer gets SIGKILL as soon as so many tokens have been seen, for every number from 0 to 64;
- the peer gets SIGKILL at a random moment before the first token, while a long prompt is read.

Each answer is given undisturbed just before, for its words and its time.
"""

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import bad_link
import harness

TOPICS = (
    "the sea", "a small garden", "bread", "the moon", "old bridges", "winter", "a violin", "bees", "maps", "tea",
    "the harbour", "clouds", "a lighthouse", "trains", "paper", "the desert", "apples", "a clock", "salt", "glass",
)  # fmt: skip
FILLER = "Notes: the house is old, the cellar is dry, the roof was mended last year, and the garden is large. "
STORY = "Tell me a long story, with many details, about"
MAX_TOKENS, STORY_TOKENS = 48, 72
LAST_TOKEN = 64
SEED = 20
QUICK_PROMPTS = 2
PARTS = ("peer", "broker", "engine")
PLANS = ("prefill", "remote", "split-prefill", "split-decode")


@dataclass(frozen=True, slots=True)
class Sample:
    """How many runs of each kind; `tokens` are the numbers of tokens seen at which the peer is killed."""

    kills: int
    freezes: int
    tokens: Sequence[int]
    reading: int


WHOLE = Sample(60, 20, range(LAST_TOKEN + 1), 40)
QUICK = Sample(3, 2, (0, 40), 1)


@dataclass(frozen=True, slots=True)
class Blow:
    """What happens to which part in which answer, at a part of its undisturbed time or after so many tokens."""

    kind: str
    part: str
    plan: str
    question: str
    temperature: float
    moment: float = 0.0
    token: int | None = None
    max_tokens: int = MAX_TOKENS


def prompts() -> list[str]:
    """Twenty questions, behind none to 45 sentences of notes: about 40 to 1,100 tokens."""
    return [FILLER * (5 * (i % 10)) + f"\nWrite two sentences about {topic}." for i, topic in enumerate(TOPICS)]


def blows(sample: Sample) -> Iterator[Blow]:
    """All runs, in a seeded random way."""
    draw = random.Random(SEED)
    questions = prompts()
    for run in range(sample.kills):
        part = PARTS[run % len(PARTS)]
        plan = draw.choice(("local", "prefill") if part == "engine" else PLANS)
        temperature = draw.choice((0.0, 0.8))
        yield Blow("killed", part, plan, questions[run % len(questions)], temperature, draw.random())
    for run in range(sample.freezes):
        temperature = draw.choice((0.0, 0.8))
        yield Blow(
            "frozen", "link", PLANS[run % len(PLANS)], questions[-1 - run % len(questions)], temperature, draw.random()
        )
    for plan in PLANS:
        for token in sample.tokens:
            story = f"{STORY} {TOPICS[token % len(TOPICS)]}."
            temperature = draw.choice((0.0, 0.8))
            yield Blow("at_token", "peer", plan, story, temperature, token=token, max_tokens=STORY_TOKENS)
        for _ in range(sample.reading):
            question = f"{FILLER * draw.randint(15, 45)}\nWrite two sentences about {draw.choice(TOPICS)}."
            yield Blow("reading", "peer", plan, question, draw.choice((0.0, 0.8)), draw.random())


@dataclass(frozen=True, slots=True)
class Parts:
    """All that runs."""

    client: harness.Client
    daemon: harness.Program
    peer: harness.Program
    broker: harness.Program
    link: bad_link.BadLink

    def strike(self, part: str) -> None:
        match part:
            case "engine":
                for worker in self.daemon.workers():
                    worker.send_signal(signal.SIGKILL)
            case "link":
                self.link.freeze()
            case _:
                (self.peer if part == "peer" else self.broker).kill()

    def mend(self) -> None:
        self.link.thaw()
        self.broker.start()
        self.peer.start()


def compare(client: harness.Client, questions: list[str]) -> tuple[int, int]:
    """Answers compared, and those that differ from `local`."""
    compared = mismatches = 0
    for question in questions:
        for temperature in (0.0, 0.8):
            local = harness.words(client.ask(question, "local", temperature=temperature))
            for plan in PLANS:
                compared += 1
                mismatches += harness.words(client.ask(question, plan, temperature=temperature)) != local
        harness.progress(f"compared {compared} answers, {mismatches} differ")
    return compared, mismatches


@dataclass(slots=True)
class Results:
    runs: int = 0
    incomplete: int = 0
    mismatches: int = 0
    struck_in_time: int = 0
    """Before the answer was whole."""
    added_s: dict[str, list[float]] = field(default_factory=dict)
    by_part: dict[str, int] = field(default_factory=dict)


class Striking:
    """Runs of one answer each in which one blow falls."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.results = Results()

    def run(self, blow: Blow) -> None:
        parts, results = self._parts, self.results
        harness.wait_for_peer(parts.client)
        undisturbed = self._answered(blow)
        harness.wait_for_peer(parts.client)
        results.runs += 1
        results.by_part[blow.part] = results.by_part.get(blow.part, 0) + 1
        try:
            disturbed = self._answered(blow, undisturbed)
        except (OSError, RuntimeError) as error:
            results.incomplete += 1
            harness.progress(f"incomplete: {blow.part} {blow.plan}: {error}")
        else:
            results.mismatches += disturbed.text != undisturbed.text
            results.added_s.setdefault(blow.kind, []).append(disturbed.took_s - undisturbed.took_s)
        parts.mend()

    def _answered(self, blow: Blow, undisturbed: "Answered | None" = None) -> "Answered":
        """Struck when it is known how long it takes undisturbed."""
        # Another question in between empties the cache of an engine with one sequence: this one is evaluated whole.
        self._parts.client.ask("Say no.", "local", max_tokens=2)
        struck_at: list[float] = []

        def strike() -> None:
            if not struck_at:
                struck_at.append(time.monotonic())
                self._parts.strike(blow.part)

        def seen(num_pieces: int) -> None:
            if undisturbed and num_pieces == blow.token:
                strike()

        timer = threading.Timer(_delay_s(blow, undisturbed), strike) if undisturbed and not blow.token else None
        with _running(timer):
            started = time.monotonic()
            answer = harness.stream(f"http://127.0.0.1:{self._parts.client.port}", _body(blow), seen)
            ended = time.monotonic()
            self.results.struck_in_time += bool(struck_at and struck_at[0] < ended)
        return Answered(answer.text, ended - started, answer.ttft_s)


@dataclass(frozen=True, slots=True)
class Answered:
    text: str
    took_s: float
    ttft_s: float


@contextlib.contextmanager
def _running(timer: threading.Timer | None) -> Iterator[None]:
    """The blow falls, at the latest after the answer."""
    if timer:
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.join()


def _delay_s(blow: Blow, undisturbed: Answered) -> float:
    if blow.token == 0:
        return 0.0
    within_s = undisturbed.ttft_s if blow.kind == "reading" else undisturbed.took_s
    return 0.01 + blow.moment * within_s


def _body(blow: Blow) -> harness.Json:
    return {
        "messages": [{"role": "user", "content": blow.question}],
        "max_tokens": blow.max_tokens,
        "temperature": blow.temperature,
        "seed": 7,
        "edgeagent": {"plan": blow.plan, "memory": False, "reduce": "L0"},
    }


@contextlib.contextmanager
def standing() -> Iterator[Parts]:
    """Broker, link, peer and daemon."""
    env = harness.state_env() | harness.COLD | {"EDGEAGENT__ENGINE__THREADS": "1"}
    port = harness.free_port()
    with harness.broker() as (broker, url), bad_link.bad_link(int(url.rpartition(":")[2])) as link:
        there = env | {"EDGEAGENT__MQTT__URL": url, "EDGEAGENT__MQTT__DEVICE_ID": "bench-peer"}
        here = env | {"EDGEAGENT__MQTT__URL": link.url, "EDGEAGENT__MQTT__DEVICE_ID": "bench-edge"}
        here["EDGEAGENT__HTTP__PORT"] = str(port)
        peer = harness.edgeagent(["peer"], there, "peer ready")
        daemon = harness.edgeagent(["serve"], here, "daemon ready")
        with harness.running(peer), harness.running(daemon):
            client = harness.Client(port)
            harness.wait_for_peer(client)
            yield Parts(client, daemon, peer, broker, link)


def main() -> None:
    options = harness.options(__doc__)
    started = time.monotonic()
    questions = prompts()
    asked = questions[:: len(questions) // QUICK_PROMPTS] if options.quick else questions
    with standing() as parts:
        compared, different = compare(parts.client, asked)
        striking = Striking(parts)
        results = striking.results
        for blow in blows(QUICK if options.quick else WHOLE):
            striking.run(blow)
            harness.progress(
                f"{results.runs} blows ({blow.part} {blow.plan} {blow.kind} {blow.token}): "
                f"{results.incomplete} incomplete, {results.mismatches} differ"
            )
    added_s = [seconds for kind in results.added_s.values() for seconds in kind]
    figures = {
        "runs": results.runs,
        "incomplete": results.incomplete,
        "mismatches": results.mismatches + different,
        "added_wait_p95_s": round(harness.percentile(added_s, 0.95), 3),
        "identity_answers": compared,
        "identity_mismatches": different,
    }
    conditions = {
        "prompts": len(asked),
        "seed": SEED,
        "struck": results.by_part,
        "struck_before_the_answer_ended": results.struck_in_time,
        "added_wait_s": harness.spread(added_s),
        "added_wait_s_by_kind": {kind: harness.spread(values) for kind, values in results.added_s.items()},
        "threads": 1,
        "caches": "one sequence, nothing kept: every prompt is evaluated whole at both ends",
        "placement": "daemon, peer and broker on one machine, a proxy between daemon and broker",
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("handover", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
