"""The cost model: what a plan will take, from measured rates. Pure arithmetic, seconds and bytes."""

from dataclasses import dataclass
from typing import Self

from edgeagent.core.hardware import Rates
from edgeagent.core.plan import Costs

TEXT_BYTES_PER_TOKEN = 3.7  # measured: English prose through SmolLM2's tokenizer
TOKEN_ID_BYTES = 2.0  # a LEB128 id of a vocabulary below 2^14..2^21
TOKEN_MESSAGE_BYTES = 130.0  # a frame with one token message, and its share of MQTT headers
SESSION_BYTES = 600.0  # open, accept, stop
EXPECTED_TOKENS = 128
"""What an answer is priced at when its limit is higher: small models mostly stop before."""
OPENING_TRIPS = 2.5  # a session's opening and answer, then the job's and the verdict on it, and the way up
FRAME_OVERHEAD = 1.002  # 64 bytes of headers on 48 KiB


@dataclass(frozen=True, slots=True)
class Speeds:
    """Measured rates of one variant on one machine, in tokens a second, near the start of a context.

    `chunk_position_s`, `token_position_s`: seconds that each earlier position adds to a prompt token's and to an
    answer token's evaluation (attention; 0: not known).
    """

    prefill_tok_s: float
    decode_tok_s: float
    chunk_position_s: float = 0.0
    token_position_s: float = 0.0

    @classmethod
    def measured(cls, rates: Rates, chunk_position_s: float = 0.0, token_position_s: float = 0.0) -> Self:
        """From rates that were measured with a prompt of `rates.prompt_tokens`: what attention took is taken out."""
        prefill_s = 1 / rates.prefill_tok_s
        decode_s = 1 / rates.decode_tok_s
        bare_prefill_s = max(prefill_s / 2, prefill_s - chunk_position_s * rates.prompt_tokens / 2)
        bare_decode_s = max(decode_s / 2, decode_s - token_position_s * rates.prompt_tokens)
        return cls(1 / bare_prefill_s, 1 / bare_decode_s, chunk_position_s, token_position_s)

    def prefill_s(self, tokens: int, past: int = 0) -> float:
        """Seconds to evaluate `tokens` of a prompt behind `past` positions."""
        return tokens / self.prefill_tok_s + self.chunk_position_s * tokens * (past + tokens / 2)

    def decode_s(self, context: int) -> float:
        """Seconds for one answer token behind `context` positions."""
        return 1 / self.decode_tok_s + self.token_position_s * context


@dataclass(frozen=True, slots=True)
class LinkSpeeds:
    """A link as measured: seconds there and back, bytes a second each way."""

    rtt_s: float
    up_bytes_s: float
    down_bytes_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be computed: a prompt (of which `reused` tokens are cached here) and an expected answer."""

    prompt_tokens: int
    output_tokens: int
    reused_tokens: int = 0
    pruned_tokens: int = 0
    """Positions of the prompt that the answer does not attend to."""

    @property
    def new_tokens(self) -> int:
        return max(0, self.prompt_tokens - self.reused_tokens)


@dataclass(frozen=True, slots=True)
class Price:
    """`total_s` is time to the last expected token."""

    ttft_s: float
    tpot_s: float
    total_s: float
    up_bytes: int = 0
    down_bytes: int = 0

    def costs(self) -> Costs:
        return Costs(ttft_s=self.ttft_s, tpot_s=self.tpot_s, up_bytes=self.up_bytes, down_bytes=self.down_bytes)


def price_local(work: Work, here: Speeds) -> Price:
    """Everything on this machine: prefill what is not cached, then decode."""
    tpot_s = here.decode_s(work.prompt_tokens - work.pruned_tokens + work.output_tokens // 2)
    ttft_s = here.prefill_s(work.new_tokens, work.reused_tokens) + tpot_s
    return Price(ttft_s, tpot_s, ttft_s + tpot_s * max(0, work.output_tokens - 1))


def price_remote(work: Work, there: Speeds, link: LinkSpeeds, queue_s: float) -> Price:
    """Text up, tokens down, everything else on the peer."""
    up = work.prompt_tokens * TEXT_BYTES_PER_TOKEN + SESSION_BYTES
    down = work.output_tokens * TOKEN_MESSAGE_BYTES + SESSION_BYTES
    # A token message is small: it costs half a round trip once, and its bytes only if the link is slower than decoding.
    decode_s = there.decode_s(work.prompt_tokens + work.output_tokens // 2)
    tpot_s = max(decode_s, TOKEN_MESSAGE_BYTES / link.down_bytes_s)
    ttft_s = queue_s + OPENING_TRIPS * link.rtt_s + up / link.up_bytes_s + there.prefill_s(work.prompt_tokens) + tpot_s
    total_s = ttft_s + tpot_s * max(0, work.output_tokens - 1)
    return Price(ttft_s, tpot_s, total_s, round(up), round(down))


def price_prefill(
    work: Work, here: Speeds, there: Speeds, link: LinkSpeeds, queue_s: float, kv_bytes_per_token: int
) -> Price:
    """Both ends prefill, the peer's cache comes back from its end, the two meet (`meet_s`).

    The peer's tokens until then are shown at once: all of a short answer. What is left of a longer one is written here,
    after the shown tokens were evaluated here again, one by one.
    """
    ready_s = queue_s + OPENING_TRIPS * link.rtt_s + work.prompt_tokens * TOKEN_ID_BYTES / link.up_bytes_s
    ready_s += there.prefill_s(work.prompt_tokens)
    alone_s = here.prefill_s(work.new_tokens, work.reused_tokens)
    here_tok_s = work.new_tokens / alone_s if alone_s else here.prefill_tok_s
    met_s = meet_s(work.new_tokens, here_tok_s, ready_s, link.down_bytes_s / kv_bytes_per_token)
    context = work.prompt_tokens + work.output_tokens // 2
    here_tpot_s = here.decode_s(context)
    # Tokens and cache come down in turns.
    there_tpot_s = max(there.decode_s(context), 2 * TOKEN_MESSAGE_BYTES / link.down_bytes_s)
    shown_s = ready_s + there.decode_s(work.prompt_tokens) + link.rtt_s / 2
    first_s = min(shown_s, met_s + here_tpot_s)
    all_shown_s = shown_s + there_tpot_s * max(0, work.output_tokens - 1)
    is_shown = all_shown_s <= met_s
    total_s = all_shown_s if is_shown else met_s + here_tpot_s * work.output_tokens
    come = (total_s - ready_s) * link.down_bytes_s / kv_bytes_per_token
    fetched = max(0.0, min(work.new_tokens - met_s * here_tok_s, come))
    up = work.prompt_tokens * TOKEN_ID_BYTES + SESSION_BYTES
    down = fetched * kv_bytes_per_token * FRAME_OVERHEAD + SESSION_BYTES
    return Price(first_s, there_tpot_s if is_shown else here_tpot_s, total_s, round(up), round(down))


def meet_s(num_tokens: int, front_tok_s: float, ready_s: float, back_tok_s: float) -> float:
    """When a front that starts now and a back that starts at `ready_s` have covered `num_tokens` between them."""
    alone_s = num_tokens / front_tok_s
    if ready_s >= alone_s:
        return alone_s
    return (num_tokens + ready_s * back_tok_s) / (front_tok_s + back_tok_s)


@dataclass(frozen=True, slots=True)
class Split:
    """Where a model of `layers` is cut, and what crosses there for each token."""

    k: int
    layers: int
    row_bytes: int
    """Of a hidden state."""
    cell_bytes: int
    """Of the cells of layers from `k` on."""
    chunk_tokens: int
    output_share: float = 0.0
    """Part of an answer token's work that the output head is; the rest is its layers'."""
    back_bytes: int = 0
    """Of a hidden state that comes back for each token that this machine draws; 0: tokens come."""

    @property
    def here(self) -> float:
        """Part of a prompt token's work that is done here: layers are alike."""
        return self.k / self.layers

    @property
    def decoded_here(self) -> float:
        """Of an answer token's work. The output head stands where tokens are drawn."""
        layers = self.here * (1 - self.output_share)
        return layers + self.output_share if self.back_bytes else layers


