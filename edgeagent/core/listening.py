"""From probabilities to events: where speech begins and ends, and when a wake word was heard. Pure."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from edgeagent.core.perception import SpeechSegment, WakeWord


@dataclass(frozen=True, slots=True)
class SpeechLimits:
    """The defaults of `get_speech_timestamps` in github.com/snakers4/silero-vad (`utils_vad.py`)."""

    begins_at: float = 0.5
    ends_below: float = 0.35
    """Lower, so that a doubtful chunk does not end a sentence."""
    min_speech_s: float = 0.25
    min_silence_s: float = 0.1
    pad_s: float = 0.03


@dataclass(slots=True)
class SpeechFinder:
    """Chunks of `chunk_s` in, segments out; `finish` gives one that was still open."""

    chunk_s: float
    limits: SpeechLimits = SpeechLimits()
    _count: int = 0
    _start: int | None = None
    _silence: int | None = None
    """First chunk of the silence that may end the open segment."""
    _heard: list[float] = field(default_factory=list)

    def feed(self, probabilities: Iterable[float]) -> Iterator[SpeechSegment]:
        for probability in probabilities:
            yield from self._step(probability)
            self._count += 1

    def finish(self) -> Iterator[SpeechSegment]:
        if self._start is not None:
            yield from self._close(self._count if self._silence is None else self._silence)

    def _step(self, probability: float) -> Iterator[SpeechSegment]:
        if self._start is None:
            if probability >= self.limits.begins_at:
                self._start, self._silence, self._heard = self._count, None, [probability]
            return
        self._heard.append(probability)
        if probability >= self.limits.begins_at:
            self._silence = None
        elif probability < self.limits.ends_below and self._silence is None:
            self._silence = self._count
        if self._silence is not None and (self._count + 1 - self._silence) * self.chunk_s >= self.limits.min_silence_s:
            yield from self._close(self._silence)

    def _close(self, end: int) -> Iterator[SpeechSegment]:
        assert self._start is not None
        start, heard = self._start, self._heard[: end - self._start]
        self._start = self._silence = None
        if (end - start) * self.chunk_s < self.limits.min_speech_s:
            return
        pad, total_s = self.limits.pad_s, max(self._count, end) * self.chunk_s
        yield SpeechSegment(
            start_s=round(max(0.0, start * self.chunk_s - pad), 3),
            end_s=round(min(total_s, end * self.chunk_s + pad), 3),
            probability=round(sum(heard) / len(heard), 4),
        )


REFRACTORY_S = 2.0
"""A phrase is not heard twice within it (`pymicro-wakeword` 1.0.0)."""


@dataclass(slots=True)
class WakeFinder:
    """One probability a stride in; an event where the mean of the last `window` is over `cutoff`."""

    phrase: str
    cutoff: float
    window: int
    first_s: float
    """When the first probability is there."""
    stride_s: float
    _count: int = 0
    _quiet_until_s: float = 0.0
    _last: deque[float] = field(default_factory=deque)

    def feed(self, probabilities: Iterable[float]) -> Iterator[WakeWord]:
        for probability in probabilities:
            at_s = self.first_s + self._count * self.stride_s
            self._count += 1
            self._last.append(probability)
            if len(self._last) > self.window:
                self._last.popleft()
            mean = sum(self._last) / self.window
            if len(self._last) == self.window and mean > self.cutoff and at_s >= self._quiet_until_s:
                self._quiet_until_s = at_s + REFRACTORY_S
                yield WakeWord(phrase=self.phrase, at_s=round(at_s, 3), probability=round(mean, 4))
