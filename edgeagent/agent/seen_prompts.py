"""Learns which lines of a client's instructions change, from what the same user sent before.

Only hashes of lines are kept, in this process's memory, and only of the newest texts.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeagent.agent.layout import Layout, is_worth_it, laid_out
from edgeagent.agent.prompt_rows import Row, read_rows

MAX_TEXTS = 64
MAX_LINES = 50_000
"""Lines kept of all texts together: about 10 MB at most."""
SAME_TEXT_PART = 0.5
"""Two texts with at least this part of their lines in common are versions of one."""
MAX_CHANGING_PART = 0.4
"""Of a text's characters; beyond it the lines that changed longest ago count as settled again."""

Identity = tuple[str, ...]


@dataclass(slots=True)
class _Text:
    """One client's instructions over time, as hashes."""

    lines: frozenset[int]
    values: dict[int, int]
    changed_at: dict[int, int] = field(default_factory=dict)
    """Identity to the number of the version in which it changed last."""
    num_versions: int = 1


class SeenPrompts:
    """Bounded: the text that was used longest ago goes first."""

    def __init__(self, *, max_texts: int = MAX_TEXTS, max_lines: int = MAX_LINES) -> None:
        self._max_texts = max_texts
        self._max_lines = max_lines
        self._texts: OrderedDict[int, tuple[str, _Text]] = OrderedDict()
        self._num_made = 0

    def arrange(self, user: str, system: str) -> Layout:
        """The layout of `user`'s instructions, after learning from how they differ from the last ones like them.

        A line that changed once stays behind from then on, so that what comes first stays the same.
        """
        if not is_worth_it(system):
            return Layout(system)
        rows = read_rows(system)
        changing = self._learned(user, rows)
        return laid_out(system, rows, {row.identity for row in rows if row.identity and hash(row.identity) in changing})

    def _learned(self, user: str, rows: Sequence[Row]) -> set[int]:
        lines = frozenset(hash(row.text) for row in rows if row.text.strip())
        values = {hash(row.identity): hash(row.text) for row in rows if row.identity}
        text = self._same(user, lines)
        if text is None:
            self._keep(user, _Text(lines, values))
            return set()
        text.num_versions += 1
        for identity, value in values.items():
            if text.values.get(identity, value) != value:
                text.changed_at[identity] = text.num_versions
        text.lines, text.values = lines, text.values | values if len(text.values) < 2 * len(values) else values
        _settle(text, rows)
        self._shrink()
        return set(text.changed_at)

    def _same(self, user: str, lines: frozenset[int]) -> _Text | None:
        """The known text of this user that has most in common; it becomes the newest."""
        best, most = None, 0.0
        for number, (owner, text) in self._texts.items():
            if owner == user:
                common = len(lines & text.lines) / max(len(lines), len(text.lines), 1)
                if common >= SAME_TEXT_PART and common > most:
                    best, most = number, common
        if best is None:
            return None
        self._texts.move_to_end(best)
        return self._texts[best][1]

    def _keep(self, user: str, text: _Text) -> None:
        self._num_made += 1
        self._texts[self._num_made] = (user, text)
        self._shrink()

    def _shrink(self) -> None:
        while self._texts and (len(self._texts) > self._max_texts or self._num_lines() > self._max_lines):
            self._texts.popitem(last=False)

    def _num_lines(self) -> int:
        return sum(len(text.lines) + len(text.values) for _, text in self._texts.values())


def _settle(text: _Text, rows: Sequence[Row]) -> None:
    """Forget the oldest changes while too much of the text counts as changing."""
    lengths = {hash(row.identity): len(row.text) for row in rows if row.identity}
    room = MAX_CHANGING_PART * sum(len(row.text) for row in rows)
    newest_first = sorted(text.changed_at.items(), key=lambda item: -item[1])
    kept: dict[int, int] = {}
    for identity, version in newest_first:
        room -= lengths.get(identity, 0)
        if room >= 0:
            kept[identity] = version
    text.changed_at = kept
