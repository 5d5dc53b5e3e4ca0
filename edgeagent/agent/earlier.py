"""Remembers what was recalled for each question, so that the question reads the same when it comes back as history."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from edgeagent.core.chat import Message
from edgeagent.core.memory import MemoryItem

MAX_TURNS = 1024
"""At five memories a turn, a few megabytes at most in practice."""


class EarlierTurns:
    """The memories of the newest questions, in this process's memory; a restart forgets them.

    A client sends the conversation without what was put into its prompts. Left out, the prompt of every turn would
    differ from the last one at the previous question, and that question and its answer would be read again: some
    hundred tokens. Kept where they stood, the memories cost their own few tokens, once. So they are kept.

    What a tool of this machine returned is not: its answer is short, and a time or a sum is stale by the next turn.
    Lines that `layout` moved are not either: the client has sent newer ones.
    """

    def __init__(self, *, max_turns: int = MAX_TURNS) -> None:
        self._max_turns = max_turns
        self._turns: OrderedDict[bytes, tuple[MemoryItem, ...]] = OrderedDict()

    def keep(self, user: str, messages: Sequence[Message], memories: Sequence[MemoryItem]) -> None:
        """`memories` stand in front of the newest question of `messages`."""
        *_, (_, key) = [(-1, b""), *_keys(user, messages)]
        self._turns.pop(key, None)
        if key and memories:
            self._turns[key] = tuple(memories)
        while len(self._turns) > self._max_turns:
            self._turns.popitem(last=False)

    def of(self, user: str, messages: Sequence[Message]) -> Mapping[int, tuple[MemoryItem, ...]]:
        """By the number of the user's message (from 0): what was recalled for it. The newest one is not among them."""
        earlier = list(_keys(user, messages))[:-1]
        for _, key in earlier:
            if key in self._turns:
                self._turns.move_to_end(key)
        return {number: self._turns[key] for number, key in earlier if key in self._turns}


def _keys(user: str, messages: Sequence[Message]) -> Iterator[tuple[int, bytes]]:
    """The number of each of the user's messages, and a hash of the conversation up to it, instructions apart."""
    told = hashlib.blake2b(user.encode(), digest_size=16)
    number = 0
    for message in messages:
        if message.role == "system":
            continue
        content = message.content.encode(errors="replace")
        told.update(f"|{message.role}:{len(content)}:".encode() + content)
        if message.role == "user":
            yield number, told.digest()
            number += 1
