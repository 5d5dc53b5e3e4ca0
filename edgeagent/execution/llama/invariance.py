"""Which ways to evaluate change no bit: every way is compared with evaluating one token at a time, alone.

What is known to matter in llama.cpp's CPU kernels (ggml/src/ggml-cpu: ops.cpp, llamafile/sgemm.cpp): one row or
several; odd numbers of rows; tiles of rows; attention over an f16 cache, which is cut up among the threads for a single
token from 512 cells on and tiled for 64 tokens and more; and that the cells seen are padded to multiples of 256, to the
longest sequence of the batch. So batches are tried where that padding steps, and for sequences of unlike lengths.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.execution.llama.context import ContextSettings
from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.probe_slots import Part, Slots
from edgeagent.execution.llama.reference import CELLS, FAR, NEAR, OTHER_PIECE, SHORT, STEPS, Reference
from edgeagent.execution.worker import Request

DRAFTS = (2, 3, 4, 5, 6, 7, 8, 11, 13, 16)


def invariance(request: Request) -> Steps:
    """Op `invariance {path, texts, budget_s, sequences, kv_type, flash_attention, threads, chunk_tokens, …loading}`.

    Event: `checks` finished so far. Reply: `worst`, per finished check the largest difference of a logit (0: no bit
    differs; the smallest normal float: only bits of the cache do), `has_window`, `seconds` without loading. Checks
    that the cache refuses are missing, and (then it is not `complete`) those that `budget_s` leaves no time for.
    Raises RequestError, ModelFileError, OutOfMemoryError.
    """
    p = request.params
    gpu_layers = int(p.get("gpu_layers", 0))
    model = Model(
        str(p["path"]),
        extra_buffers=bool(p["extra_buffers"]),
        gpu_layers=gpu_layers,
        experts_on_cpu=bool(p.get("experts_on_cpu")),
    )
    settings = ContextSettings(
        sequences=int(p["sequences"]),
        context_tokens=CELLS,
        kv_type=str(p["kv_type"]),
        flash_attention=bool(p["flash_attention"]),
        threads=int(p["threads"]),
        chunk_tokens=int(p["chunk_tokens"]),
        offload=gpu_layers > 0,
        is_free=True,
    )
    first, second = (_read(model, str(text)) for text in p["texts"])
    started = time.perf_counter()
    with closing(Slots(model, settings)) as slots:
        probe, complete = Probe(slots, first, second), True
        for _ in probe.run():
            request.event(checks=len(probe.worst))
            yield
            if time.perf_counter() - started > float(p["budget_s"]):
                complete = False
                break
    seconds = time.perf_counter() - started
    request.reply(worst=probe.worst, complete=complete, has_window=model.has_window, seconds=seconds)


def _read(model: Model, text: str) -> list[int]:
    """Tokens of a text, again and again until they are enough."""
    special = model.tokenize("", add_special=True, parse_special=False)
    tokens = model.tokenize(text, add_special=False, parse_special=False)
    if not tokens:
        raise RequestError("a text without tokens probes nothing; send two of about 150 tokens")
    return (special + tokens * (CELLS // len(tokens) + 1))[:CELLS]


class Probe:
    """`worst` grows with every finished check."""

    def __init__(self, slots: Slots, text: Sequence[int], other: Sequence[int]) -> None:
        self.worst: dict[str, float] = {}
        self._slots, self._known = slots, Reference(slots, text, other)
        self._sequences, self._chunk = slots.settings.sequences, slots.settings.chunk_tokens

    def run(self) -> Steps:
        """Every check, the most useful first; a batch between two yields."""
        yield from self._known.read()
        for name, check in self._checks():
            self._known.difference = 0.0
            try:
                yield from check
            except EngineError:
                continue  # a cache that cannot do this: unknown
            self.worst[name] = self._known.difference

    def _checks(self) -> Iterator[tuple[str, Steps]]:
        yield "restore 1", self._restore()
        for size in DRAFTS:
            if size <= self._chunk:
                yield f"draft {size}", self._draft(size)
        for size in range(2, self._sequences + 1):
            yield f"decode {size}", self._decode(size)
        for number, pattern in enumerate(self._known.cuts, 1):
            yield f"cut {number}", self._cut(pattern)
        yield "cut far", self._cut_far()
        for size in range(2, min(3, self._sequences) + 1):
            yield f"mixed {size}", self._mixed(size)
        yield "rewind 1", self._rewind()
        if self._sequences > 1:
            yield "rewind 2", self._neighbour()
        threads = 2 if self._slots.settings.threads == 1 else 1
        yield f"threads {threads}", self._threads(threads)

    def _restore(self) -> Steps:
        slot = self._sequences - 1
        for base in (NEAR, FAR):
            self._slots.restore(slot, self._known.saved[base])
            yield from self._known.one_by_one(slot, base, base + STEPS)

    def _draft(self, size: int) -> Steps:
        for base in (NEAR, FAR):
            self._slots.restore(0, self._known.saved[base])
            (rows,) = self._slots.evaluate(Part(0, self._known.text[base : base + size], all_logits=True))
            for i, row in enumerate(rows):
                self._known.compare(row, self._known.rows[base + i])
            self._known.compare_cells(0, base, base + size)
            yield

    def _decode(self, size: int) -> Steps:
        """Slots side by side, and with a gap between them where there is room for one."""
        choices = {tuple(range(size)), (0, *range(self._sequences - size + 1, self._sequences))}
        for slots in sorted(choices):
            for slot, lane in zip(slots, self._known.lanes, strict=False):
                self._slots.restore(slot, lane.saved)
            for step in range(STEPS):
                lanes = list(zip(slots, self._known.lanes, strict=False))[:: -1 if step % 2 else 1]
                found = self._slots.evaluate(*(Part(slot, [lane.tokens[step]]) for slot, lane in lanes))
                for (_, lane), rows in zip(lanes, found, strict=True):
                    self._known.compare(rows[0], lane.rows[step])
                yield
            self._known.compare_cells(slots[0], FAR, FAR + STEPS)

    def _cut(self, pattern: Sequence[int]) -> Steps:
        self._slots.cut(0)
        yield from self._pieces(0, pattern)

    def _cut_far(self) -> Steps:
        for base, pattern in ((NEAR, (2, 7, 1, 5)), (FAR, (1, min(16, self._chunk)))):
            self._slots.restore(0, self._known.saved[base])
            yield from self._pieces(base, pattern)

    def _pieces(self, base: int, pattern: Sequence[int]) -> Steps:
        done = base
        for length in pattern:
            (rows,) = self._slots.evaluate(Part(0, self._known.text[done : done + length]))
            done += length
            self._known.compare(rows[0], self._known.rows[done - 1])
            yield
        self._known.compare_cells(0, base, done)

    def _mixed(self, size: int) -> Steps:
        """`size - 1` sequences decode one token each beside a piece of the other text: all as each of them apart."""
        long, other, *more = self._known.lanes
        decoding = [long, *more[: size - 2]]
        piece = other.tokens[: min(OTHER_PIECE, self._slots.batch_tokens - len(decoding))]
        self._slots.restore(0, other.saved)
        (apart,) = self._slots.evaluate(Part(0, piece))
        cells = self._slots.save(0)
        yield
        for slot, lane in enumerate([other, *decoding]):
            self._slots.restore(slot, lane.saved)
        parts = [Part(slot, [lane.tokens[0]]) for slot, lane in enumerate(decoding, 1)]
        *found, last = self._slots.evaluate(*parts, Part(0, piece))
        self._known.compare(last[0], apart[0])
        self._known.compare_cells(0, 0, cells.num_tokens, cells)
        yield
        for slot, (lane, rows) in enumerate(zip(decoding, found, strict=True), 1):
            self._known.compare(rows[0], lane.rows[0])
            self._known.compare(self._slots.evaluate(Part(slot, [lane.tokens[1]]))[0][0], lane.rows[1])
            yield
        self._known.compare_cells(1, FAR, FAR + 2)

    def _rewind(self) -> Steps:
        """A wrong draft is dropped, and right tokens are dropped and come again."""
        kept, end = NEAR + 2, NEAR + STEPS
        self._slots.restore(0, self._known.saved[NEAR])
        yield from self._known.one_by_one(0, NEAR, end)
        self._slots.cut(0, kept)
        self._slots.evaluate(Part(0, self._known.text[end : kept - 1 : -1], all_logits=True))
        yield
        self._slots.cut(0, kept)
        yield from self._known.one_by_one(0, kept, end)
        self._known.compare_cells(0, NEAR, end)

    def _neighbour(self) -> Steps:
        """The same with another sequence that comes, goes and comes back in between."""
        other, size = self._known.lanes[1], min(OTHER_PIECE, self._chunk)
        self._slots.restore(0, self._known.saved[NEAR])
        self._slots.restore(1, other.saved)
        for base in range(NEAR, NEAR + STEPS, 2):
            yield from self._known.one_by_one(0, base, base + 2)
            self._slots.cut(0, base)
            self._slots.cut(1)
            yield from self._known.one_by_one(0, base, base + 2)
            self._slots.evaluate(Part(1, self._known.other[:size]))
            yield
        self._known.compare_cells(0, NEAR, NEAR + STEPS)

    def _threads(self, threads: int) -> Steps:
        """One by one where attention may be cut up, and a whole chunk."""
        chunk, found = self._known.text[: self._chunk], []
        for number in (self._slots.settings.threads, threads):
            self._slots.set_threads(number)
            self._slots.cut(0)
            found.append(self._slots.evaluate(Part(0, chunk))[0][0])
            yield
        self._known.compare(*found)
        for base in (SHORT, NEAR, FAR):
            self._slots.restore(0, self._known.saved[base])
            yield from self._known.one_by_one(0, base, base + STEPS)
