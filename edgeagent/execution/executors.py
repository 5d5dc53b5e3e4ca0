"""Executors: whoever can extend a Generation. Here the local engine and a peer; `meeting` has both at once."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from edgeagent.core.errors import PassedOnError, PeerError, PeerRefusedError, WireError
from edgeagent.core.generation import NO_ID, Alternative, Generation, Sampling, TokenStep
from edgeagent.execution.admission import USUAL, Turns, Urgency
from edgeagent.execution.local import Drafted, Evaluated, LocalModel, Pruned, Reloaded
from edgeagent.execution.offering import Wanted
from edgeagent.execution.peers import Peers, until_accepted
from edgeagent.execution.session import Session
from edgeagent.wire.messages import (
    MAX_DRAWN,
    Done,
    Failed,
    Onward,
    Open,
    Stop,
    Token,
    Turn,
    encode_tokens,
    encode_turns,
)

Steps = AsyncGenerator[TokenStep, None]

PATIENCE_S = 30.0
"""What a job may wait at a peer where nobody here could do the same sooner."""


@dataclass(slots=True)
class Traffic:
    """What a request moved and reused, filled in while it runs."""

    up_bytes: int = 0
    down_bytes: int = 0
    peer: str | None = None
    """Which one took the job last, where several could."""
    kv_tokens: int = 0
    """Prompt tokens whose cache came from a peer."""
    peer_tokens: int = 0
    """Answer tokens that a peer drew."""
    reused_tokens: int = 0
    """Prompt tokens whose cache was here already."""
    drafted_tokens: int = 0
    """Answer tokens guessed ahead here."""
    accepted_tokens: int = 0
    """Of these, those that stood."""
    notes: list[str] = field(default_factory=list)
    """Failures that did not stop the answer, and what it cannot be compared with."""

    def note_pruned(self, positions: int) -> None:
        """Once, however many workers had to do it again."""
        told = f"{positions} positions of the prompt were dropped from the cache"
        note = f"{told}: this answer is outside every promise of identical ones"
        if note not in self.notes:
            self.notes.append(note)


NOTHING = Generation("", "", (), Sampling(), 0)


class Executor(Protocol):
    """Extends a Generation from its journal. Steps come with rising positions from `len(generation.output)`."""

    @property
    def name(self) -> str: ...

    def extend(self, generation: Generation) -> Steps:
        """Raises EngineLostError or PeerError when it cannot go on; what was yielded stays valid."""
        ...


class LocalExecutor:
    """The engine of this machine. Whoever extends holds a turn there, of this urgency, or has it taken if need be."""

    name = "local"

    def __init__(self, model: LocalModel, traffic: Traffic, turn: Turns | Urgency = USUAL) -> None:
        self._model = model
        self._traffic = traffic
        self._turn = turn

    async def extend(self, generation: Generation) -> Steps:
        urgency = self._turn if isinstance(self._turn, Urgency) else await self._turn.take()
        async with contextlib.aclosing(self._model.generate(generation, urgency)) as events:
            async for event in events:
                if isinstance(event, TokenStep):
                    yield event
                elif isinstance(event, Drafted):
                    self._traffic.drafted_tokens += event.tokens
                    self._traffic.accepted_tokens += event.accepted
                elif isinstance(event, Evaluated) and event.reused is not None:
                    # Cells that a peer made for this very answer were not here before it.
                    self._traffic.reused_tokens = max(0, event.reused - self._traffic.kv_tokens)
                elif isinstance(event, Pruned):
                    self._traffic.note_pruned(event.positions)
                elif isinstance(event, Reloaded):
                    self._traffic.notes.append(f"the engine was lost and loaded again: {event.change}")


@dataclass(frozen=True, slots=True)
class PeerModel:
    """One variant on one peer, and how long a job may wait for its turn there."""

    peer: str
    model: str
    variant_sha256: str
    """Empty: of somebody else's server, whose answers nobody can go on with."""
    exact_key: str
    wait_s: float = PATIENCE_S
    num_vocab: int | None = None
    """Of the variant that is here, too: no token id reaches it. None: tokens of another model, which are only text."""
    onward: Onward | None = None
    """Of a split model, whom the peer passes hidden states on to, and from which layer on."""

    def wanted(self, job: Literal["prefill", "remote"], generation: Generation, *, has_time: bool = False) -> Wanted:
        """As peers that hold the same are told of it."""
        return Wanted(
            job=job,
            model=self.model,
            variant_sha256=self.variant_sha256 or None,
            exact_key=self.exact_key,
            prompt_tokens=len(generation.prompt) + len(generation.output),
            answer_tokens=generation.num_left,
            has_time=has_time,
        )


