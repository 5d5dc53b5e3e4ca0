"""What does the engine cost over bare llama.cpp calls, and what do its caches save? Ratios, paired in one run.

The yardstick (`raw_llama`) holds the same file with the same settings in a process of its own; each round measures
both, one after the other, in changing order. What goes over HTTP is asked of a daemon started for it.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import engine_http
import harness
import layout
import streams
from raw_llama import RawProcess, RawSettings, raw_process

from edgeagent.daemon import open_house
from edgeagent.execution.local import LocalModel
from edgeagent.settings import load_settings

ROUNDS, QUICK_ROUNDS = 12, 4
BESIDE_ROUNDS, QUICK_BESIDE_ROUNDS = 3, 1
PAST_TOKENS, DECODE_TOKENS, PREFILL_TOKENS = 128, 64, 512
STREAM_TOKENS = 320
"""Long enough that all streams decode together for a while: their prompts come in pieces between the others' steps."""
LONG_TOKENS, OTHERS = 2_000, 3
VOCAB = 49_152


@dataclass(slots=True)
class Measured:
    """Ratios of each round, by figure."""

    ratios: dict[str, list[float]] = field(default_factory=dict)
    together: streams.Together | None = None

    def note(self, figure: str, value: float) -> None:
        self.ratios.setdefault(figure, []).append(value)

    def median(self, figure: str) -> float:
        return statistics.median(self.ratios[figure])


async def measure(model: LocalModel, raw: RawProcess, *, rounds: int, beside: int) -> Measured:
    found = Measured()
    seed = 1
    for number in range(rounds):
        for ratio in (_decode, _prefill, _four_streams):
            seed += 1
            await ratio(model, raw, found, seed, is_raw_first=bool(number % 2))
        harness.progress(f"round {number + 1} of {rounds}")
    for number in range(beside):
        await _beside(model, raw, found, 1_000 + number)
        harness.progress(f"prompt beside answers {number + 1} of {beside}")
    return found


async def _decode(model: LocalModel, raw: RawProcess, found: Measured, seed: int, *, is_raw_first: bool) -> None:
    """Tokens a second behind a prompt, sampled greedily and sent here, against bare steps that nobody looks at."""
    prompt = streams.any_tokens(VOCAB, PAST_TOKENS, seed)
    bare = raw.decode(prompt, DECODE_TOKENS) if is_raw_first else []
    ours = await streams.answer(model, prompt, DECODE_TOKENS + 1, sampling=streams.ENDLESS)
    bare = bare or raw.decode(prompt, DECODE_TOKENS)
    found.note("decode_ratio", ours.tokens_s * sum(bare) / len(bare))
    found.note("raw_decode_tok_s", len(bare) / sum(bare))


async def _prefill(model: LocalModel, raw: RawProcess, found: Measured, seed: int, *, is_raw_first: bool) -> None:
    prompt = streams.any_tokens(VOCAB, PREFILL_TOKENS, seed)
    bare_s = raw.prefill(prompt) if is_raw_first else 0.0
    ours = await streams.answer(model, prompt, 1)
    bare_s = bare_s or raw.prefill(prompt)
    found.note("prefill_ratio", bare_s / ours.ttft_s)
    found.note("raw_prefill_tok_s", PREFILL_TOKENS / bare_s)


async def _four_streams(model: LocalModel, raw: RawProcess, found: Measured, seed: int, *, is_raw_first: bool) -> None:
    """Bare steps of four sequences at the positions where our four answers decoded together, before or after them.

    Where that will be is known from the round before; the first round's bare steps come after.
    """
    prompts = [streams.any_tokens(VOCAB, PAST_TOKENS, 10_000 + 4 * seed + i) for i in range(4)]
    bare: list[float] = []
    if is_raw_first and found.together is not None:
        bare = _bare_steps(raw, found.together)
    running = [streams.answer(model, p, STREAM_TOKENS, sampling=streams.ENDLESS) for p in prompts]
    answers = await asyncio.gather(*running)
    ours = found.together = streams.together(answers)
    bare = bare or _bare_steps(raw, ours)
    found.note("batch4_ratio", ours.tokens_s * sum(bare) / (4 * len(bare)))
    found.note("raw_batch4_tok_s", 4 * len(bare) / sum(bare))


def _bare_steps(raw: RawProcess, like: streams.Together) -> list[float]:
    past = streams.any_tokens(VOCAB, PAST_TOKENS + like.num_before, like.num_before)
    seconds: list[float] = raw.decode(past, like.num_steps, 4)
    return seconds


