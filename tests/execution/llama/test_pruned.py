"""Generations whose prompt is pruned, in a real engine: what stays, what can be resumed, and who may use the cells."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from edgeagent.core.generation import Sampling
from edgeagent.core.invariance import Invariance
from edgeagent.execution.llama.engine import LlamaEngine
from edgeagent.execution.worker import Request
from tests.execution.llama.test_generating import FREE, Engine, Recorder
from tests.machine import REPACKS

if TYPE_CHECKING:
    from edgeagent.model.store import StoredVariant

KEY = "48213"
NUM_TOKENS = 8
KINDS = [("q8_0", True, FREE), ("f16", False, Invariance())]


class Pruning(Engine):
    """An engine with two sequences and other settings."""

    def __init__(self, variant: "StoredVariant", kv_type: str, flash_attention: bool, invariance: Invariance) -> None:
        self.engine = LlamaEngine()
        self.loaded = self.ask(
            "load", path=str(variant.path), extra_buffers=REPACKS, context_tokens=512, kv_type=kv_type,
            flash_attention=flash_attention, threads=1, chunk_tokens=64, sequences=2, speculation=True,
            invariance=invariance.model_dump(),
        )[-1]["reply"]  # fmt: skip

    def pruned(
        self, prompt: Sequence[int], num_dropped: int, output: Sequence[int] = (), **more: Any
    ) -> tuple[list[int], dict[str, Any]]:
        """Tokens from the first of `output` on, and what else was told: the last value of each event."""
        told = self.ask(
            "generate", prompt=list(prompt), output=list(output), max_tokens=NUM_TOKENS,
            sampling=Sampling().model_dump(),
            pruning={"num_dropped": num_dropped, "protected": []}, **more,
        )  # fmt: skip
        events = [message["event"] for message in told if "event" in message]
        tokens = [*output, *(event["token"] for event in events if "token" in event)]
        return tokens, {key: value for event in events for key, value in event.items()}


def passkey(engine: Engine, prose: bytes) -> list[int]:
    """Of some 120 tokens."""
    text = prose.decode()[200:420]
    return engine.prompt(
        f"{text[:110]}\nThe pass key is {KEY}.\n{text[110:]}\n\nWhat is the pass key in the text above?"
    )


@pytest.mark.parametrize(("kv_type", "flash_attention", "invariance"), KINDS)
def test_pruned_answer_goes_on_from_its_journal(
    smollm2: "StoredVariant", prose: bytes, kv_type: str, flash_attention: bool, invariance: Invariance
) -> None:
    engine = Pruning(smollm2, kv_type, flash_attention, invariance)
    prompt = passkey(engine, prose)
    plain = engine.plain(prompt, Sampling(), NUM_TOKENS).tokens
    assert engine.pruned(prompt, 0)[0] == plain  # packing the cells changes nothing by itself
    answer, told = engine.pruned(prompt, len(prompt) // 2)
    assert told["pruned"] == len(prompt) // 2
    assert "drafted" not in told
    assert engine.pruned(prompt, len(prompt) // 2, answer[:5])[0] == answer


def test_cells_of_the_whole_prompt_are_kept_and_those_behind_it_are_not(smollm2: "StoredVariant", prose: bytes) -> None:
    engine = Pruning(smollm2, "q8_0", True, FREE)
    prompt = passkey(engine, prose)
    answer, told = engine.pruned(prompt, 40, keep_from=0)
    assert told["kept"] == [0, len(prompt)]
    assert engine.ask("held", prompt=prompt, output=answer)[-1]["reply"]["tokens"] == 0
    assert engine.ask("keep", prompt=prompt, output=answer, first=0)[-1]["reply"]["kept"] is None


def test_slot_of_a_pruned_answer_under_way_is_no_prefix_for_another(smollm2: "StoredVariant", prose: bytes) -> None:
    engine = Pruning(smollm2, "q8_0", True, FREE)
    prompt = passkey(engine, prose)
    alone = engine.plain(prompt, Sampling(), NUM_TOKENS).tokens
    slots = engine.engine._loaded().slots
    for slot in slots:
        slot.clear()
    params = {"prompt": prompt, "sampling": Sampling().model_dump(), "max_tokens": NUM_TOKENS}
    first, second = Recorder(), Recorder()

    pruning = {"num_dropped": len(prompt) // 2, "protected": []}
    engine.engine.handle(Request(first, {"id": 1, "op": "generate", "params": params | {"pruning": pruning}}, b""))
    while not any("token" in message.get("event", {}) for message, _ in first.sent):
        engine.engine.step()
    engine.engine.handle(Request(second, {"id": 2, "op": "generate", "params": params}, b""))
    while engine.engine.is_busy:
        engine.engine.step()
    events = [message["event"] for message, _ in second.sent if "event" in message]
    assert [event["token"] for event in events if "token" in event] == alone
    assert events[0]["reused"] == 0
