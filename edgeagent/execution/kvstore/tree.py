"""Which cells are known: a radix tree of symbols a key, whose nodes refer to ranges of blocks. Decides only; no I/O.

A *symbol* is what identifies a cell given all cells before it, a *path* the symbols from position 0 on. Two paths that
part in the middle of a block split the node there, not the block: both halves go on referring to it.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Path: TypeAlias = "array[int]"
"""Symbols as signed 64-bit numbers (type code `q`)."""


def as_path(symbols: Iterable[int]) -> Path:
    """Raises OverflowError for a symbol that is no signed 64-bit number."""
    return array("q", symbols)


@dataclass(slots=True, eq=False)
class Block:
    """The rows of cells `[first, first + num_cells)` of one path, plane after plane, wherever they are kept."""

    key: str
    first: int
    num_cells: int
    planes: tuple[int, ...]
    """Bytes of one row of each plane."""
    used_at: float
    memory: int | None = None
    """The descriptor of its copy in memory."""
    name: str | None = None
    """The name of its file."""
    file_bytes: int = 0
    is_verified: bool = False
    """This process has read the file once and found it whole."""
    is_gathered: bool = False
    """As long as it was worth making it when it was last looked at."""
    nodes: list["Node"] = field(default_factory=list)

    @property
    def cell_bytes(self) -> int:
        return sum(self.planes)

    @property
    def num_bytes(self) -> int:
        return self.num_cells * self.cell_bytes

    @property
    def top(self) -> "Node":
        return min(self.nodes, key=lambda node: node.first)

    @property
    def age(self) -> tuple[float, int]:
        """Sorts longest unused first, and whatever hangs off a block before the block."""
        return self.used_at, -self.top.first

    def touch(self, now: float) -> None:
        self.used_at = max(self.used_at, now)


@dataclass(slots=True, eq=False)
class Node:
    """Cells `[first, first + len(symbols))` of a path: those from `skip` on of its block."""

    first: int
    symbols: Path
    block: Block
    skip: int
    parent: "Node | None"
    children: dict[int, "Node"] = field(default_factory=dict)

    @property
    def num_cells(self) -> int:
        return len(self.symbols)

    @property
    def only_child(self) -> "Node | None":
        return next(iter(self.children.values())) if len(self.children) == 1 else None


@dataclass(frozen=True, slots=True)
class Step:
    """The first `take` cells of a node."""

    node: Node
    take: int


@dataclass(frozen=True, slots=True)
class Run:
    """Cells `[skip, skip + take)` of a block."""

    block: Block
    skip: int
    take: int


class Tree:
    """All known paths of one key."""

    def __init__(self, key: str, planes: tuple[int, ...]) -> None:
        self.planes = planes
        self.root = Node(0, as_path(()), Block(key, 0, 0, planes, 0.0), 0, None)

    def walk(self, path: Path) -> list[Step]:
        """The nodes that follow `path` from its start, as far as it is known; only the last may be taken in part."""
        steps: list[Step] = []
        node, position = self.root, 0
        while position < len(path) and (child := node.children.get(path[position])):
            take = _num_common(child.symbols, path, position)
            steps.append(Step(child, take))
            position += take
            if take < child.num_cells:
                break
            node = child
        return steps

    def insert(self, path: Path, block: Block) -> bool:
        """Let `block` stand for what `path` adds to what is known; False where it adds nothing, or leaves a gap."""
        steps = self.walk(path)
        known = sum(step.take for step in steps)
        if known < block.first or known == len(path):
            return False
        for step in steps:
            step.node.block.touch(block.used_at)
        parent = self.root
        if steps:
            parent = steps[-1].node
            split(parent, steps[-1].take)
        node = Node(known, path[known:], block, known - block.first, parent)
        parent.children[path[known]] = node
        block.nodes.append(node)
        return True

    def rebase(self, path: Path, block: Block) -> set[Block]:
        """Let `block` stand for its cells of `path` instead of the blocks that do; those left without use."""
        end = block.first + block.num_cells
        freed: set[Block] = set()
        moved = [s.node for s in self.walk(path) if s.node.first >= block.first and s.node.first + s.take <= end]
        for node in moved:
            if node.first + node.num_cells > end:
                break
            block.used_at = max(block.used_at, node.block.used_at)
            freed |= _leave_block(node)
            node.block, node.skip = block, node.first - block.first
            block.nodes.append(node)
        for node in reversed(moved):
            _fuse(node)
        return freed


def split(node: Node, at: int) -> None:
    """Cut a node after its first `at` cells; its block stays whole. Nothing to do at its end."""
    if at >= node.num_cells:
        return
    lower = Node(node.first + at, node.symbols[at:], node.block, node.skip + at, node, node.children)
    for child in lower.children.values():
        child.parent = lower
    node.symbols = node.symbols[:at]
    node.children = {lower.symbols[0]: lower}
    node.block.nodes.append(lower)


def cut(node: Node) -> set[Block]:
    """Forget a node and all that follows it; the blocks that are left without use."""
    parent = node.parent
    assert parent is not None, "the root stays"
    del parent.children[node.symbols[0]]
    freed: set[Block] = set()
    below = [node]
    while below:
        gone = below.pop()
        gone.parent = None
        below.extend(gone.children.values())
        freed |= _leave_block(gone)
    _fuse(parent)
    return freed


def path_to(node: Node) -> Path:
    """The symbols from position 0 to the node's end."""
    parts: list[Path] = []
    above: Node | None = node
    while above is not None:
        parts.append(above.symbols)
        above = above.parent
    whole = as_path(())
    for part in reversed(parts):
        whole.extend(part)
    return whole


def runs(steps: Sequence[Step]) -> list[Run]:
    """The same cells as ranges of blocks; neighbours in one block are one range."""
    found: list[Run] = []
    for step in steps:
        last = found[-1] if found else None
        if last and last.block is step.node.block and last.skip + last.take == step.node.skip:
            found[-1] = Run(last.block, last.skip, last.take + step.take)
        else:
            found.append(Run(step.node.block, step.node.skip, step.take))
    return found


def _leave_block(node: Node) -> set[Block]:
    node.block.nodes.remove(node)
    return set() if node.block.nodes else {node.block}


def _fuse(node: Node) -> None:
    """Undo a split that no longer parts anything."""
    child = node.only_child
    if child is None or child.block is not node.block or child.skip != node.skip + node.num_cells:
        return
    node.symbols = node.symbols + child.symbols
    node.children = child.children
    for grandchild in node.children.values():
        grandchild.parent = node
    child.block.nodes.remove(child)


def _num_common(symbols: Path, path: Path, start: int) -> int:
    """How many of `symbols` `path` has from `start` on."""
    high = min(len(symbols), len(path) - start)
    if symbols[:high] == path[start : start + high]:
        return high
    low = 0
    while high - low > 1:  # the first `low` agree, the first `high` do not
        middle = (low + high) // 2
        if symbols[low:middle] == path[start + low : start + middle]:
            low = middle
        else:
            high = middle
    return low
