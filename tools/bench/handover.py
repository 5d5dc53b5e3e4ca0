"""Answers while parts are killed: do they complete, are they the same words, and what does a loss cost?

Daemon and peer are processes on a real broker on one machine; the daemon reaches it over a link that can be frozen. In
the middle of an answer,

- the peer, the broker or the engine worker gets SIGKILL at a random moment;
- the link is frozen at a random moment, until the answer is there;
- the peer gets SIGKILL as soon as so many tokens have been seen, for every number from 0 to 64;
- the peer gets SIGKILL at a random moment before the first token, while a long prompt is read.

Answers with the same words are struck one after the other, and given undisturbed just before: for the words and for the
time. A peer that was started again makes the layers of split plans before its next answer is timed. A loss may cost the
lease, and what `local` needs: it gives the same answer right behind each struck one, as machines change speed. A run
that was broken off goes on behind its last blow when the program is still the same.

At the end every plan's words are compared over 20 prompts, greedy and seeded.
"""

import contextlib
import hashlib
import itertools
import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import bad_link
import harness

from edgeagent.settings import load_settings
from edgeagent.wire.messages import LEASE_S

TOPICS = (
    "the sea", "a small garden", "bread", "the moon", "old bridges", "winter", "a violin", "bees", "maps", "tea",
    "the harbour", "clouds", "a lighthouse", "trains", "paper", "the desert", "apples", "a clock", "salt", "glass",
)  # fmt: skip
VARIANT = f"{harness.CHAT_MODEL}/Q4_1"
FILLER = "Notes: the house is old, the cellar is dry, the roof was mended last year, and the garden is large. "
STORY = "Tell me a long story, with many details, about"
MAX_TOKENS, STORY_TOKENS = 48, 72
LAST_TOKEN = 64
STRUCK_SENTENCES, COMPARED_SENTENCES = 2, 5
SAME_STORY, SAME_READING = 5, 4
"""So many blows fall on one answer."""
SEED = 20
QUICK_PROMPTS = 2
PARTS = ("peer", "broker", "engine")
SPLITS = ("split-prefill", "split-decode")
PLANS = ("prefill", "remote", *SPLITS)


@dataclass(frozen=True, slots=True)
class Sample:
    """How many runs of each kind; `tokens` are the numbers of tokens seen at which the peer is killed."""

    kills: int
    freezes: int
    tokens: Sequence[int]
    reading: int


WHOLE = Sample(60, 20, range(LAST_TOKEN + 1), 40)
QUICK = Sample(3, 1, (24,), 1)


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


def prompts(sentences: int) -> list[str]:
    """Twenty questions, behind none to nine times so many sentences of notes, each some 25 tokens."""
    return [FILLER * (sentences * (i % 10)) + f"\nWrite two sentences about {topic}." for i, topic in enumerate(TOPICS)]


