"""What a peer offers of somebody else's server: its models under names that fit topics, at the rates measured there."""

import contextlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence

from edgeagent.application.peer_job import Offer
from edgeagent.application.served_job import ServedModel
from edgeagent.core.errors import ConfigError, EdgeAgentError, EngineError
from edgeagent.core.generation import Sampling
from edgeagent.execution.admission import Admission
from edgeagent.execution.served import Ended, Piece, Server
from edgeagent.resource.cost import TEXT_BYTES_PER_TOKEN
from edgeagent.wire.messages import OfferedModel

log = logging.getLogger(__name__)

MAX_MODELS = 32
MAX_ID = 64
SENTENCE = "The cellar is dry, the roof was mended last year, and the garden behind the house is large. "
NUM_SENTENCES, NUM_TOKENS = 12, 32


async def served_offers(
    server: Server, names: Sequence[str], context_tokens: int, admission: Callable[[], Admission]
) -> list[Offer]:
    """An offer for each of these models of the server, or for all that answer.

    Raises ConfigError for a name that the server does not have, EngineError when none of its models answers.
    """
    held = await server.models()
    if unknown := [name for name in names if name not in held]:
        known = ", ".join(list(held)[:10]) or "none"
        raise ConfigError(f"peer.models: the server has no '{unknown[0]}'; it has {known}")
    offers: dict[str, Offer] = {}
    wanted = list(names or held)
    for name in wanted[MAX_MODELS:]:
        log.warning(
            "model not offered model=%s reason=%s", name, f"a peer offers {MAX_MODELS}; name those in peer.models"
        )
    for name in wanted[:MAX_MODELS]:
        if taken := offers.get(id_of(name)):
            log.warning("model not offered model=%s reason=%s", name, f"another has the id {taken.model.model}, too")
            continue
        try:
            prefill_tok_s, decode_tok_s = await _rates(server, name)
        except EdgeAgentError as error:
            log.warning("model not offered model=%s reason=%s", name, error)
            continue
        model = OfferedModel(
            model=id_of(name),
            variant="served",
            exact_key="",
            prefill_tok_s=prefill_tok_s,
            decode_tok_s=decode_tok_s,
            context_tokens=held[name] or context_tokens,
            kv_bytes_per_token=0,
        )
        offers[model.model] = Offer(model, served=ServedModel(server, name, admission()))
    if not offers:
        raise EngineError("no model of the server answers a chat; see the log above and the server's own")
    return list(offers.values())


def id_of(name: str) -> str:
    """The id that a server's model is known by: what may stand in topics and credentials, of its last part."""
    last = name.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9.-]+", "-", last).strip("-.")[:MAX_ID] or "model"


async def _rates(server: Server, name: str) -> tuple[float, float]:
    """Tokens a second of prompt and of answer, as one chat at a time shows them: the first loads what is not loaded."""
    await _timed(server, name, "Say yes.", 1)
    new = f"Note {secrets.token_hex(4)}. "  # or the server's cache of an earlier start would be measured
    prompt = new + SENTENCE * NUM_SENTENCES + "\nWrite three sentences about such a house."
    first_s, rest_s, num_pieces, ended = await _timed(server, name, prompt, NUM_TOKENS)
    prompt_tokens = ended.prompt_tokens or len(prompt) / TEXT_BYTES_PER_TOKEN  # a server that does not count
    answer_tokens = ended.answer_tokens or num_pieces
    if answer_tokens < 2:
        raise EngineError(f"'{name}' said nothing to measure")
    return prompt_tokens / max(first_s, 1e-3), (answer_tokens - 1) / max(rest_s, 1e-3)


async def _timed(server: Server, name: str, text: str, max_tokens: int) -> tuple[float, float, int, Ended]:
    """Seconds to the first piece and from there to the end, number of pieces, and the end."""
    started_s, first_s, num_pieces, ended = time.monotonic(), None, 0, Ended(stopped=False)
    turns = [{"role": "user", "content": text}]
    async with contextlib.aclosing(server.answer(name, turns, Sampling(), max_tokens)) as events:
        async for event in events:
            if isinstance(event, Piece):
                num_pieces += 1
                first_s = first_s or time.monotonic() - started_s
            else:
                ended = event
    whole_s = time.monotonic() - started_s
    return first_s or whole_s, whole_s - (first_s or whole_s), num_pieces, ended
