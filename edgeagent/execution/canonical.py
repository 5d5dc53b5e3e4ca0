"""Canonical evaluation: which batch shapes a Generation is evaluated in, and how much of a cache has them already.

The shape of a batch changes the last bits of its logits, and a near-tie then changes the word. So the prompt is
always evaluated in aligned chunks of one size and generated tokens one by one, wherever that happens; a cache may
be reused only as far as it was filled in exactly these shapes. Where a probe has shown that shapes change no bit
(`core.invariance`), a prompt may be cut anywhere, and spans are not told apart: they are empty then.
"""

import hashlib
import struct
from collections.abc import Sequence


def spans(num_prompt: int, num_output: int, chunk: int) -> list[int]:
    """Lengths of the batches, in order, that evaluate a prompt and the tokens generated after it."""
    full, rest = divmod(num_prompt, chunk)
    return [chunk] * full + [rest] * (rest > 0) + [1] * num_output


def reusable(
    cached: Sequence[int], cached_spans: Sequence[int], wanted: Sequence[int], wanted_spans: Sequence[int]
) -> tuple[int, int]:
    """`(tokens, spans)` at the front of `cached` that hold what evaluating `wanted` canonically would hold."""
    num_tokens = num_spans = 0
    for have, want in zip(cached_spans, wanted_spans, strict=False):
        end = num_tokens + want
        if have != want or cached[num_tokens:end] != wanted[num_tokens:end]:
            break
        num_tokens, num_spans = end, num_spans + 1
    return num_tokens, num_spans


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading items two lists share. Compares slices, which for thousands of ints is fast."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def symbols(tokens: Sequence[int], of_spans: Sequence[int]) -> list[int]:
    """One number a cell: cells of two caches are the same bits when all numbers up to them are equal.

    Without spans, the token ids; with them, a 63-bit hash of the cell's span and its place in it.
    """
    if not of_spans:
        return list(tokens)
    found: list[int] = []
    for length in of_spans:
        begin = len(found)
        span = tokens[begin : begin + length]
        seed = hashlib.blake2b(struct.pack(f"<{len(span) + 1}q", length, *span), digest_size=8)
        first = int.from_bytes(seed.digest(), "little") >> 1
        found += [(first + i) % 2**63 for i in range(len(span))]
    return found


def num_blocks(num_prompt: int, chunk: int) -> int:
    """How many chunks a prompt has; KV travels in blocks of one chunk each."""
    return -(-num_prompt // chunk)


def block_range(index: int, num_prompt: int, chunk: int) -> tuple[int, int]:
    """First and one-past-last token of block `index`."""
    return index * chunk, min((index + 1) * chunk, num_prompt)
