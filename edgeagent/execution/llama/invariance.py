"""Which ways to evaluate change no bit: every way is compared with evaluating one token at a time, alone.

What is known to matter in llama.cpp's CPU kernels (ggml/src/ggml-cpu: ops.cpp, llamafile/sgemm.cpp): one row or
several; odd numbers of rows; tiles of rows; attention over an f16 cache, which is cut up among the threads for a single
token from 512 cells on and tiled for 64 tokens and more; and that the cells seen are padded to multiples of 256, to the
longest sequence of the batch. So batches are tried where that padding steps, and for sequences of unlike lengths.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.slots import Part, Saved, Slots, SlotSettings
from edgeagent.execution.llama.tensors import FloatArray
from edgeagent.execution.worker import Request

MIN_START_TOKENS = 64
"""From the start, at least so many tokens are evaluated one by one, and then again in pieces."""
SHORT, NEAR, FAR = 5, 253, 509
"""Tokens before the places where batches are tried; behind the last two, attention sees 256 cells more."""
NEAR_TOKENS, FAR_TOKENS = 17, 17
END = FAR + FAR_TOKENS
CELLS = 768
OTHER_TOKENS, OTHER_PIECE = 60, 12
DRAFTS = (2, 3, 4, 5, 6, 7, 8, 11, 13, 16)
STEPS = 6
TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


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
    settings = SlotSettings(
        sequences=int(p["sequences"]),
        cells=CELLS,
        kv_type=str(p["kv_type"]),
        flash_attention=bool(p["flash_attention"]),
        threads=int(p["threads"]),
        chunk_tokens=int(p["chunk_tokens"]),
        offload=gpu_layers > 0,
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


def cut_patterns(chunk_tokens: int, num_tokens: int) -> list[list[int]]:
    """Ways to cut so many tokens into pieces of at most a chunk: whole chunks first, then every size that may matter.

    Sizes: 2 to 9, powers of two and one more, the chunk and one less.
    """
    most = min(chunk_tokens, num_tokens)
    powers = [1 << n for n in range(4, most.bit_length())]
    sizes = {*range(2, 10), *powers, *(n + 1 for n in powers), most - 1, most}
    left = sorted(n for n in sizes if 1 < n <= most)
    full, rest = divmod(num_tokens, most)
    patterns = [[most] * full + [rest] * (rest > 0)]
    while left:
        pattern: list[int] = []
        room = num_tokens
        while fitting := [n for n in left if n <= room]:
            pattern.append(fitting[-1 if len(pattern) % 2 else 0])  # small and large by turns
            left.remove(pattern[-1])
            room -= pattern[-1]
        patterns.append(pattern + [min(room, most)] * (room > 0))
    return patterns


@dataclass(frozen=True, slots=True)
class Lane:
    """A sequence to go on with, and the logits its tokens have alone."""

    saved: Saved
    tokens: Sequence[int]
    rows: Sequence[FloatArray]


class Probe:
    """`worst` grows with every finished check."""

    def __init__(self, slots: Slots, text: Sequence[int], other: Sequence[int]) -> None:
        self.worst: dict[str, float] = {}
        self._slots, self._text, self._other = slots, text, other
        self._sequences, self._chunk = slots.settings.sequences, slots.settings.chunk_tokens
        self._start = max(MIN_START_TOKENS, self._chunk)
        self._cuts = cut_patterns(self._chunk, self._start)
        self._rows: dict[int, FloatArray] = {}
        self._saved: dict[int, Saved] = {}
        self._lanes: list[Lane] = []
        self._seen = 0.0

    def run(self) -> Steps:
        """Every check, the most useful first; a batch between two yields."""
        yield from self._read_text()
        yield from self._read_other()
        for name, check in self._checks():
            self._seen = 0.0
            try:
                yield from check
            except EngineError:
                continue  # a cache that cannot do this: unknown
            self.worst[name] = self._seen

    def _checks(self) -> Iterator[tuple[str, Steps]]:
        yield "restore 1", self._restore()
        for size in DRAFTS:
            if size <= self._chunk:
                yield f"draft {size}", self._draft(size)
        for size in range(2, self._sequences + 1):
            yield f"decode {size}", self._decode(size)
        for number, pattern in enumerate(self._cuts, 1):
            yield f"cut {number}", self._cut(pattern)
        yield "cut far", self._cut_far()
        for size in range(2, min(3, self._sequences) + 1):
            yield f"mixed {size}", self._mixed(size)
        yield "rewind 1", self._rewind()
        if self._sequences > 1:
            yield "rewind 2", self._neighbour()
        threads = 2 if self._slots.settings.threads == 1 else 1
        yield f"threads {threads}", self._threads(threads)

    def _read_text(self) -> Steps:
        """The reference: where anything is compared, one token at a time; chunks in between."""
        alone = {*range(self._start), *range(NEAR, NEAR + NEAR_TOKENS), *range(FAR, END)}
        ends = {i - 1 for pattern in self._cuts for i in np.cumsum(pattern).tolist()}
        kept = ends | {*range(SHORT, SHORT + STEPS), *range(NEAR, NEAR + NEAR_TOKENS), *range(FAR, END)}
        done = 0
        while done < END:
            length = 1 if done in alone else min([self._chunk, *(i - done for i in alone if i > done)])
            (rows,) = self._slots.evaluate(Part(0, self._text[done : done + length]))
            done += length
            if done - 1 in kept:
                self._rows[done - 1] = rows[0]
            if done in (SHORT, NEAR, FAR, END):
                self._saved[done] = self._slots.save(0)
            yield

    def _read_other(self) -> Steps:
        """Lanes of a long sequence, of another text, of a shorter and a very short one; then the same, further on."""
        self._slots.cut(0)
        for done in range(0, OTHER_TOKENS, self._chunk):
            self._slots.evaluate(Part(0, self._other[done : min(done + self._chunk, OTHER_TOKENS)]))
            yield
        other = self._slots.save(0)
        bases = (self._saved[FAR], other, self._saved[NEAR], self._saved[SHORT])
        for i in range(max(2, self._sequences)):
            base, num_steps = bases[i % 4], OTHER_PIECE + 1 if i == 1 else STEPS
            text = self._other if i % 4 == 1 else self._text
            first = base.num_tokens + (i // 4) * STEPS
            tokens, rows = text[first : first + num_steps], []
            if i in (0, 2, 3):
                rows = [self._rows[first + step] for step in range(num_steps)]
            else:
                self._slots.restore(0, base)
                for token in tokens:
                    rows.append(self._slots.evaluate(Part(0, [token]))[0][0])
                    yield
            self._lanes.append(Lane(base, tokens, rows))

    def _restore(self) -> Steps:
        slot = self._sequences - 1
        for base in (NEAR, FAR):
            self._slots.restore(slot, self._saved[base])
            yield from self._one_by_one(slot, base, base + STEPS)

    def _draft(self, size: int) -> Steps:
        for base in (NEAR, FAR):
            self._slots.restore(0, self._saved[base])
            (rows,) = self._slots.evaluate(Part(0, self._text[base : base + size], all_logits=True))
            for i, row in enumerate(rows):
                self._compare(row, self._rows[base + i])
            self._compare_cells(0, base, base + size)
            yield

    def _decode(self, size: int) -> Steps:
        """Slots side by side, and with a gap between them where there is room for one."""
        choices = {tuple(range(size)), (0, *range(self._sequences - size + 1, self._sequences))}
        for slots in sorted(choices):
            for slot, lane in zip(slots, self._lanes, strict=False):
                self._slots.restore(slot, lane.saved)
            for step in range(STEPS):
                lanes = list(zip(slots, self._lanes, strict=False))[:: -1 if step % 2 else 1]
                found = self._slots.evaluate(*(Part(slot, [lane.tokens[step]]) for slot, lane in lanes))
                for (_, lane), rows in zip(lanes, found, strict=True):
                    self._compare(rows[0], lane.rows[step])
                yield
            self._compare_cells(slots[0], FAR, FAR + STEPS)

    def _cut(self, pattern: Sequence[int]) -> Steps:
        self._slots.cut(0)
        yield from self._pieces(0, pattern)

    def _cut_far(self) -> Steps:
        for base, pattern in ((NEAR, (2, 7, 1, 5)), (FAR, (1, min(16, self._chunk)))):
            self._slots.restore(0, self._saved[base])
            yield from self._pieces(base, pattern)

    def _pieces(self, base: int, pattern: Sequence[int]) -> Steps:
        done = base
        for length in pattern:
            (rows,) = self._slots.evaluate(Part(0, self._text[done : done + length]))
            done += length
            self._compare(rows[0], self._rows[done - 1])
            yield
        self._compare_cells(0, base, done)

    def _mixed(self, size: int) -> Steps:
        """`size - 1` sequences decode one token each beside a piece of the other text."""
        long, other, *more = self._lanes
        decoding = [long, *more[: size - 2]]
        for slot, lane in enumerate([other, *decoding]):
            self._slots.restore(slot, lane.saved)
        piece = min(OTHER_PIECE, self._slots.batch_tokens - len(decoding))
        parts = [Part(slot, [lane.tokens[0]]) for slot, lane in enumerate(decoding, 1)]
        *found, last = self._slots.evaluate(*parts, Part(0, other.tokens[:piece]))
        for lane, rows in zip(decoding, found, strict=True):
            self._compare(rows[0], lane.rows[0])
        self._compare(last[0], other.rows[piece - 1])
        yield
        for slot, lane, step in [(0, other, piece), *((slot, lane, 1) for slot, lane in enumerate(decoding, 1))]:
            self._compare(self._slots.evaluate(Part(slot, [lane.tokens[step]]))[0][0], lane.rows[step])
            yield
        self._compare_cells(1, FAR, FAR + 2)

    def _rewind(self) -> Steps:
        """A wrong draft is dropped, and right tokens are dropped and come again."""
        kept, end = NEAR + 2, NEAR + STEPS
        self._slots.restore(0, self._saved[NEAR])
        yield from self._one_by_one(0, NEAR, end)
        self._slots.cut(0, kept)
        self._slots.evaluate(Part(0, self._text[end : kept - 1 : -1], all_logits=True))
        yield
        self._slots.cut(0, kept)
        yield from self._one_by_one(0, kept, end)
        self._compare_cells(0, NEAR, end)

    def _neighbour(self) -> Steps:
        """The same with another sequence that comes, goes and comes back in between."""
        other, size = self._lanes[1], min(OTHER_PIECE, self._chunk)
        self._slots.restore(0, self._saved[NEAR])
        self._slots.restore(1, other.saved)
        for base in range(NEAR, NEAR + STEPS, 2):
            yield from self._one_by_one(0, base, base + 2)
            self._slots.cut(0, base)
            self._slots.cut(1)
            yield from self._one_by_one(0, base, base + 2)
            self._slots.evaluate(Part(1, self._other[:size]))
            yield
        self._compare_cells(0, NEAR, NEAR + STEPS)

    def _threads(self, threads: int) -> Steps:
        """One by one where attention may be cut up, and a whole chunk."""
        chunk, found = self._text[: self._chunk], []
        for number in (self._slots.settings.threads, threads):
            self._slots.set_threads(number)
            self._slots.cut(0)
            found.append(self._slots.evaluate(Part(0, chunk))[0][0])
            yield
        self._compare(*found)
        for base in (SHORT, NEAR, FAR):
            self._slots.restore(0, self._saved[base])
            yield from self._one_by_one(0, base, base + STEPS)

    def _one_by_one(self, slot: int, first: int, end: int) -> Steps:
        for i in range(first, end):
            self._compare(self._slots.evaluate(Part(slot, [self._text[i]]))[0][0], self._rows[i])
            yield

    def _compare(self, found: FloatArray, wanted: FloatArray) -> None:
        if np.array_equal(found.view(np.uint32), wanted.view(np.uint32)):
            return
        difference = float(np.abs(found - wanted).max())
        self._seen = max(self._seen, TINY, difference if difference <= HUGE else HUGE)

    def _compare_cells(self, slot: int, first: int, end: int) -> None:
        """Cells `[first, end)` against the reference's, where the engine shows them: not those of sliding windows."""
        try:
            found, wanted = kv.parse(self._slots.save(slot).data), kv.parse(self._saved[END].data)
        except EngineError:
            return
        if kv.cut_block(found, first, end) != kv.cut_block(wanted, first, end):
            self._seen = max(self._seen, TINY)