class RemoteExecutor:
    """Plan `remote`: text up, tokens down, the peer decodes.

    With `turns` the peer's model is another one: it applies its own template, and its tokens mean nothing here.
    """

    def __init__(
        self, peers: Peers, target: PeerModel, traffic: Traffic, turns: Sequence[Mapping[str, str]] | None = None
    ) -> None:
        self._peers = peers
        self._target = target
        self._traffic = traffic
        self._turns = turns
        self._peer = target.peer

    @property
    def name(self) -> str:
        return f"peer {self._peer}"

    @property
    def speaks_text(self) -> bool:
        """Whether the peer's model is another one."""
        return self._turns is not None

    def has_other(self, num_drawn: int) -> bool:
        """Whether yet another peer, now that this one is lost, holds the same and can go on behind so many tokens."""
        can_go_on = bool(self._target.variant_sha256) and num_drawn <= MAX_DRAWN
        return can_go_on and bool(self._peers.holders(self._target.wanted("remote", NOTHING)))

    async def extend(self, generation: Generation) -> Steps:
        wanted = self._target.wanted("remote", generation, has_time=self.speaks_text)
        self._peer = self._traffic.peer = await self._peers.place(wanted, self._target.peer)
        async with peer_session(self._peers, self._peer, self._traffic) as session:
            self._open(session, generation)
            accepted = await until_accepted(session, self._target.wait_s)
            if accepted.note:
                self._traffic.notes.append(f"{self.name}: {accepted.note}")
            due = len(generation.output)
            while True:
                match await session.receive():
                    case Token() as token:
                        step = step_of(token, self._target, due)
                        self._traffic.peer_tokens += not token.is_end
                        due += 1
                        yield step
                        if token.is_end:
                            return
                    case Done():
                        self._check_end(generation.max_tokens - due)
                        return
                    case Failed(message=message):
                        raise PeerError(f"{self.name} failed: {message}")
                    case _:
                        continue

    def _check_end(self, num_left: int) -> None:
        """Of the very variant that is here it is known when an answer is over. Raises PeerError."""
        if num_left > 0 and not self.speaks_text:
            raise PeerError(f"{self.name} ended the answer {num_left} tokens before its limit, and not by itself")

    def _open(self, session: Session, generation: Generation) -> None:
        if self._turns is None:
            open_job(session, "remote", self._target, generation)
            return
        prompt = encode_turns(tuple(Turn.model_validate(turn) for turn in self._turns))
        session.send(_open_message("remote", self._target, generation, "turns", len(prompt)))
        session.send_blocks([(0, prompt)], bulk=False)


def open_job(session: Session, job: str, target: PeerModel, generation: Generation) -> None:
    """Send the Open of a job on the generation's own tokens, and the tokens behind it."""
    prompt = encode_tokens(generation.prompt)
    session.send(_open_message(job, target, generation, "tokens", len(prompt)))
    session.send_blocks([(0, prompt)], bulk=False)


def _open_message(job: str, target: PeerModel, generation: Generation, form: str, num_bytes: int) -> Open:
    """Raises PeerRefusedError for an answer that is too long already for another peer to go on with."""
    if (drawn := len(generation.output)) > MAX_DRAWN:
        raise PeerRefusedError(f"{drawn} tokens of the answer are there, and a peer goes on behind {MAX_DRAWN} at most")
    return Open.model_validate(
        {
            "job": job,
            "model": target.model,
            "variant_sha256": target.variant_sha256 or None,
            "exact_key": target.exact_key,
            "prompt_form": form,
            "prompt_bytes": num_bytes,
            "sampling": generation.sampling,
            "max_tokens": generation.max_tokens,
            "drawn": generation.output,
        }
    )


def step_of(token: Token, target: PeerModel, due: int) -> TokenStep:
    """Raises WireError for a token that is not the one `due`, or that the vocabulary does not have: an engine here may
    have to go on from it."""
    if token.position != due:
        raise WireError(f"token {token.position} came where token {due} was due")
    if target.num_vocab is not None and token.token >= target.num_vocab:
        raise WireError(f"token id {token.token} came, and the vocabulary has {target.num_vocab}")
    if target.variant_sha256 and token.token == NO_ID:
        raise WireError("a token without an id came, and of that variant each has one")
    top = tuple(Alternative(id_, bytes.fromhex(piece), logprob) for id_, piece, logprob in token.top or ())
    return TokenStep(token.position, token.token, bytes.fromhex(token.piece), token.is_end, token.logprob, top)


def token_of(step: TokenStep) -> Token:
    top = tuple((each.token, each.piece.hex(), each.logprob) for each in step.top)
    return Token(
        position=step.position,
        token=step.token,
        piece=step.piece.hex(),
        is_end=step.is_end,
        logprob=step.logprob,
        top=top or None,
    )


@contextlib.asynccontextmanager
async def peer_session(
    peers: Peers, peer: str, traffic: Traffic, onward: Onward | None = None
) -> AsyncIterator[Session]:
    """A session that is counted, said goodbye to, and that opens the breaker of the peer that failed: this one, or whom
    it was to pass the job on to."""
    try:
        async with peers.session(peer) as session:
            try:
                yield session
            finally:
                with contextlib.suppress(PeerError):
                    session.send(Stop())
                traffic.up_bytes += session.up_bytes
                traffic.down_bytes += session.down_bytes
    except PeerRefusedError:  # it is well, and may take the next one
        raise
    except PassedOnError as error:
        is_next = onward is not None and error.peer == onward.peer
        if not (is_next and error.is_refusal):
            peers.trip(error.peer if is_next else peer)
        raise
    except PeerError:  # one that does not even open a session, too
        peers.trip(peer)
        raise