STEP_MESSAGE_BYTES = 220.0  # a step's message, and its fragment's and frame's headers
ACK_BYTES = 140.0


def price_split_prefill(
    work: Work, here: Speeds, there: Speeds, link: LinkSpeeds, queue_s: float, split: Split
) -> Price:
    """Hidden states up, cells down, chunk by chunk; then this machine decodes alone."""
    tpot_s = here.decode_s(work.prompt_tokens + work.output_tokens // 2)
    cells_s = work.prompt_tokens * split.cell_bytes * FRAME_OVERHEAD / link.down_bytes_s
    ready_s = queue_s + _pipelined_s(work, here, there, link, split, cells_s) + link.rtt_s
    up = work.prompt_tokens * split.row_bytes * FRAME_OVERHEAD + SESSION_BYTES
    down = work.prompt_tokens * split.cell_bytes * FRAME_OVERHEAD + SESSION_BYTES
    total_s = ready_s + tpot_s * work.output_tokens
    return Price(ready_s + tpot_s, tpot_s, total_s, round(up), round(down))


def price_split_decode(
    work: Work, here: Speeds, there: Speeds, link: LinkSpeeds, queue_s: float, split: Split
) -> Price:
    """Hidden states up, chunk by chunk, and then each token once around."""
    context = work.prompt_tokens + work.output_tokens // 2
    step_bytes = split.row_bytes + STEP_MESSAGE_BYTES
    back_bytes = (split.back_bytes or TOKEN_MESSAGE_BYTES) + ACK_BYTES
    here_part = split.decoded_here
    tpot_s = here_part * here.decode_s(context) + (1 - here_part) * there.decode_s(context) + link.rtt_s
    tpot_s += step_bytes / link.up_bytes_s + back_bytes / link.down_bytes_s
    ready_s = queue_s + _pipelined_s(work, here, there, link, split)
    ttft_s = ready_s + there.decode_s(work.prompt_tokens) + link.rtt_s / 2
    up = work.prompt_tokens * split.row_bytes * FRAME_OVERHEAD + work.output_tokens * step_bytes + SESSION_BYTES
    down = work.output_tokens * back_bytes + SESSION_BYTES
    return Price(ttft_s, tpot_s, ttft_s + tpot_s * max(0, work.output_tokens - 1), round(up), round(down))


def _pipelined_s(work: Work, here: Speeds, there: Speeds, link: LinkSpeeds, split: Split, down_s: float = 0.0) -> float:
    """Seconds for a prompt's way through head, link, tail and link: they work on different chunks at once, so after the
    first chunk the slowest of them sets the pace."""
    chunks = max(1, -(-work.prompt_tokens // split.chunk_tokens))
    whole_s = (
        split.here * here.prefill_s(work.prompt_tokens),
        work.prompt_tokens * split.row_bytes * FRAME_OVERHEAD / link.up_bytes_s,
        (1 - split.here) * there.prefill_s(work.prompt_tokens),
        down_s,
    )
    return OPENING_TRIPS * link.rtt_s + (sum(whole_s) + (chunks - 1) * max(whole_s)) / chunks
