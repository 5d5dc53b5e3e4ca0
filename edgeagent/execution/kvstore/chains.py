"""Which neighbouring nodes become one block. Decides only.

Workers hand over few cells at a time. Cells that nothing parts from each other are gathered into blocks of up to
MAX_CELLS; a shorter block before them joins in when it is no longer than what follows it, as digits carry in a binary
counter: so a cell is copied a number of times that grows with the logarithm of the block's length only.
"""

from collections.abc import Callable

from edgeagent.execution.kvstore.tree import Block, Node, Tree, split

MAX_CELLS = 512
MAX_BYTES = 16 * 2**20


def max_cells(cell_bytes: int) -> int:
    """Cells of a full block."""
    return max(1, min(MAX_CELLS, MAX_BYTES // cell_bytes))


def chains(tree: Tree, is_fresh: Callable[[Block], bool], may_join: Callable[[Block], bool]) -> list[list[Node]]:
    """Chains of nodes to be gathered: all of fresh blocks, some of blocks that `may_join`. Too long nodes are split.

    The most recently used first, and each before those that continue it.
    """
    limit = max_cells(sum(tree.planes))
    found: list[list[Node]] = []
    below = list(tree.root.children.values())
    while below:
        node = below.pop()
        if is_fresh(node.block):
            split(node, limit)
            chain = _grown(node, is_fresh, limit)
            node = chain[-1]
            found.append(_joined(chain, lambda block: may_join(block) and not is_fresh(block), limit))
        below.extend(node.children.values())
    return sorted(found, key=lambda chain: (-chain[0].block.used_at, chain[0].first))


def _grown(node: Node, is_fresh: Callable[[Block], bool], limit: int) -> list[Node]:
    chain, total = [node], node.num_cells
    while (child := chain[-1].only_child) and is_fresh(child.block) and total + child.num_cells <= limit:
        chain.append(child)
        total += child.num_cells
    return chain


def _joined(chain: list[Node], may_join: Callable[[Block], bool], limit: int) -> list[Node]:
    total = sum(node.num_cells for node in chain)
    while (above := chain[0].parent) and above.only_child is chain[0] and _is_all_of_its_block(above):
        if not may_join(above.block) or above.num_cells > min(total, limit - total):
            break
        chain = [above, *chain]
        total += above.num_cells
    return chain


def _is_all_of_its_block(node: Node) -> bool:
    return 0 < node.num_cells == node.block.num_cells
