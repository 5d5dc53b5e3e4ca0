"""Token bytes to text: whole characters only, and nothing of a stop string. Pure."""

import codecs
from collections.abc import Sequence


class TextStream:
    """Feed it pieces in order; it returns what may be shown. `is_stopped` once a stop string was completed.

    The stop string that is completed first counts, and the longest of those that end there: what is shown does not
    depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.is_stopped = False
        self.shown = ""

    @property
    def text(self) -> str:
        """All whole characters so far, also those held back."""
        return self.shown + self._held

    def feed(self, piece: bytes) -> str:
        """The text that is certain now; the start of a possible stop string is held back."""
        if self.is_stopped:
            return ""
        self._held += self._decoder.decode(piece)
        if (cut := self._first_stop()) is not None:
            self.is_stopped = True
            return self._show(cut)
        return self._show(len(self._held) - self._possible_stop())

    def drop_part(self) -> None:
        """Forget the bytes of a character that was not finished."""
        self._decoder.reset()

    def flush(self) -> str:
        """What is left at the end of the answer."""
        if self.is_stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._show(len(self._held))

    def _show(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        self.shown += text
        return text

    def _first_stop(self) -> int | None:
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(found, default=(0, None))[1]

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if stop.startswith(self._held[-length:]):
                    longest = length
                    break
        return longest
