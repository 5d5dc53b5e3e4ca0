"""Which tokens belong to the text that was shown: a stop string takes back those that only it is made of. Pure."""

from collections import deque

from edgeagent.core.generation import TokenStep


class ShownTokens:
    """Tokens wait here until a character of theirs is shown."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenStep]] = deque()
        self.num_lacking = 0
        """Tokens that came without a log-probability."""

    def add(self, step: TokenStep, begin: int) -> None:
        """`begin`: how many characters of the answer are whole without this token."""
        if step.logprob is None:
            self.num_lacking += 1
        else:
            self._waiting.append((begin, step))

    def take(self, num_shown: int) -> tuple[TokenStep, ...]:
        """The tokens that begin within the first `num_shown` characters, each once."""
        taken: list[TokenStep] = []
        while self._waiting and self._waiting[0][0] < num_shown:
            taken.append(self._waiting.popleft()[1])
        return tuple(taken)
