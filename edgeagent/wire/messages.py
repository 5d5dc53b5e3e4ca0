"""What a device and a peer say to each other: JSON documents inside message frames, and a peer's status."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from edgeagent.core.cards import Sha256
from edgeagent.core.errors import WireError
from edgeagent.core.generation import MAX_TOP_LOGPROBS, NO_ID, Sampling, TokenId
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.core.stages import hidden_row_bytes
from edgeagent.wire.topics import ID_PATTERN

MAX_BLOCKS = 65_536
LEASE_S = 2.0
"""Silence after which the other end is taken for lost; both send something at least each third of it."""
MAX_SIGNED_CHARS = 60_000
STEP_ROWS = 32
"""Tokens of a step at most."""
MAX_GUESSES = STEP_ROWS - 1
MAX_DRAWN = 8_192
"""As JSON they and the rest of an Open fit one frame."""
MAX_CUTS = 512
MAX_LINKS = 16
MAX_LOADED = 64
MAX_BESIDE = 64
MAX_PROMPT_TOKENS = 1_000_000
MAX_PROMPT_BYTES = 4 * 2**20


class Body(BaseModel):
    # Unknown keys are ignored: a newer peer may say more than this version understands.
    model_config = ConfigDict(frozen=True)


class Numbered(Body):
    """What must not be lost: it is said again until the other end has it (`numbering`)."""

    number: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """Counts what this end says in a session, from 0."""


class Turn(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


_TURNS: TypeAdapter[tuple[Turn, ...]] = TypeAdapter(tuple[Turn, ...])


class Onward(Body):
    """Of a `split-decode`: the peer runs the layers before `k`, and passes hidden states on to `peer`, which has those
    from there on."""

    peer: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
    k: Annotated[int, Field(gt=0)]


class Open(Numbered):
    """Device: do this. The prompt follows as block 0: token ids as LEB128 (`tokens`), or turns as JSON (`turns`).

    Of a split model (`stage`) no text follows: once the peer has accepted, hidden states do, block `i` those of the
    prompt's chunk `i`.
    """

    type: Literal["open"] = "open"
    job: Literal["prefill", "remote", "probe", "split-prefill", "split-decode"]
    model: str = ""
    variant_sha256: Sha256 | None = None
    exact_key: str = ""
    """Same key, same bits: variant, cache type, chunk, engine build, instruction set. Empty: no exactness asked."""
    prompt_form: Literal["tokens", "turns"] = "tokens"
    prompt_bytes: Annotated[int, Field(ge=0, le=MAX_PROMPT_BYTES)] = 0
    sampling: Sampling = Sampling()
    max_tokens: Annotated[int, Field(ge=0, le=MAX_PROMPT_TOKENS)] = 0
    probe_bytes: Annotated[int, Field(ge=0, le=2**20)] = 0
    stage: StageDescriptor | None = None
    """What the device's head is; the peer's tail must fit it."""
    prompt_tokens: Annotated[int, Field(ge=0, le=MAX_PROMPT_TOKENS)] = 0
    """Of a split model's prompt."""
    drawn: Annotated[tuple[TokenId, ...], Field(max_length=MAX_DRAWN)] = ()
    """Tokens of the answer that are there already: another peer drew them, and the answer goes on behind them."""
    final_hidden: bool = False
    """Of a `split-decode`: the device draws. The peer gives the final hidden states instead of tokens, those of the
    prompt's last token and of each step's tokens, in blocks with the numbers of those that they come of."""
    onward: Onward | None = None
    """None: the peer runs all layers behind the device's."""

    @model_validator(mode="after")
    def _check(self) -> "Open":
        if self.job.startswith("split-") != (self.stage is not None) or (self.stage and not self.prompt_tokens):
            raise ValueError("a split job names its stage and the length of its prompt, and no other job does")
        if self.stage and self.prompt_tokens > MAX_BLOCKS * self.stage.chunk_tokens:
            raise ValueError(f"a prompt is of {MAX_BLOCKS} blocks at most")
        if self.final_hidden and self.job != "split-decode":
            raise ValueError("only a split-decode job can give final hidden states")
        if self.onward and (self.job != "split-decode" or not self._is_inside(self.onward.k)):
            raise ValueError("only a split-decode job can be passed on, at a layer behind the device's last")
        return self

    def _is_inside(self, k: int) -> bool:
        return self.stage is not None and self.stage.k < k < self.stage.layers

    def block_sizes(self) -> dict[int, int]:
        """Bytes of each block that the device will send."""
        if self.stage is None:
            return {0: self.prompt_bytes}
        row = hidden_row_bytes(self.stage.hidden, self.stage.width)
        return {i: tokens * row for i, tokens in enumerate(chunks(self.prompt_tokens, self.stage.chunk_tokens))}

    def step_bytes(self, num_tokens: int) -> int:
        """Of the hidden states of so many tokens."""
        assert self.stage is not None
        return num_tokens * hidden_row_bytes(self.stage.hidden, self.stage.width)

    def cell_block_sizes(self) -> dict[int, int]:
        """Bytes of each block of cells that a split model's peer will send back."""
        assert self.stage is not None
        cell = sum(self.stage.kv_planes)
        return {i: tokens * cell for i, tokens in enumerate(chunks(self.prompt_tokens, self.stage.chunk_tokens))}


