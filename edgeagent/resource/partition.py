"""Divides a model's layers between devices in a row, so that an answer is finished the soonest. Pure arithmetic.

A prompt goes through the stages chunk by chunk, and they (and the ways between them) work on different chunks at once:
after the first chunk the slowest sets the pace. Then each token of the answer goes through all of them in turn. So

    finish = what comes once + all parts' time for a chunk + (chunks - 1) · the slowest part's + steps · all parts' for
             one token

Sum and maximum cannot be traded off before the end, so the dynamic program keeps, for each device and each layer that
its stage may end at, every pair of them that no other one beats in both: none of those left out can become the best.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Device:
    """Seconds of one layer: of a chunk of the prompt, and of a step of the answer.

    `output_s`, a step's output head, and `first_s`, the first token once the prompt was read, are where the model ends;
    `wait_s` comes before all. It may run the layers from each of `tails` to the end of the model, and `most_between`
    layers that end before it: what its memory and the model allow.
    """

    chunk_s: float
    step_s: float
    output_s: float = 0.0
    first_s: float = 0.0
    wait_s: float = 0.0
    tails: Collection[int] = ()
    most_between: int = 0


@dataclass(frozen=True, slots=True)
class Way:
    """Seconds from one device to a later one: `once`, for a chunk, and for a step (there and back)."""

    once_s: float
    chunk_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """Devices in the order in which layers may go through them; ways between pairs of them, by their indexes.

    Stages end at some of `cuts`, the first device's at some of `heads`, or with the model, after `layers`.
    """

    devices: Sequence[Device]
    ways: Mapping[tuple[int, int], Way]
    layers: int
    cuts: Sequence[int]
    heads: Sequence[int]


@dataclass(frozen=True, slots=True)
class Load:
    """A prompt of so many chunks, and steps behind the first token of the answer."""

    chunks: int
    steps: int


@dataclass(frozen=True, slots=True)
class Part:
    """Layers `[begin, end)` on the device of that index."""

    device: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Seconds to the first token, and between two."""

    first_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class _Label:
    """`sum_s`: of all that only adds up. `worst_s`: the slowest part's for a chunk."""

    sum_s: float
    worst_s: float
    parts: tuple[Part, ...]

    def with_part(self, part: Part, once_s: float, chunk_s: float, step_s: float, load: Load) -> "_Label":
        added = once_s + chunk_s + load.steps * step_s
        return _Label(self.sum_s + added, max(self.worst_s, chunk_s), (*self.parts, part))

    def over(self, way: Way, load: Load) -> "_Label":
        added = way.once_s + way.chunk_s + load.steps * way.step_s
        return _Label(self.sum_s + added, max(self.worst_s, way.chunk_s), self.parts)

    def finish_s(self, load: Load) -> float:
        return self.sum_s + (load.chunks - 1) * self.worst_s


NOTHING = _Label(0.0, 0.0, ())


@dataclass(slots=True)
class _Program:
    row: Row
    load: Load
    through_all: bool
    best: _Label | None = None
    labels: dict[tuple[int, int], list[_Label]] = field(default_factory=dict)
    """By the last device of a row of stages, and the layer that they end at."""

    def run(self) -> tuple[Part, ...] | None:
        for index in range(len(self.row.devices)):
            for before, begin in self._reach(index):
                self._finish(before, index, begin)
                self._go_on(before, index, begin)
        return self.best.parts if self.best else None

    def _reach(self, index: int) -> list[tuple[_Label, int]]:
        """All ways to get to a device, and the layer that is its first then."""
        if index == 0:
            return [(NOTHING, 0)]
        return [
            (label.over(way, self.load), end)
            for (device, end), found in self.labels.items()
            if (way := self.row.ways.get((device, index))) and (device == index - 1 or not self.through_all)
            for label in found
        ]

    def _finish(self, before: _Label, index: int, begin: int) -> None:
        device, row = self.row.devices[index], self.row
        if begin not in device.tails or (self.through_all and index < len(row.devices) - 1):
            return
        num, part = row.layers - begin, Part(index, begin, row.layers)
        once_s, step_s = device.wait_s + device.first_s, num * device.step_s + device.output_s
        label = before.with_part(part, once_s, num * device.chunk_s, step_s, self.load)
        if self.best is None or label.finish_s(self.load) < self.best.finish_s(self.load):
            self.best = label

    def _go_on(self, before: _Label, index: int, begin: int) -> None:
        device = self.row.devices[index]
        for end in self.row.heads if index == 0 else self.row.cuts:
            num = end - begin
            if not 0 < num <= device.most_between:
                continue
            part = Part(index, begin, end)
            label = before.with_part(part, device.wait_s, num * device.chunk_s, num * device.step_s, self.load)
            _keep(self.labels.setdefault((index, end), []), label)


def _keep(labels: list[_Label], new: _Label) -> None:
    """Among those that no other one beats in both."""
    if any(old.sum_s <= new.sum_s and old.worst_s <= new.worst_s for old in labels):
        return
    labels[:] = [old for old in labels if old.sum_s < new.sum_s or old.worst_s < new.worst_s]
    labels.append(new)


def partition(row: Row, load: Load, *, through_all: bool = False) -> tuple[Part, ...] | None:
    """Who runs which layers, so that the answer is finished the soonest; None: nobody can end the model.

    A device that would slow it gets none, but `through_all` every one gets some.
    """
    return _Program(row, load, through_all).run()


def finish(row: Row, load: Load, parts: Sequence[Part]) -> Finish:
    """What the parts take together: see above."""
    once_s, step_s, chunks_s = 0.0, 0.0, list[float]()
    for i, part in enumerate(parts):
        device, num = row.devices[part.device], part.end - part.begin
        once_s, step_s = once_s + device.wait_s, step_s + num * device.step_s
        chunks_s.append(num * device.chunk_s)
        if i:
            way = row.ways[parts[i - 1].device, part.device]
            once_s, step_s = once_s + way.once_s, step_s + way.step_s
            chunks_s.append(way.chunk_s)
    last = row.devices[parts[-1].device]
    first_s = once_s + last.first_s + sum(chunks_s) + (load.chunks - 1) * max(chunks_s)
    return Finish(first_s, step_s + last.output_s)
