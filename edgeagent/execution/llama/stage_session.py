"""One sequence of one request in a stage: its cells, the type its hidden states travel in, and its sampler."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.core.errors import RequestError
from edgeagent.core.generation import Sampling
from edgeagent.core.stages import HIDDEN_TYPES, HiddenType
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.context import ContextSettings
from edgeagent.execution.llama.hidden import FloatArray, encode
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.sampler import Sampler
from edgeagent.execution.llama.stage_context import Part, StageContext
from edgeagent.execution.worker import Request


@dataclass(slots=True)
class StageSession:
    """`tokens` are those of its cells, in a session that takes tokens; `sampler` is there in one that draws them."""

    context: StageContext
    part: Part
    hidden: HiddenType
    tokens: list[int]
    sampler: Sampler | None = None
    num_drawn: int = 0
    """Output tokens so far."""

    def truncate(self, position: int) -> None:
        """Forget what came from `position` on. Raises EngineError, RequestError."""
        if not 0 <= position <= self.context.num_tokens:
            raise RequestError(f"the stage has {self.context.num_tokens} tokens, not {position}; begin there")
        try:
            self.context.truncate(position)
        finally:
            del self.tokens[self.context.num_tokens :]

    def evaluate(self, inputs: Sequence[int] | FloatArray, *, all_rows: bool) -> bytes | None:
        """Append a span; its hidden states as they travel, where the session gives them: a head's of all its tokens.

        Raises EngineError.
        """
        is_head = not self.part.takes_hidden and self.part.after is not None
        rows = self.context.evaluate(inputs, all_rows=all_rows or is_head)
        if not self.part.takes_hidden:
            self.tokens += [int(token) for token in inputs]
        return None if rows is None else encode(rows, self.hidden)

    def cells(self, first: int, end: int) -> bytes:
        """The rows of cells `[first, end)` of the layers that it evaluates, plane after plane."""
        if not 0 <= first < end <= self.context.num_tokens:
            raise RequestError(f"cells {first} to {end} are not in a stage of {self.context.num_tokens}")
        return kv.cut_block(self.front(first, end), 0, end - first)

    def front(self, first: int, end: int) -> kv.SequenceState:
        """A copy of cells `[first, end)`, of the layers that it evaluates. Raises EngineError."""
        return kv.front_layers(self.context.read_state(first, end), self.part.after)

    def close(self) -> None:
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None
        self.context.close()


def open_session(model: Model, settings: ContextSettings, request: Request) -> StageSession:
    """From op `stage_open`. Raises RequestError, OutOfMemoryError."""
    p = request.params
    kind, after, size = p.get("hidden", "f32"), p.get("after"), int(p["context_tokens"])
    if kind not in HIDDEN_TYPES:
        raise RequestError(f"hidden states do not travel as '{kind}'; use one of {', '.join(HIDDEN_TYPES)}")
    if after is not None and not 0 < int(after) <= model.layers:
        raise RequestError(f"a stage of {model.layers} layers does not end after {after}")
    if not 0 < size <= settings.context_tokens:
        raise RequestError(f"a stage's context of {size} tokens is not possible; {settings.context_tokens} are")
    part = Part(takes_hidden=bool(p["takes_hidden"]), after=None if after is None else int(after))
    session = StageSession(StageContext(model, settings, part, size), part, kind, [])
    try:
        _add_sampler(session, request)
    except BaseException:
        session.close()
        raise
    return session


def _add_sampler(session: StageSession, request: Request) -> None:
    if (told := request.params.get("sampling")) is None:
        return
    if session.part.after is not None:
        raise RequestError("a stage that gives hidden states draws no tokens; leave the sampling out")
    prompt, output = (ids(session.context.model, request.params.get(key, ())) for key in ("prompt", "output"))
    session.sampler = Sampler(session.context, Sampling.model_validate(told), prompt)
    session.num_drawn = len(output)
    for token in output:
        session.sampler.accept(token)


def ids(model: Model, values: Sequence[int]) -> list[int]:
    """Token ids, when every one is of the vocabulary: llama.cpp aborts the process on others. Raises RequestError."""
    found = [int(value) for value in values]
    if (wrong := next((i for i in found if not 0 <= i < model.num_vocab), None)) is not None:
        raise RequestError(f"token id {wrong} is not in the vocabulary of {model.num_vocab}; use its own tokenizer")
    return found
