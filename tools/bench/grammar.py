"""What does a grammar cost? The decode rate of the embedded model with it and without, over the same tokens.

Each answer is drawn under the grammar of a JSON schema; then the same tokens are evaluated again in the same context,
drawing without the grammar each time and throwing that token away. Which of the two comes first alternates. The clock
is the process's CPU time: one thread computes, so on an idle machine it is the time that passes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import harness

from edgeagent.agent.grammar import answer_grammar
from edgeagent.core.chat import JsonObject
from edgeagent.core.generation import Sampling
from edgeagent.execution.llama import prompt
from edgeagent.execution.llama.context import Context, ContextSettings
from edgeagent.execution.llama.library import engine_version
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.sampler import Sampler

MAX_TOKENS = 96
ROUNDS, QUICK_ROUNDS = 6, 1
TEMPERATURES = (0.0, 0.8)
LEAST_TOKENS = 8
"""Shorter answers say nothing of a rate."""
QUESTION = "Describe a small shop in Lyon, its owner, its prices and its opening hours."

TEXT: JsonObject = {"type": "string", "maxLength": 40}
NODE: JsonObject = {
    "type": "object",
    "properties": {"label": TEXT, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 3}},
    "required": ["label", "children"],
}
SCHEMAS: dict[str, JsonObject] = {
    "any object": {"type": "object"},
    "free text": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "flat": {
        "type": "object",
        "properties": {"name": TEXT, "owner": TEXT, "price": {"type": "number", "minimum": 0, "maximum": 500}},
        "required": ["name", "owner", "price"],
    },
    "nested": {
        "type": "object",
        "properties": {
            "owner": {"type": "object", "properties": {"first": TEXT, "last": TEXT}, "required": ["first", "last"]},
            "tags": {"type": "array", "items": {"enum": ["food", "books", "tools", "toys"]}, "minItems": 3},
        },
        "required": ["owner", "tags"],
    },
    "patterns": {
        "type": "array",
        "items": {"type": "string", "pattern": r"^[A-Z][a-z]+ [0-9]{2}:[0-9]{2}-[0-9]{2}:[0-9]{2}$"},
        "minItems": 5,
        "maxItems": 7,
    },
    "union": {"type": "array", "items": {"anyOf": [{"type": "integer"}, TEXT, {"type": "null"}]}, "minItems": 6},
    "recursive": {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
}


@dataclass(slots=True)
class Bench:
    model: Model
    ratios: list[float] = field(default_factory=list)
    by_schema: dict[str, list[float]] = field(default_factory=dict)
    make_ms: list[float] = field(default_factory=list)
    num_tokens: int = 0

    def run(self, rounds: int) -> None:
        context = Context(self.model, ContextSettings(512, "q8_0", flash_attention=True, threads=1, chunk_tokens=64))
        tokens, _ = prompt.encode(self.model, [{"role": "user", "content": QUESTION}])
        for number in range(rounds):
            for name, schema in SCHEMAS.items():
                for temperature in TEMPERATURES:
                    sampling = Sampling(temperature=temperature, seed=number, grammar=answer_grammar(schema))
                    self._pair(context, tokens, name, sampling, is_free_first=bool(number % 2))
            harness.progress(f"round {number + 1} of {rounds}: {self.num_tokens} tokens")

    def _pair(self, context: Context, tokens: list[int], name: str, sampling: Sampling, *, is_free_first: bool) -> None:
        free = sampling.model_copy(update={"grammar": None})
        answer, seconds = self._timed(context, tokens, sampling, None)
        if len(answer) < LEAST_TOKENS:
            return
        _, free_seconds = self._timed(context, tokens, free, answer)
        if is_free_first:  # the answer is known now, so the order can be turned round
            answer, seconds = self._timed(context, tokens, sampling, None)
        self.ratios.append(free_seconds / seconds)
        self.by_schema.setdefault(name, []).append(self.ratios[-1])
        self.num_tokens += len(answer)

    def _timed(
        self, context: Context, tokens: list[int], sampling: Sampling, answer: Sequence[int] | None
    ) -> tuple[list[int], float]:
        """The tokens drawn, or `answer` followed while drawing; CPU seconds of drawing and evaluating."""
        started = time.perf_counter()
        sampler = Sampler(context, sampling)
        if sampling.grammar is not None:
            self.make_ms.append((time.perf_counter() - started) * 1000)
        context.slots[0].clear()
        for begin in range(0, len(tokens), 64):
            context.slots[0].evaluate(tokens[begin : begin + 64])
        made: list[int] = []
        started = time.process_time()
        while len(made) < (MAX_TOKENS if answer is None else len(answer)):
            token = sampler.draw(len(made))
            if answer is None and self.model.is_end(token):
                break
            made.append(token if answer is None else answer[len(made)])
            context.slots[0].evaluate(made[-1:])
        seconds = time.process_time() - started
        sampler.close()
        return made, seconds


def main() -> None:
    options = harness.options(__doc__)
    file = harness.chat_model_file()
    started = time.monotonic()
    bench = Bench(Model(str(file), extra_buffers=harness.repacks_weights()))
    bench.run(QUICK_ROUNDS if options.quick else ROUNDS)
    spread = harness.spread(bench.ratios)
    figures = {"decode_ratio": spread["median"], "decode_ratio_min": spread["min"]}
    conditions = {
        "decode_ratio": spread,
        "by_schema": {name: round(harness.spread(found)["median"], 3) for name, found in bench.by_schema.items()},
        "grammar_read_ms": harness.spread(bench.make_ms),
        "tokens": bench.num_tokens,
        "max_tokens": MAX_TOKENS,
        "temperatures": TEMPERATURES,
        "threads": 1,
        "clock": "CPU time of the process",
        "variant": file.name,
        "engine": f"llama-cpp-python {engine_version()}",
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("grammar", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