async def _beside(model: LocalModel, raw: RawProcess, found: Measured, seed: int) -> None:
    """A long prompt beside three answers: what it does to their pace, and they to its."""
    prompts = [streams.any_tokens(VOCAB, 64, 20_000 + OTHERS * seed + i) for i in range(OTHERS)]
    alone = await streams.answer(model, streams.any_tokens(VOCAB, LONG_TOKENS, 30_000 + seed), 1)
    together = await streams.prompt_beside(model, prompts, streams.any_tokens(VOCAB, LONG_TOKENS, 40_000 + seed))
    idle_s = statistics.median(together.idle_gaps_s)
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        found.note(f"beside_tpot_{name}_ratio", harness.percentile(together.gaps_s, part) / idle_s)
    found.note("idle_tpot_p99_ratio", harness.percentile(together.idle_gaps_s, 0.99) / idle_s)
    found.note("beside_prefill_ratio", alone.ttft_s / together.prefill_s)


async def measured(*, quick: bool) -> tuple[harness.Json, harness.Json]:
    env = harness.state_env() | harness.UNGOVERNED
    # Only one process keeps cells in a folder: that is the daemon's, which is asked over HTTP below.
    own = {"EDGEAGENT__ENGINE__SPECULATION": "off", "EDGEAGENT__ENGINE__KEPT_DISK_BYTES": "0"}
    settings = load_settings(environment=env | own)
    async with open_house(settings, role="bench") as house, house.pool.lease(harness.CHAT_MODEL) as resident:
        model = resident.whole
        await model.facts()
        load = model.settings
        bare = RawSettings(load.path, load.threads, load.context_tokens, load.sequences, load.extra_buffers)
        with raw_process(bare) as raw:
            rounds, beside = (QUICK_ROUNDS, QUICK_BESIDE_ROUNDS) if quick else (ROUNDS, BESIDE_ROUNDS)
            found = await measure(model, raw, rounds=rounds, beside=beside)
            harness.progress(f"so far: { {name: round(found.median(name), 3) for name in found.ratios} }")
            http, http_conditions = await _over_http(env, model, raw, rounds, beside)
    figures = {name: round(found.median(name), 3) for name in found.ratios if not name.startswith("raw_")}
    conditions = {
        "spread": {name: harness.spread(values) for name, values in found.ratios.items()},
        "threads": load.threads,
        "sequences": load.sequences,
        "invariance": load.invariance.model_dump(exclude={"max_abs_logit"}),
    }
    return figures | http, conditions | http_conditions


async def _over_http(
    env: dict[str, str], model: LocalModel, raw: RawProcess, rounds: int, conversations: int
) -> tuple[harness.Json, harness.Json]:
    port = harness.free_port()
    daemon = harness.edgeagent(["serve"], env | {"EDGEAGENT__HTTP__PORT": str(port)}, "daemon ready")
    with harness.running(daemon):
        chat = engine_http.Chat(port)
        chat.ask([{"role": "user", "content": "Hello."}], max_tokens=2)  # loads the model
        overheads = await engine_http.overheads_ms(chat, model, raw, 2 * rounds)
        harness.progress(f"so far: {statistics.median(overheads):.2f} ms over HTTP")
        turns = await engine_http.later_turns(daemon, chat, model, raw, conversations)
        seeds = range(conversations)
        layouts, _ = await asyncio.to_thread(layout.measure, f"http://127.0.0.1:{port}", seeds=seeds)
    figures = {
        "ttft_overhead_ms": round(statistics.median(overheads), 2),
        "second_turn_ratio": round(statistics.median(turns.second), 3),
        "restart_turn_ratio": round(statistics.median(turns.after_restart), 3),
        "clock_layout_speedup": layouts["stable_prefix_speedup"],
    }
    conditions = {
        "ttft_overhead_ms": harness.spread(overheads),
        "second_turn": harness.spread(turns.second),
        "restart_turn": harness.spread(turns.after_restart),
        "turn_new_tokens": harness.spread(turns.new_tokens),
        "turn_tokens_evaluated_again": harness.spread(turns.lacking),
    }
    return figures, conditions


def drafts(*, quick: bool) -> tuple[harness.Json, harness.Json]:
    """What guessing ahead gains and costs, from its own bench in a process of its own."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("speculation.py")),
        "--json",
        *(["--quick"] if quick else []),
    ]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    figures = {
        "lookup_speedup": found["figures"]["lookup_speedup"],
        "lookup_worst_ratio": found["figures"]["worst_ratio"],
    }
    return figures, {"drafts": found["conditions"]}


def main() -> None:
    options = harness.options(__doc__)
    started = time.monotonic()
    figures, conditions = asyncio.run(measured(quick=options.quick))
    more_figures, more_conditions = drafts(quick=options.quick)
    figures, conditions = figures | more_figures, conditions | more_conditions
    conditions["took_s"] = round(time.monotonic() - started, 1)
    harness.publish(Path(__file__).stem, figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
