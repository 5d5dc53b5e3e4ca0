"""What do drafts gain, and what do they cost at worst? Decode rate with them against without, over the same tokens.

Every answer is made twice by the engine's own job, with drafts and without, in turns of some tokens; the tokens must be
the same. The drafts' engine keeps what it learns from task to task, as a worker does. The clock is
the process's CPU time on one thread: on an idle machine it is the time that passes. `lookup_speedup` is the median of
the tasks that copy or edit a text, `worst_ratio` the lowest of all.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness

from edgeagent.core.generation import Sampling
from edgeagent.core.invariance import Invariance
from edgeagent.execution.channel import Buffers, Channel, Message
from edgeagent.execution.llama import prompt
from edgeagent.execution.llama.context import Context, ContextSettings, Item
from edgeagent.execution.llama.drafting import Drafting, make_drafting
from edgeagent.execution.llama.generating import generate
from edgeagent.execution.llama.jobs import Granted, Want, tokens_of
from edgeagent.execution.llama.library import engine_version
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.quantize import quantize
from edgeagent.execution.llama.slots import Slot
from edgeagent.execution.scheduler import Kind
from edgeagent.execution.speculation import ROWS
from edgeagent.execution.worker import Request

VERDICT = Invariance(draft_batch=32, free_prefill=True, rewind=True)
"""What the probe finds of the embedded variant with a q8_0 cache and flash attention; the tokens are compared here."""
CONTEXT_TOKENS = 2048
MAX_TOKENS = 256
ROUNDS, QUICK_ROUNDS = 3, 1
TURN_TOKENS = 16
LEAST_TOKENS = 32
"""Shorter answers say nothing of a rate."""

MILL = """
The mill stands where two streams meet below the village of Orrin. It was built in 1741 by a carpenter from the
coast, who had seen such wheels in Holland. For a hundred years it ground barley and oats for eleven farms. When the
railway came, flour from the south was cheaper, and the miller's sons left for the city. The wheel was taken down in
1903. A school teacher bought the house thirty years later, and her family lives there still. On the first Sunday of
June they open the doors, show the old stones, and bake bread in the oven behind the yard.
"""
CLUB = """
Members are asked to return borrowed tools by Friday evening. The saw in the second cupboard is broken and must not
be used until it has been repaired. Keys are kept by Anna Brandt, who lives at 14 Market Street, and by Tom Reyes,
who can be reached after six. New members pay 25 euros a year; students and pensioners pay 12. The annual meeting is
on 9 March at seven in the hall beside the library. Proposals should be sent to the secretary two weeks before the
meeting, and will be printed on the last page of the spring letter.
"""
SENSOR = """
The sensor measures temperature and humidity every ten minutes and sends both values over the local network. If the
network is down, up to 500 measurements are kept in memory and sent later. The battery lasts about two years. To
change it, remove the four screws at the back, lift the cover, and slide the old battery out to the left. Do not
touch the green board. After the cover is closed, press the button for three seconds until the light turns blue. The
sensor then reports its version and the strength of the signal.
"""
TEXTS = [" ".join(text.split()) for text in (MILL, CLUB, SENSOR)]
EDITS = {
    "repeat": "Repeat the following text word for word.\n\n{text}",
    "correct": "Correct the spelling of the following text and write the whole corrected text.\n\n{text}",
    "edit": "Copy the following text, and write its first word in capital letters.\n\n{text}",
}
OTHERS = {
    "summarise": ("Summarise the following text in two sentences.\n\n" + TEXTS[0], Sampling()),
    "chat": ("What should I do on a rainy Sunday?", Sampling()),
    "list": ("Name fifteen animals and where they live, one on each line.", Sampling()),
    "code": ("Write a Python class for a bank account with deposit and withdraw.", Sampling()),
    "story": ("Write a story about a gardener and a thief.", Sampling(temperature=0.8, seed=1)),
    "sampled chat": ("Explain how rain is made.", Sampling(temperature=0.8, seed=2)),
    "sampled copy": (EDITS["repeat"].format(text=TEXTS[1]), Sampling(temperature=0.8, seed=3)),
    "penalties": ("Describe a market in a small town.", Sampling(frequency_penalty=0.8, presence_penalty=0.5)),
}
RANDOM_PROMPT, RANDOM_TOKENS = "random tokens", 200


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    tokens: Sequence[int]
    sampling: Sampling


class Recorder(Channel):
    """Keeps what a worker would send."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message, bulk: Buffers = ()) -> None:
        del bulk
        self.sent.append(message)

    def hold(self, message: Message, bulk: bytes = b"") -> None:
        self.send(message, [bulk])


