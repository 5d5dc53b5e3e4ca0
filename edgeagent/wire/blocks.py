"""Putting blocks together: fragments are acknowledged by bitmaps, and every block is checked against its digest.

No I/O, no clock. `sending` has the other end, which numbers fragments in the order it first sends them.
"""

from edgeagent.core.errors import WireError
from edgeagent.wire.frames import FRAGMENT_DATA_BYTES, Fragment, block_digest
from edgeagent.wire.messages import MAX_BLOCKS, Ack

ACK_EVERY = 2
"""Fragments of full size in order; all others are acknowledged one by one."""
MAX_AHEAD = 256
"""Fragments a sender may be ahead of the first missing one; the bitmap of an `Ack` holds as many bits."""


class BlockReceiver:
    """Puts fragments together. `expected` maps a block's index to its exact size; nothing else is taken."""

    def __init__(self, expected: dict[int, int]) -> None:
        self._expected: dict[int, int] = {}
        self._parts: dict[int, dict[int, bytes]] = {}
        self._done: set[int] = set()
        self._numbers: set[int] = set()
        self._base = 0
        self._since_ack = 0
        self.blocks: dict[int, bytes] = {}
        self.num_bytes = 0
        self.num_arrived_bytes = 0
        """With those of blocks that are not whole yet."""
        self.expect(expected)

    def expect(self, sizes: dict[int, int]) -> None:
        """Further blocks. Raises WireError when too many are owed."""
        if len(self._expected) + len(sizes) > MAX_BLOCKS:
            raise WireError(f"more than {MAX_BLOCKS} blocks are owed")
        self._expected |= sizes

    def pop(self, index: int) -> bytes:
        """A block that is here; from now on it is not expected any more."""
        self._done.add(index)
        del self._expected[index]
        return self.blocks.pop(index)

    def take(self, number: int, fragment: Fragment) -> int | None:
        """The index of the block this fragment completes, if any. A repeated fragment is counted once."""
        if fragment.block in self._done:
            self._count(number, fragment)  # it came again
            return None
        size = self._expected.get(fragment.block)
        if size is None or size != fragment.block_bytes:
            raise WireError(f"block {fragment.block} of {fragment.block_bytes} bytes was not expected")
        self._count(number, fragment)
        if fragment.block in self.blocks:
            return None
        parts = self._parts.setdefault(fragment.block, {})
        if fragment.offset not in parts:
            self.num_arrived_bytes += len(fragment.data)
        parts[fragment.offset] = fragment.data
        if sum(map(len, parts.values())) < size:
            return None
        return self._complete(fragment, parts)

    def _complete(self, fragment: Fragment, parts: dict[int, bytes]) -> int:
        block = b"".join(parts[offset] for offset in sorted(parts))
        del self._parts[fragment.block]
        if block_digest(block) != fragment.digest:
            raise WireError(f"block {fragment.block} does not match its digest")
        self.blocks[fragment.block] = block
        self.num_bytes += len(block)
        return fragment.block

    def _count(self, number: int, fragment: Fragment) -> None:
        if number >= self._base + MAX_AHEAD:
            raise WireError(f"fragment {number} is more than {MAX_AHEAD} ahead")
        # Something was lost or repeated: the sender waits for word. Small pieces come from a slow link.
        is_due = number != self._base or self._numbers or len(fragment.data) < FRAGMENT_DATA_BYTES
        self._since_ack += ACK_EVERY if is_due else 1
        if number >= self._base:
            self._numbers.add(number)
        while self._base in self._numbers:
            self._numbers.remove(self._base)
            self._base += 1

    def ack_due(self) -> bool:
        return self._since_ack >= ACK_EVERY

    def ack(self) -> Ack:
        self._since_ack = 0
        bits = sum(1 << (n - self._base) for n in self._numbers)
        return Ack(base=self._base, bitmap=f"{bits:x}" if bits else "")

    def lowest_of_suffix(self, num_blocks: int) -> int:
        """The smallest index from which every block up to the last is here; `num_blocks` when the last is missing."""
        index = num_blocks
        while index - 1 in self.blocks:
            index -= 1
        return index
