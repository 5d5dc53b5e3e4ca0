"""Canonical evaluation: which batch shapes a Generation is evaluated in, and how much of a cache has them already.

The shape of a batch changes the last bits of its logits, and a near-tie then changes the word. So the prompt is
always evaluated in aligned chunks of one size and generated tokens one by one, wherever that happens; a cache may
be reused only as far as it was filled in exactly these shapes.
"""

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


def num_blocks(num_prompt: int, chunk: int) -> int:
    """How many chunks a prompt has; KV travels in blocks of one chunk each."""
    return -(-num_prompt // chunk)


def block_range(index: int, num_prompt: int, chunk: int) -> tuple[int, int]:
    """First and one-past-last token of block `index`."""
    return index * chunk, min((index + 1) * chunk, num_prompt)