@dataclass(slots=True)
class Bench:
    """One variant in this process. `ratios` are plain seconds over seconds with drafts, by task."""

    path: Path
    draft_path: str = ""
    ratios: dict[str, list[float]] = field(default_factory=dict)
    drafted: int = 0
    accepted: int = 0
    num_tokens: int = 0
    drafting: Drafting = field(init=False)
    _context: Context = field(init=False)

    def __post_init__(self) -> None:
        settings = ContextSettings(
            CONTEXT_TOKENS,
            "q8_0",
            flash_attention=True,
            threads=1,
            chunk_tokens=64,
            sequences=2,
            is_free=VERDICT.free_prefill,
        )
        self._context = Context(Model(str(self.path), extra_buffers=harness.repacks_weights()), settings)
        load = {"speculation": True, "draft_path": self.draft_path, "extra_buffers": harness.repacks_weights()}
        self.drafting = make_drafting(self._context, VERDICT, load)
        if self.drafting.fault:
            raise RuntimeError(self.drafting.fault)

    def run(self, rounds: int) -> None:
        for number in range(rounds):
            for task in self._tasks(number):
                self._pair(task, is_drafted_first=bool(number % 2))
            harness.progress(f"{self.path.name}: round {number + 1} of {rounds}, {self.num_tokens} tokens")

    def of_kind(self, names: Sequence[str]) -> list[float]:
        return [ratio for name in names for ratio in self.ratios.get(name, [])]

    def most(self) -> float:
        """Tokens a plain step, were every guess right: what this machine's batches allow."""
        return max(rows / self.drafting.costs.ratio(rows) for rows in ROWS)

    def _tasks(self, number: int) -> Iterator[Task]:
        model = self._context.model
        for name, template in EDITS.items():
            yield self._task(name, template.format(text=TEXTS[number % len(TEXTS)]), Sampling())
        for name, (text, sampling) in OTHERS.items():
            yield self._task(name, text, sampling)
        any_tokens = [(i * 7919 + number) % model.num_vocab for i in range(RANDOM_TOKENS)]
        yield Task(RANDOM_PROMPT, any_tokens, Sampling())

    def _task(self, name: str, text: str, sampling: Sampling) -> Task:
        tokens, _ = prompt.encode(self._context.model, [{"role": "user", "content": text}])
        return Task(name, tokens, sampling)

    def _pair(self, task: Task, *, is_drafted_first: bool) -> None:
        """Both answers at once, some tokens of each in turn, so that what disturbs one disturbs the other."""
        plain, drafted = self._run(task, 0, Drafting()), self._run(task, 1, self.drafting)
        runs, goal = [drafted, plain] if is_drafted_first else [plain, drafted], 0
        while not all(run.is_over for run in runs):
            goal += TURN_TOKENS
            for run in runs:
                run.advance(goal)
        if drafted.tokens != plain.tokens:
            raise RuntimeError(f"{self.path.name}, {task.name}: drafts changed the answer")
        if len(plain.tokens) < LEAST_TOKENS:
            return
        self.ratios.setdefault(task.name, []).append(plain.seconds / drafted.seconds)
        self.num_tokens += len(plain.tokens)
        self.drafted += drafted.total("drafted")
        self.accepted += drafted.total("accepted")

    def _run(self, task: Task, number: int, drafting: Drafting) -> "Run":
        params = {"prompt": task.tokens, "max_tokens": MAX_TOKENS, "sampling": task.sampling.model_dump()}
        return Run(self._context, self._context.slots[number], params, drafting)


