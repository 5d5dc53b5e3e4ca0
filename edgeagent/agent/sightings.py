"""Since when this process has seen all of a conversation: what was said before something was forgotten may hold it.

Clients send the whole conversation each time, and no name of it. So what is known is the text: what a request answers
must be, word for word, what an earlier request and its answer here were.
"""

from collections import OrderedDict
from collections.abc import Sequence

from edgeagent.agent.rolling import key_of
from edgeagent.core.chat import Message

MAX_SIGHTINGS = 1024
"""The newest. One that is lost, and all after a restart, are conversations that nobody knows of."""


class Sightings:
    """`begun` as a request comes, before anything is recalled for it; `answered` once it has its answer."""

    def __init__(self) -> None:
        self._since: OrderedDict[tuple[str, bytes], int] = OrderedDict()

    def begun(self, user: str, messages: Sequence[Message], num_forgettings: int) -> int | None:
        """How often the user had had something forgotten when the conversation began; None: nobody knows.

        A request without an answer before it begins a conversation now.
        """
        last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=None)
        return num_forgettings if last is None else self._since.get((user, _key(messages[: last + 1])))

    def answered(self, user: str, messages: Sequence[Message], answer: str, since: int | None) -> None:
        """What `begun` said of these messages holds for the answer behind them, too."""
        if since is None:
            return
        key = user, _key([*messages, Message(role="assistant", content=answer)])
        self._since[key] = since
        self._since.move_to_end(key)
        while len(self._since) > MAX_SIGHTINGS:
            self._since.popitem(last=False)


def _key(messages: Sequence[Message]) -> bytes:
    """Of the words: clients strip answers."""
    return key_of([m.model_copy(update={"content": " ".join(m.content.split())}) for m in messages])
