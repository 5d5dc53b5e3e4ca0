"""How a model would be divided between this machine and two peers, one behind the other, and at what price. Pure.

The second peer gets hidden states from the first, and its tokens come back the same way.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from edgeagent.core.stages import hidden_row_bytes
from edgeagent.resource.cost import (
    ACK_BYTES,
    FRAME_OVERHEAD,
    OPENING_TRIPS,
    SESSION_BYTES,
    STEP_MESSAGE_BYTES,
    TOKEN_MESSAGE_BYTES,
    LinkSpeeds,
    Price,
    Speeds,
    Work,
)
from edgeagent.resource.options import LocalOption, PeerOption
from edgeagent.resource.partition import Device, Load, Part, Row, Way, finish, partition
from edgeagent.resource.sharing import speeds_of_stage
from edgeagent.resource.split_candidates import Shape, spread


@dataclass(frozen=True, slots=True)
class Chain:
    """`cuts`: where this machine's layers end, and the first peer's. `best` are the devices that get layers, by their
    indexes, where each only gets some if that is sooner."""

    cuts: tuple[int, int]
    price: Price
    best: tuple[int, ...]
    making_s: float
    """Part of the time to the first token: until both peers have their layers, which they make at the same time."""


def chained(
    work: Work, local: LocalOption, first: PeerOption, second: PeerOption, *, final_hidden: bool
) -> Chain | None:
    """The best of both peers behind this machine. None: they cannot work like that."""
    shape = local.shape
    if shape is None or second.peer not in first.links:
        return None
    links = {(0, 1): first.link, (0, 2): second.link, (1, 2): first.links[second.peer]}
    row = row_of(work, local, shape, (first, second), links, final_hidden=final_hidden)
    load = Load(_chunks(work, shape), max(0, work.output_tokens - 1))
    parts, free = partition(row, load, through_all=True), partition(row, load)
    if parts is None or free is None:
        return None
    _, middle, _ = parts
    making_s = max(first.making_of(middle.begin, middle.end), second.making_of(middle.end, shape.layers))
    price = _price(work, row, load, parts, shape, final_hidden=final_hidden)
    price = replace(price, ttft_s=price.ttft_s + making_s, total_s=price.total_s + making_s)
    best = tuple(part.device for part in (parts if _is_as_good(row, load, parts, free) else free))
    return Chain((middle.begin, middle.end), price, best, making_s)


def row_of(
    work: Work,
    local: LocalOption,
    shape: Shape,
    peers: Sequence[PeerOption],
    links: dict[tuple[int, int], LinkSpeeds],
    *,
    final_hidden: bool,
) -> Row:
    """This machine and peers behind it, as what `links` joins: by index, this machine's 0."""
    cuts = sorted({k for peer in peers for k in peer.cuts if k < shape.layers})
    here = _device(work, shape, local.speeds, 0.0, (0,) if local.head is None else (), shape.layers)
    there = [
        _device(work, shape, speeds_of_stage(p.speeds, p.num_beside), p.queue_s, frozenset(p.cuts), p.most_between)
        for p in peers
    ]
    ways = {pair: _way(work, shape, link, final_hidden=final_hidden) for pair, link in links.items()}
    return Row([here, *there], ways, shape.layers, cuts, (local.head.k,) if local.head else spread(cuts))


def _chunks(work: Work, shape: Shape) -> int:
    return max(1, -(-work.prompt_tokens // shape.chunk_tokens))


def _device(
    work: Work, shape: Shape, speeds: Speeds, wait_s: float, tails: Collection[int], most_between: int
) -> Device:
    """Layers are alike; the output head is what an answer token takes besides."""
    step_s = speeds.decode_s(work.prompt_tokens + work.output_tokens // 2)
    return Device(
        chunk_s=speeds.prefill_s(work.prompt_tokens) / shape.layers / _chunks(work, shape),
        step_s=step_s * (1 - shape.output_share) / shape.layers,
        output_s=step_s * shape.output_share,
        first_s=speeds.decode_s(work.prompt_tokens),
        wait_s=wait_s,
        tails=tails,
        most_between=most_between,
    )


def _way(work: Work, shape: Shape, link: LinkSpeeds, *, final_hidden: bool) -> Way:
    up, back = _step_bytes(shape, final_hidden=final_hidden)
    row = hidden_row_bytes("f32", shape.width)
    return Way(
        once_s=(OPENING_TRIPS + 0.5) * link.rtt_s,
        chunk_s=work.prompt_tokens * row * FRAME_OVERHEAD / link.up_bytes_s / _chunks(work, shape),
        step_s=link.rtt_s + up / link.up_bytes_s + back / link.down_bytes_s,
    )


def _step_bytes(shape: Shape, *, final_hidden: bool) -> tuple[float, float]:
    """Up and back, of each answer token on each link."""
    row = hidden_row_bytes("f32", shape.width)
    return row + STEP_MESSAGE_BYTES, (row if final_hidden else TOKEN_MESSAGE_BYTES) + ACK_BYTES


def _price(work: Work, row: Row, load: Load, parts: Sequence[Part], shape: Shape, *, final_hidden: bool) -> Price:
    """Bytes are those of this machine's own link."""
    times, (up, back) = finish(row, load, parts), _step_bytes(shape, final_hidden=final_hidden)
    prompt_bytes = work.prompt_tokens * hidden_row_bytes("f32", shape.width) * FRAME_OVERHEAD
    return Price(
        times.first_s,
        times.step_s,
        times.first_s + load.steps * times.step_s,
        round(prompt_bytes + work.output_tokens * up + SESSION_BYTES),
        round(work.output_tokens * back + SESSION_BYTES),
    )


def _is_as_good(row: Row, load: Load, parts: Sequence[Part], free: Sequence[Part]) -> bool:
    ours, best = (finish(row, load, each) for each in (parts, free))
    return ours.first_s + load.steps * ours.step_s <= best.first_s + load.steps * best.step_s