def blows(sample: Sample) -> Iterator[Blow]:
    """All runs, in a seeded random way. Those on the same answer stand together."""
    draw = random.Random(SEED)
    questions = prompts(STRUCK_SENTENCES)
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
        for run, token in enumerate(sample.tokens):
            story, temperature = f"{STORY} {TOPICS[run // SAME_STORY]}.", 0.8 * (run // SAME_STORY % 2)
            yield Blow("at_token", "peer", plan, story, temperature, token=token, max_tokens=STORY_TOKENS)
    for plan in PLANS:
        for run in range(sample.reading):
            number = run // SAME_READING
            question = f"{FILLER * (6 + number)}\nWrite two sentences about {TOPICS[number]}."
            yield Blow("reading", "peer", plan, question, 0.8 * (number % 2), draw.random())


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a blow did. Without `disturbed_s` the answer did not complete."""

    was_in_time: bool
    """Before the answer was whole."""
    undisturbed_s: float
    local_s: float
    disturbed_s: float | None = None
    is_same: bool = False
    struck_s: float | None = None
    """From the question to the blow."""
    first_s: float | None = None
    pause_s: float | None = None
    """To the first word of the disturbed answer, and the longest wait between two of its words."""
    reasons: tuple[str, ...] = ()
    """Of its handovers."""

    @property
    def added_s(self) -> float:
        return (self.disturbed_s or 0.0) - self.undisturbed_s

    @property
    def over_s(self) -> float:
        """Longer than the undisturbed answer, the lease and the whole answer of `local` together."""
        return self.added_s - LEASE_S - self.local_s


class Striking:
    """Runs of one answer each in which one blow falls."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._last: tuple[str, str, float, int] | None = None
        self._undisturbed: Answered | None = None

    def run(self, blow: Blow) -> Outcome:
        undisturbed = self._once(blow)
        self._prepare(blow.plan)
        disturbed = None
        try:
            disturbed = self._answered(blow, undisturbed)
        except (OSError, RuntimeError) as error:
            harness.progress(f"incomplete: {blow.part} {blow.plan}: {error}")
        finally:
            self._parts.mend()
        self._prepare("local")
        local = self._answered(replace(blow, plan="local"))
        if disturbed is None:
            return Outcome(was_in_time=True, undisturbed_s=undisturbed.took_s, local_s=local.took_s)
        return Outcome(
            was_in_time=disturbed.struck_s is not None and disturbed.struck_s < disturbed.took_s,
            undisturbed_s=undisturbed.took_s,
            local_s=local.took_s,
            disturbed_s=disturbed.took_s,
            is_same=disturbed.text == undisturbed.text == local.text,
            struck_s=disturbed.struck_s,
            first_s=disturbed.first_s,
            pause_s=disturbed.pause_s,
            reasons=disturbed.reasons,
        )

    def _once(self, blow: Blow) -> "Answered":
        """The answer undisturbed, anew for each run of blows on it."""
        answer = (blow.plan, blow.question, blow.temperature, blow.max_tokens)
        if self._undisturbed is None or self._last != answer:
            self._prepare(blow.plan)
            self._undisturbed, self._last = self._answered(blow), answer
        return self._undisturbed

    def _prepare(self, plan: str) -> None:
        """Everything is there, and no engine has the next prompt."""
        client = self._parts.client
        harness.wait_for_peer(client)
        if plan in SPLITS:
            harness.make_layers(client, plan)
        # Another question in between empties the cache of an engine with one sequence: the next is evaluated whole.
        client.ask("Say no.", "local", max_tokens=2)

    def _answered(self, blow: Blow, undisturbed: "Answered | None" = None) -> "Answered":
        """Struck when it is known how long it takes undisturbed."""
        struck_at: list[float] = []
        seen_at: list[float] = []

        def strike() -> None:
            if not struck_at:
                struck_at.append(time.monotonic())
                self._parts.strike(blow.part)

        def seen(num_pieces: int) -> None:
            seen_at.append(time.monotonic())
            if undisturbed and num_pieces == blow.token:
                strike()

        timer = threading.Timer(_delay_s(blow, undisturbed), strike) if undisturbed and not blow.token else None
        with _running(timer):
            started = time.monotonic()
            answer = harness.stream(f"http://127.0.0.1:{self._parts.client.port}", _body(blow), seen)
            ended = time.monotonic()
        return Answered(
            text=answer.text,
            took_s=ended - started,
            first_s=answer.ttft_s,
            pause_s=max((after - before for before, after in itertools.pairwise(seen_at)), default=0.0),
            struck_s=struck_at[0] - started if struck_at else None,
            reasons=tuple(handover["reason"] for handover in answer.report["handover"]),
        )


@dataclass(frozen=True, slots=True)
class Answered:
    text: str
    took_s: float
    first_s: float
    pause_s: float
    struck_s: float | None
    reasons: tuple[str, ...]


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
    within_s = undisturbed.first_s if blow.kind == "reading" else undisturbed.took_s
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
    env = harness.state_env() | harness.UNGOVERNED | harness.COLD | {"EDGEAGENT__ENGINE__THREADS": "1"}
    # By name: rates that are measured again meanwhile would have a peer that starts again choose another variant.
    env |= {"EDGEAGENT__MODELS__DEFAULT": VARIANT, "EDGEAGENT__PEER__MODELS": json.dumps([VARIANT])}
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


class Kept:
    """Outcomes by blow in a file of the state folder, of this program and machine only."""

    def __init__(self) -> None:
        program = hashlib.sha256(harness.cpu_model().encode())
        for file in (Path(__file__), *sorted((harness.ROOT / "edgeagent").rglob("*.py"))):
            program.update(file.read_bytes())
        state = load_settings(environment=harness.state_env()).paths.state
        self._file = state / f"bench-handover-{program.hexdigest()[:12]}.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._found = {key: Outcome(**outcome) for key, outcome in map(json.loads, lines)}

    def find(self, blow: Blow) -> Outcome | None:
        return self._found.get(repr(astuple(blow)))

    def keep(self, blow: Blow, outcome: Outcome) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps([repr(astuple(blow)), asdict(outcome)]) + "\n")


