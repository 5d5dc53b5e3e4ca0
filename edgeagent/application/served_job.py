"""One job at a peer that fronts somebody else's server: chat turns come, pieces of text go back, and no token ids."""

import contextlib
import logging
from collections.abc import AsyncGenerator

from edgeagent.core.errors import RequestError
from edgeagent.core.generation import NO_ID
from edgeagent.execution.admission import Admission
from edgeagent.execution.served import Ended, Piece, Server
from edgeagent.execution.session import Session
from edgeagent.wire.messages import MAX_PIECE_BYTES, Accepted, Done, Open, Token, Turn

log = logging.getLogger(__name__)


class ServedModel:
    """One model of a server, and the turns at it: so many answers at once, so many waiting."""

    def __init__(self, server: Server, name: str, admission: Admission) -> None:
        self.name = name
        self.admission = admission
        self._server = server

    def answer(self, job: Open, turns: tuple[Turn, ...]) -> AsyncGenerator[Piece | Ended, None]:
        """See `Server.answer`."""
        asked = [{"role": turn.role, "content": turn.content} for turn in turns]
        return self._server.answer(self.name, asked, job.sampling, job.max_tokens)


def check_job(job: Open) -> None:
    """Raises RequestError for what such a server cannot be asked to do."""
    if job.job != "remote" or job.prompt_form != "turns" or job.exact_key or job.drawn:
        raise RequestError("behind this peer is another server: it takes chat turns, and only whole answers")
    if job.sampling.grammar is not None:
        raise RequestError("the server behind this peer takes no grammar; ask this model without one")


async def answer(session: Session, model: ServedModel, job: Open, turns: tuple[Turn, ...]) -> None:
    """The whole answer. Raises what `Server.answer` does."""
    session.send(Accepted(note=_note(job)))
    position = 0
    async with contextlib.aclosing(model.answer(job, turns)) as events:
        async for event in events:
            match event:
                case Piece(text=text):
                    for piece in _cut(text.encode()):
                        session.send(Token(position=position, token=NO_ID, piece=piece.hex()))
                        position += 1
                case Ended(stopped=stopped, prompt_tokens=prompt_tokens):
                    if stopped:
                        session.send(Token(position=position, token=NO_ID, piece="", is_end=True))
                    session.send(Done(reason="stop" if stopped else "length", prompt_tokens=prompt_tokens or 0))


def _cut(data: bytes) -> list[bytes]:
    """As long as a message's piece may be."""
    return [data[first : first + MAX_PIECE_BYTES] for first in range(0, len(data), MAX_PIECE_BYTES)]


def _note(job: Open) -> str | None:
    """What is not passed on, for the report."""
    sampling = job.sampling
    left_out = {
        "repetition_penalty": sampling.repetition_penalty != 1.0,
        "logit_bias": bool(sampling.logit_bias),
        "logprobs": sampling.logprobs is not None,
    }
    names = [name for name, is_set in left_out.items() if is_set]
    return f"the server behind it is not told of {', '.join(names)}" if names else None
