"""Judges a text by a language: is it a word, the start of one, and which shortest text completes it?

A set of stacks of what is still to come, as llama.cpp's own grammar sampler keeps, moved on by one character.
"""

from collections.abc import Iterable, Mapping

from edgeagent.agent.language.tree import Chain, Chars, Choice, Node, Repeat, Rule
from edgeagent.core.errors import RequestError

MAX_STACKS = 4096
"""Ways to read one text at once; an ambiguous grammar has many."""
MAX_COMPLETION_CHARS = 2**16
"""A completion beyond this counts as none."""
_REPRESENTATIVES = " a0-_A"
"""Characters tried first where any of a class will do."""


class _Stack:
    """A node with how much of it is done, and what comes after it. One object for one stack."""

    __slots__ = ("count", "node", "rest")

    def __init__(self, node: Node, count: int, rest: "_Stack | None") -> None:
        self.node = node
        self.count = count
        self.rest = rest


class Machine:
    """A language with its rules, and how far a text has been read. Raises RequestError for an undefined rule."""

    def __init__(self, root: Node, rules: Mapping[str, Node] | None = None) -> None:
        self._rules = rules or {}
        self._interned: dict[tuple[int, int, int], _Stack] = {}
        self._shortest: dict[str, str] = {}
        self._ready = self._expanded([self._stack(root, 0, None)])

    @property
    def is_word(self) -> bool:
        """Whether what was read is complete."""
        return None in self._ready

    @property
    def is_alive(self) -> bool:
        """Whether anything can still complete what was read."""
        return bool(self._ready)

    def read(self, text: str) -> "Machine":
        for char in text:
            after = [s.rest for s in self._ready if s and isinstance(s.node, Chars) and char in s.node]
            self._ready = self._expanded(after)
            if not self._ready:
                break
        return self

    def completion(self) -> str | None:
        """The shortest text that makes what was read a word; None when nothing does."""
        self._find_shortest()
        found = [text for stack in self._ready if (text := self._rest_of(stack)) is not None]
        return min(found, key=lambda text: (len(text), text), default=None)

    def _stack(self, node: Node, count: int, rest: _Stack | None) -> _Stack:
        key = (id(node), count, id(rest))
        found = self._interned.get(key)
        if found is None:
            found = self._interned[key] = _Stack(node, count, rest)
        return found

    def _expanded(self, stacks: Iterable[_Stack | None]) -> list[_Stack | None]:
        """Those stacks with a character on top that these can become; None stands for the end of a word."""
        todo, seen, ready = list(stacks), set[_Stack | None](), list[_Stack | None]()
        while todo:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            if len(seen) > MAX_STACKS:
                raise RequestError("the grammar can be read in too many ways at once; make it less ambiguous")
            if stack is None or isinstance(stack.node, Chars):
                ready.append(stack)
            else:
                todo += self._next(stack)
        return ready

    def _next(self, stack: _Stack) -> list[_Stack | None]:
        node, count, rest = stack.node, stack.count, stack.rest
        match node:
            case Chain(parts) if count == len(parts):
                return [rest]
            case Chain(parts):
                after = rest if count + 1 == len(parts) else self._stack(node, count + 1, rest)
                return [self._stack(parts[count], 0, after)]
            case Choice(options):
                return [self._stack(option, 0, rest) for option in options]
            case Repeat(inner, least, most):
                done = min(count + 1, least) if most is None else count + 1
                more = [] if count == most else [self._stack(inner, 0, self._stack(node, done, rest))]
                return [*more, *([rest] if count >= least else [])]
            case Rule(name) if name in self._rules:
                return [self._stack(self._rules[name], 0, rest)]
            case _:
                raise RequestError(f"the grammar has no rule for {node}; define it")

    def _find_shortest(self) -> None:
        """The shortest word of each rule that has one, by trying until nothing gets shorter."""
        is_better = not self._shortest
        while is_better:
            is_better = False
            for name, node in self._rules.items():
                text = self._word(node)
                if text is not None and len(text) < len(self._shortest.get(name, text + " ")):
                    self._shortest[name], is_better = text, True

    def _word(self, node: Node) -> str | None:
        """A shortest word of a node, as far as the rules' are known."""
        match node:
            case Chars():
                return _representative(node)
            case Chain(parts):
                return _joined(self._word(part) for part in parts)
            case Choice(options):
                found = [text for option in options if (text := self._word(option)) is not None]
                return min(found, key=len, default=None)
            case Repeat(inner, least, _):
                return _times(self._word(inner), least)
            case Rule(name):
                return self._shortest.get(name)

    def _rest_of(self, stack: _Stack | None) -> str | None:
        texts: list[str | None] = []
        while stack is not None:
            match stack.node:
                case Chain(parts):
                    texts += [self._word(part) for part in parts[stack.count :]]
                case Repeat(inner, least, _):
                    texts.append(_times(self._word(inner), max(least - stack.count, 0)))
                case node:
                    texts.append(self._word(node))
            stack = stack.rest
        return _joined(texts)


def _representative(chars: Chars) -> str | None:
    if not chars.ranges:
        return None
    return next((c for c in _REPRESENTATIVES if c in chars), chr(chars.ranges[0][0]))


def _times(text: str | None, count: int) -> str | None:
    if count == 0:
        return ""
    if text is None:
        return None
    return text * count if len(text) * count <= MAX_COMPLETION_CHARS else None


def _joined(texts: Iterable[str | None]) -> str | None:
    found: list[str] = []
    for text in texts:
        if text is None:
            return None
        found.append(text)
    return "".join(found) if sum(map(len, found)) <= MAX_COMPLETION_CHARS else None