def strike_all(parts: Parts, wanted: Sequence[Blow], kept: Kept) -> list[tuple[Blow, Outcome]]:
    striking, done = Striking(parts), list[tuple[Blow, Outcome]]()
    for blow in wanted:
        outcome = kept.find(blow)
        if outcome is None:
            outcome = striking.run(blow)
            kept.keep(blow, outcome)
            harness.progress(
                f"{len(done) + 1} of {len(wanted)}: {blow.part} {blow.plan} {blow.kind} {blow.token}: {outcome}"
            )
        done.append((blow, outcome))
    return done


def figures_of(done: Sequence[tuple[Blow, Outcome]]) -> tuple[harness.Json, harness.Json]:
    """Figures, and conditions."""
    whole = [(blow, outcome) for blow, outcome in done if outcome.disturbed_s is not None]
    lost = [(blow, outcome) for blow, outcome in whole if blow.part != "engine"]
    added_s = [outcome.added_s for _, outcome in whole]
    over_s = [outcome.over_s for _, outcome in lost]
    figures = {
        "runs": len(done),
        "incomplete": len(done) - len(whole),
        "mismatches": sum(not outcome.is_same for _, outcome in whole),
        "added_wait_p95_s": round(harness.percentile(added_s, 0.95), 3),
        "over_lease_and_local": sum(seconds > 0 for seconds in over_s),
        "over_lease_and_local_max_s": round(max(over_s), 3),
    }
    conditions = {
        "struck": dict(Counter(blow.part for blow, _ in done)),
        "struck_before_the_answer_ended": sum(outcome.was_in_time for _, outcome in done),
        "lease_s": LEASE_S,
        "added_wait_s": harness.spread(added_s),
        "pause_s": harness.spread([outcome.pause_s or 0.0 for _, outcome in whole]),
        "added_wait_s_by_kind": {
            kind: harness.spread([o.added_s for blow, o in whole if blow.kind == kind])
            for kind in dict.fromkeys(blow.kind for blow, _ in whole)
        },
        "longest_over": [
            {"kind": blow.kind, "part": blow.part, "plan": blow.plan, "token": blow.token, "moment": blow.moment}
            | asdict(outcome)
            for blow, outcome in sorted(lost, key=lambda one: -one[1].over_s)[:5]
        ],
    }
    return figures, conditions


def main() -> None:
    options = harness.options(__doc__)
    started = time.monotonic()
    questions = prompts(COMPARED_SENTENCES)
    asked = questions[:: len(questions) // QUICK_PROMPTS] if options.quick else questions
    wanted = list(blows(QUICK if options.quick else WHOLE))
    kept = Kept()
    num_before = sum(kept.find(blow) is not None for blow in wanted)
    with standing() as parts:
        done = strike_all(parts, wanted, kept)
        compared, different = compare(parts.client, asked)
    figures, conditions = figures_of(done)
    figures["mismatches"] += different
    figures |= {"identity_answers": compared, "identity_mismatches": different}
    conditions |= {
        "prompts": len(asked),
        "seed": SEED,
        "of_an_earlier_run": num_before,
        "threads": 1,
        "caches": "one sequence, nothing kept: every prompt is evaluated whole at both ends",
        "placement": "daemon, peer and broker on one machine, a proxy between daemon and broker",
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("handover", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