def chunks(num_tokens: int, chunk: int) -> list[int]:
    """Tokens of each chunk of a prompt; the last may be shorter."""
    return [min(chunk, num_tokens - first) for first in range(0, num_tokens, chunk)]


class Step(Numbered):
    """Device: the next tokens of a split model's answer, as hidden states in block `block`.

    The first is the newest token of the answer; `guesses` are those that the device thinks will follow it.
    """

    type: Literal["step"] = "step"
    block: Annotated[int, Field(ge=0, lt=2**31)]
    position: Annotated[int, Field(ge=0)]
    """Of the first of them, in the context."""
    guesses: Annotated[tuple[TokenId, ...], Field(max_length=MAX_GUESSES)] = ()


class Progress(Numbered):
    """Device: blocks `0 … blocks-1` of the cache are made here; do not send them."""

    type: Literal["progress"] = "progress"
    blocks: Annotated[int, Field(ge=0, le=MAX_BLOCKS)]


class Ack(Body):
    """Either: of the fragments sent, in order of sending, all before `base` came, and those whose bit is set after.

    Bit `i` of `bitmap` (hexadecimal, least significant first) is fragment `base + i`.
    """

    type: Literal["ack"] = "ack"
    base: Annotated[int, Field(ge=0)]
    bitmap: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")] = ""


class Stop(Numbered):
    """Device: nothing more is wanted of this session."""

    type: Literal["stop"] = "stop"
    reason: str = ""


class KeepAlive(Body):
    """Either: still here. A `ping` is answered by one with the same number as `pong`."""

    type: Literal["keepalive"] = "keepalive"
    ping: int | None = None
    pong: int | None = None
    seen: Annotated[int, Field(ge=0)] | None = None
    """All numbered messages before this one have come."""


class Resume(Body):
    """Either: a connection was away, or something is missing. All numbered messages from `seen` on are wanted again."""

    type: Literal["resume"] = "resume"
    seen: Annotated[int, Field(ge=0)]


class Accepted(Numbered):
    """Peer: the job is taken; `kv_bytes_per_token` is what a cell of the coming blocks has."""

    type: Literal["accepted"] = "accepted"
    kv_bytes_per_token: Annotated[int, Field(ge=0)] = 0
    stage: StageDescriptor | None = None
    """What the peer's tail is, as it describes it itself; the device compares it once more."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Of a `split-decode`: so many tokens a step may have."""
    note: Annotated[str, Field(max_length=500)] | None = None
    """What the caller should hear of how the prompt was made."""


MAX_PIECE_BYTES = 256
Piece = Annotated[str, Field(pattern=r"^([0-9a-f]{2}){0,256}$")]


class Token(Numbered):
    """Peer: an accepted token. `piece` is its bytes, in hexadecimal. `token` -1: whoever drew it tells no ids.

    `logprob` and `top` (id, bytes, log-probability each) only when the sampling asks for them.
    """

    type: Literal["token"] = "token"
    position: Annotated[int, Field(ge=0)]
    token: Annotated[int, Field(ge=NO_ID)]
    piece: Piece
    is_end: bool = False
    logprob: float | None = None
    top: Annotated[tuple[tuple[TokenId, Piece, float], ...], Field(max_length=MAX_TOP_LOGPROBS)] | None = None


class Done(Numbered):
    """Peer: the job is finished."""

    type: Literal["done"] = "done"
    reason: Literal["stop", "length", "sent"]
    prompt_tokens: int = 0


class Failed(Numbered):
    """Peer: the job was refused or failed; `code` is an error code of the core tree."""

    type: Literal["failed"] = "failed"
    code: str
    message: str
    peer: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")] | None = None
    """Whom the job was passed on to, where that one refused or failed, and not who says it."""


Said = Open | Step | Progress | Stop | Accepted | Token | Done | Failed
"""What is numbered."""
Message = Annotated[
    Open | Step | Progress | Ack | Stop | KeepAlive | Resume | Accepted | Token | Done | Failed,
    Field(discriminator="type"),
]
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


