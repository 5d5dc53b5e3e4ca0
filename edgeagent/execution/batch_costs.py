"""What a batch of several tokens costs against one token, learned from the batches that are evaluated anyway."""

from collections import deque
from statistics import median

NEWEST_STEPS = 15
"""Single steps whose median is the time of one."""
LEAST_STEPS = 8
"""Single steps before anything is compared with them."""
NEWEST_BATCHES = 5
"""Batches of a size whose median counts."""
STEPS_TO_FORGET = 256
"""After so many single steps each size loses its oldest batch, so that a size that once was slow is tried again."""
BELIEVED = 3
"""Batches of a size from which on they are believed without the line through all sizes."""
LEAST_ROW = 0.05
"""Steps a row costs at least: a batch timed as if its rows were free was timed wrongly."""
DOUBT = 1.5
"""How much more than expected a size costs at worst before it was seen."""
ALL_LOGITS = 1.25
"""Logits of every row cost more than those of a prompt chunk's last (the output head has 28 of SmolLM2-135M's 135
million parameters)."""


class BatchCosts:
    """Times of one engine with one set of weights. `ratio(n)` is in single steps, from 1 to n.

    Until batches of drafts were seen, their cost is read off the prompt's chunks, and before those nothing is
    promised: n rows cost n steps. What a machine does with small batches differs widely: 4 rows of SmolLM2 Q4_1 on
    one thread took 1.4 steps on one x86 machine and 3.4 on another.
    """

    def __init__(self) -> None:
        self._singles: deque[float] = deque(maxlen=NEWEST_STEPS)
        self._batches: dict[int, deque[float]] = {}
        self._chunk: tuple[int, float] | None = None
        self._num_singles = 0
        self.step_s: float | None = None
        """Seconds of one token; None before enough were seen."""

    def observe_chunk(self, rows: int, seconds: float) -> None:
        """A batch of the prompt, with the logits of one row."""
        if rows > 1:
            self._chunk = rows, seconds

    def observe(self, rows: int, seconds: float) -> None:
        """A batch with the logits of all its rows."""
        if rows == 1:
            self._singles.append(seconds)
            self._num_singles += 1
            if self._num_singles >= LEAST_STEPS:
                self.step_s = median(self._singles)
            if self._num_singles % STEPS_TO_FORGET == 0:
                self._forget()
        elif self.step_s:
            self._batches.setdefault(rows, deque(maxlen=NEWEST_BATCHES)).append(self.in_steps(rows, seconds))

    def in_steps(self, rows: int, seconds: float) -> float:
        """`seconds` of a batch in single steps; one that took longer than its tokens one by one was disturbed."""
        least = 1 + (rows - 1) * LEAST_ROW
        return min(max(seconds / self.step_s, least), float(rows)) if self.step_s else float(rows)

    def ratio(self, rows: int) -> float:
        """Expected cost of a batch of `rows` in single steps."""
        seen = self._batches.get(rows)
        return median(seen) if seen else self._on_line(rows)

    def worst(self, rows: int) -> float:
        """Cost to reckon with before risking a batch: a high one of those seen; few of them are not believed alone."""
        seen = sorted(self._batches.get(rows, ()))
        if not seen:
            return self._on_line(rows, DOUBT)
        return seen[-2] if len(seen) >= BELIEVED else max(seen[-1], self._on_line(rows))

    def _on_line(self, rows: int, doubt: float = 1.0) -> float:
        return min(1 + (rows - 1) * self._slope() * doubt, float(rows))

    def _slope(self) -> float:
        """Steps that one row more costs, over all sizes seen: the large ones, whose times say most, weigh most."""
        if not self.step_s:
            return 1.0
        extra = {rows: median(seen) - 1 for rows, seen in self._batches.items()}
        if self._chunk:
            rows, seconds = self._chunk
            extra[rows] = ALL_LOGITS * (self.in_steps(rows, seconds) - 1)
        return sum(extra.values()) / sum(rows - 1 for rows in extra) if extra else 1.0

    def _forget(self) -> None:
        for seen in self._batches.values():
            seen.popleft()
        self._batches = {rows: seen for rows, seen in self._batches.items() if seen}