class Run:
    """One answer; `seconds` are of its decode steps, draws and decisions included."""

    def __init__(self, context: Context, slot: Slot, params: Message, drafting: Drafting) -> None:
        self._context = context
        self._slot = slot
        self._recorder = Recorder()
        slot.clear()
        request = Request(self._recorder, {"id": 1, "op": "generate", "params": params}, b"")
        self._job = generate(context, slot, request, tokens_of(context, request), drafting)
        self._want: Want | None = next(self._job)
        self.seconds = 0.0

    @property
    def is_over(self) -> bool:
        return self._want is None

    @property
    def tokens(self) -> list[int]:
        return [event["token"] for event in self._told()]

    def total(self, key: str) -> int:
        return sum(event.get(key, 0) for event in self._told())

    def advance(self, num_tokens: int) -> None:
        """Until the answer has so many tokens, or ends."""
        while self._want is not None and len(self._recorder.sent) < num_tokens:
            self._step(self._want)

    def _step(self, want: Want) -> None:
        is_decode = want.kind is Kind.DECODE
        tokens = want.tokens if is_decode else want.tokens[: self._context.settings.chunk_tokens]
        started = time.process_time()
        (row,) = self._context.evaluate([Item(self._slot, tokens, all_logits=is_decode, as_singles=is_decode)])
        granted = Granted(len(tokens), row, time.process_time() - started, is_alone=True)
        try:
            self._want = self._job.send(granted)
        except StopIteration:
            self._want = None
        if is_decode:
            self.seconds += time.process_time() - started

    def _told(self) -> list[Message]:
        return [message["event"] for message in self._recorder.sent if "token" in message.get("event", {})]


def measure(path: Path, rounds: int, draft_path: str = "") -> tuple[dict[str, float], dict[str, Any]]:
    """`(figures, conditions)` of one variant, for this bench and for `engine`'s."""
    bench = Bench(path, draft_path)
    bench.run(rounds)
    edits, every = bench.of_kind(list(EDITS)), bench.of_kind(list(bench.ratios))
    figures = {"lookup_speedup": harness.spread(edits)["median"], "worst_ratio": min(every)}
    conditions = {
        "lookup_speedup": harness.spread(edits),
        "every_task": harness.spread(every),
        "by_task": {name: [round(ratio, 3) for ratio in found] for name, found in bench.ratios.items()},
        "most_that_batches_allow": round(bench.most(), 2),
        "batch_steps": {rows: round(bench.drafting.costs.ratio(rows), 2) for rows in ROWS},
        "drafted": bench.drafted,
        "accepted": bench.accepted,
        "tokens": bench.num_tokens,
    }
    return figures, conditions


def main() -> None:
    options = harness.options(__doc__)
    source = harness.chat_model_file()
    rounds, started = QUICK_ROUNDS if options.quick else ROUNDS, time.monotonic()
    figures, conditions = measure(source, rounds)
    with tempfile.TemporaryDirectory() as folder:
        others = {kind: Path(folder) / f"{kind}.gguf" for kind in ("Q8_0", "Q2_K")}
        for kind, path in others.items():
            quantize(str(source), str(path), kind, 1)
        conditions["Q8_0"] = measure(others["Q8_0"], QUICK_ROUNDS)
        conditions["Q8_0 with draft model Q2_K"] = measure(others["Q8_0"], QUICK_ROUNDS, str(others["Q2_K"]))
    conditions |= {
        "max_tokens": MAX_TOKENS,
        "rounds": rounds,
        "threads": 1,
        "clock": "CPU time of the process",
        "variant": source.name,
        "engine": f"llama-cpp-python {engine_version()}",
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("speculation", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