Rate = Annotated[float, Field(ge=1e-6, le=1e9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**40)]
Times = Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
"""What a status tells is reckoned with, for every request: none of it may overflow or divide by nothing."""


class OfferedModel(Body):
    """One variant a peer holds, with its measured rates."""

    model: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
    """Part of a topic where jobs with it are offered."""
    variant: str
    variant_sha256: Sha256 | None = None
    """None: somebody else's server runs it, which gives text and no token ids."""
    exact_key: str
    prefill_tok_s: Rate
    decode_tok_s: Rate
    context_tokens: Annotated[Count, Field(gt=0)]
    kv_bytes_per_token: Count
    cuts: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(max_length=MAX_CUTS)] = ()
    """How many layers a device's head may have for this peer to run the rest; empty: it runs no tail of this one."""
    final_hidden: bool = False
    """Whether it can give final hidden states instead of tokens (`Open.final_hidden`)."""
    slots: Annotated[Count, Field(ge=1)] = 1
    """Answers of it that are written together; further jobs wait."""
    beside: Annotated[tuple[tuple[Times, Times], ...], Field(max_length=MAX_BESIDE)] = ()
    """How many times as long one job more takes beside 1, 2, … answers: its prompt, and each token. Empty: not told."""
    most_between: Count = 0
    """How many layers behind a device's head it runs at most, to pass hidden states on to another peer; 0: it passes
    none on."""
    loaded: Annotated[tuple[tuple[Count, Count], ...], Field(max_length=MAX_LOADED)] = ()
    """Layers `[begin, end)` that it has ready by themselves."""
    making_s: Seconds = 0.0
    """How much longer a job waits that needs others: until they are cut, loaded and tried."""


class KnownLink(Body):
    """A peer's way to another one, as it has measured it: seconds there and back, bytes a second."""

    peer: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
    rtt_s: Seconds
    up_bytes_s: Rate
    down_bytes_s: Rate


Run = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""One life of a peer."""


class PeerStatus(Body):
    """Retained at `…/peers/<id>/status`; the Last Will says offline.

    For members of the peer's fleet only what it `signed` counts: an announcement that holds the same, in base64.
    """

    id: str
    state: Literal["online", "offline"]
    version: str = ""
    models: tuple[OfferedModel, ...] = ()
    queue: Count = 0
    """Jobs that are under way, or wait."""
    capacity: Count | None = None
    """Jobs it takes at once; None: it claims no offers."""
    wait_s: Seconds | None = None
    """Until all that it has to do would be done, as it predicts: what an autoscaler looks at."""
    run: Run | None = None
    """Random, another one each time it starts. It claims offers that name it."""
    links: Annotated[tuple[KnownLink, ...], Field(max_length=MAX_LINKS)] = ()
    """To peers that it would pass hidden states on to."""
    signed: Annotated[str, Field(max_length=MAX_SIGNED_CHARS)] | None = None


def encode_message(message: Message) -> bytes:
    return message.model_dump_json(exclude_defaults=False, exclude_none=True).encode()


def decode_message(payload: bytes) -> Message:
    """Raises WireError for anything that is not one known message."""
    try:
        return _MESSAGE.validate_json(payload)
    except ValidationError as error:
        raise WireError(f"not a message of this protocol: {error.errors()[0]['msg']}") from None


def decode_status(payload: bytes) -> PeerStatus:
    try:
        return PeerStatus.model_validate_json(payload)
    except ValidationError as error:
        raise WireError(f"not a peer status: {error.errors()[0]['msg']}") from None


def encode_turns(turns: tuple[Turn, ...]) -> bytes:
    """The prompt in form `turns`."""
    return _TURNS.dump_json(turns)


def decode_turns(data: bytes) -> tuple[Turn, ...]:
    try:
        return _TURNS.validate_json(data)
    except ValidationError as error:
        raise WireError(f"not a list of turns: {error.errors()[0]['msg']}") from None


def encode_tokens(tokens: tuple[int, ...]) -> bytes:
    """Token ids as unsigned LEB128, about two bytes each."""
    out = bytearray()
    for token in tokens:
        while token >= 0x80:
            out.append(token & 0x7F | 0x80)
            token >>= 7
        out.append(token)
    return bytes(out)


def decode_tokens(data: bytes) -> tuple[int, ...]:
    """Raises WireError when the bytes end inside an id or an id is over 32 bits."""
    tokens: list[int] = []
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift > 35:
            raise WireError("a token id is over 32 bits")
        if byte < 0x80:
            tokens.append(value)
            value = shift = 0
    if shift:
        raise WireError("the token ids end inside one")
    return tuple(tokens)
