"""What readers of small notations share: a text, and the place that was reached in it."""

from edgeagent.core.errors import RequestError


class Scanner:
    """Subclasses say in `_error` which text could not be read, and what to do."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def _peek(self) -> str:
        """The next character; empty at the end."""
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        """The next character, which is then behind us. Raises RequestError at the end."""
        char = self._peek()
        if not char:
            raise self._error("it ends too early")
        self._at += 1
        return char

    def _error(self, what: str) -> RequestError:
        raise NotImplementedError
