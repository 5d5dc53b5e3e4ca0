"""What a worker does for stages of a split model: sessions are opened, run span by span, exported, and closed."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgeagent.core.errors import EdgeAgentError, EngineError, RequestError
from edgeagent.core.stages import hidden_row_bytes
from edgeagent.execution import canonical
from edgeagent.execution.channel import Message
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.context import Context, ContextSettings
from edgeagent.execution.llama.generating import Answer
from edgeagent.execution.llama.hidden import FloatArray, decode
from edgeagent.execution.llama.jobs import Steps, claim_free, tokens_of
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.stage_session import StageSession, ids, open_session
from edgeagent.execution.worker import Request

MAX_SESSIONS = 32
"""Each has cells and a compute buffer of its own."""


@dataclass(slots=True)
class Stages:
    """The sessions over one loaded model, and the runs under way in them, which take turns."""

    model: Model
    settings: ContextSettings
    sessions: dict[int, StageSession] = field(default_factory=dict)
    _threads: int | None = None
    """As set since the model was loaded."""
    _running: deque[tuple[Request, Steps]] = field(default_factory=deque)

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def open(self, request: Request) -> None:
        """Op `stage_open {session, context_tokens, takes_hidden, after, hidden, sampling, prompt, output}`.

        `after` so many layers of this file it ends and gives hidden states; without, it gives logits, and draws tokens
        if there is `sampling` (`prompt`: what penalties look at; `output`: drawn before). Replies `context_tokens`.
        """
        number = int(request.params["session"])
        if number in self.sessions or len(self.sessions) >= MAX_SESSIONS:
            raise RequestError(f"stage session {number} cannot be opened beside {len(self.sessions)}; close one")
        session = self.sessions[number] = open_session(self.model, self.settings, request)
        if self._threads is not None:
            session.context.set_threads(self._threads)
        request.reply(context_tokens=session.context.context_tokens)

    def run(self, request: Request) -> None:
        """Op `stage_run {session, position, spans, tokens | (bulk), all_rows, cells, draw, guesses, max_tokens}`.

        Cells from `position` on are dropped, then the inputs are evaluated in `spans`: token ids, or as bulk hidden
        states in the session's type. Events after each span: `rows [first, count]` with hidden states as bulk (a tail's
        of the last token alone, unless `all_rows`), `cells [first, end]` with their rows as bulk,
        if asked. To `draw` is to report `token`s as op `generate` does: one behind the last span, or, with `guesses`
        (the tokens whose hidden states came behind the first), behind each span as long as they were right; the run
        ends at the first that was wrong. Replies `tokens` in the cache; after a draw, how many were `drawn`, and the
        `reason` when the answer is over.
        """
        session = self._session(request)
        self._running.append((request, _run(session, request, _inputs(session, request))))

    def cells(self, request: Request) -> None:
        """Op `stage_cells {session, first, end}`: replies with the rows of these cells as bulk, plane after plane."""
        first, end = int(request.params["first"]), int(request.params["end"])
        request.reply([self._session(request).cells(first, end)], cells=[first, end])

    def close(self, request: Request) -> None:
        """Op `stage_close {session}`: also one that is not there."""
        if session := self.sessions.pop(int(request.params["session"]), None):
            for running, steps in list(self._running):
                if running.params["session"] == request.params["session"]:
                    self._drop(running, steps)
                    running.fail(RequestError("the stage session was closed meanwhile; open another"))
            session.close()
        request.reply()

    def splice(self, context: Context, request: Request) -> None:
        """Op `stage_splice {session, prompt, first_block}` with blocks `first_block…` as bulk, made by the tail.

        Completes a slot of the whole model with this session's cells of the layers before its end, and the blocks' of
        those behind it. Replies `tokens`. Raises EngineError when blocks do not fit, RequestError for another prompt.
        """
        session, (prompt, _) = self._session(request), tokens_of(context, request)
        after = session.part.after
        if after is None or session.part.takes_hidden or after >= self.model.layers:
            raise RequestError("only a head in a whole model's file can be completed; open one there")
        if session.tokens[: len(prompt)] != prompt:
            raise RequestError("the head has not evaluated this prompt; run it first")
        spans = context.canonical_spans(len(prompt), 0)
        blocks = list(_whole_blocks(session, context, request, len(prompt)))
        slot = claim_free(context, prompt, spans)
        try:
            slot.splice(prompt, spans, blocks)
        finally:
            slot.release()
        request.reply(tokens=len(prompt))

    def step(self) -> None:
        """One span of the run whose turn it is."""
        request, steps = self._running.popleft()
        try:
            next(steps)
        except StopIteration:
            return
        except EdgeAgentError as error:
            request.fail(error)
            return
        self._running.append((request, steps))

    def cancel(self, request_id: int) -> None:
        """End a run; what was evaluated stays in its session."""
        for request, steps in list(self._running):
            if request.id == request_id:
                self._drop(request, steps)

    def set_threads(self, threads: int) -> None:
        """Of all sessions, from their next batch on."""
        self._threads = threads
        for session in self.sessions.values():
            session.context.set_threads(threads)

    def _drop(self, request: Request, steps: Steps) -> None:
        self._running.remove((request, steps))
        steps.close()

    def _session(self, request: Request) -> StageSession:
        number = int(request.params["session"])
        if number not in self.sessions:
            raise RequestError(f"there is no stage session {number}; open it")
        return self.sessions[number]


def _inputs(session: StageSession, request: Request) -> list[int] | FloatArray:
    """Checked here, so that nothing is evaluated of a request that is wrong. Raises RequestError."""
    model, p = session.context.model, request.params
    if not session.part.takes_hidden:
        return ids(model, p["tokens"])
    row_bytes = hidden_row_bytes(session.hidden, model.width)
    return decode(request.bulk, len(request.bulk) // row_bytes, model.width, session.hidden)


def _run(session: StageSession, request: Request, inputs: Sequence[int] | FloatArray) -> Steps:
    p = request.params
    spans, guesses = [int(n) for n in p["spans"]], ids(session.context.model, p.get("guesses", ()))
    if sum(spans) != len(inputs) or min(spans, default=0) < 1 or max(spans) > session.context.chunk_tokens:
        raise RequestError(f"{len(inputs)} tokens are not evaluated in spans {spans[:8]}; use the canonical ones")
    if guesses and len(guesses) != len(inputs) - 1:
        raise RequestError(f"{len(guesses)} guesses do not fit {len(inputs)} tokens")
    drawing = _Drawing(session, request, guesses) if p.get("draw") else None
    session.truncate(int(p["position"]))
    end = 0
    for number, span in enumerate(spans, 1):
        first, begin, end = session.context.num_tokens, end, end + span
        rows = session.evaluate(inputs[begin:end], all_rows=bool(p.get("all_rows")) or bool(guesses))
        _report(session, request, first, rows)
        if drawing and (guesses or number == len(spans)) and not drawing.goes_on(begin, end):
            break
        if number < len(spans):
            yield
    request.reply(tokens=session.context.num_tokens, **(drawing.told() if drawing else {}))


def _report(session: StageSession, request: Request, first: int, rows: bytes | None) -> None:
    end = session.context.num_tokens
    if rows is not None:
        count = len(rows) // hidden_row_bytes(session.hidden, session.context.model.width)
        request.event([rows], rows=[end - count, count])
    if request.params.get("cells"):
        request.event([session.cells(first, end)], cells=[first, end])


class _Drawing:
    """The draws of one run."""

    def __init__(self, session: StageSession, request: Request, guesses: list[int]) -> None:
        if session.sampler is None:
            raise RequestError("this stage session has no sampling; open one with it")
        self._session, self._guesses, self._num_before = session, guesses, session.num_drawn
        self._answer = Answer(request, session.sampler, session.num_drawn)
        if self._answer.is_over:
            raise RequestError("the answer has all its tokens already; open another session")

    def goes_on(self, begin: int, end: int) -> bool:
        """Draws at the rows of the newest span, `[begin, end)` of the run; whether what comes behind it was right."""
        drawn = self._answer.draw(0 if self._guesses else -1, self._guesses[begin : end - 1])
        self._session.num_drawn += len(drawn)
        return len(drawn) == end - begin and not self._answer.is_over and drawn[-1:] == self._guesses[end - 1 : end]

    def told(self) -> Message:
        reason = self._answer.reason if self._answer.is_over else None
        return {"drawn": self._session.num_drawn - self._num_before, "reason": reason}


def _whole_blocks(
    session: StageSession, context: Context, request: Request, num_prompt: int
) -> Iterator[tuple[int, bytes]]:
    planes, after = context.planes, session.part.after
    if not planes:
        raise EngineError("the cache of this model has no exchangeable layout; use another plan")
    half = len(planes) // 2
    theirs = [*planes[:half][after:], *planes[half:][after:]]
    chunk, offset = context.settings.chunk_tokens, 0
    for index in range(int(request.params["first_block"]), canonical.num_blocks(num_prompt, chunk)):
        first, end = canonical.block_range(index, num_prompt, chunk)
        size = (end - first) * sum(theirs)
        yield end - first, kv.stack(session.front(first, end), request.bulk[offset : offset + size], theirs)
        offset += size
    if offset != len(request.bulk):
        raise EngineError(f"{len(request.bulk)} bytes of cells came, {offset} are needed")
