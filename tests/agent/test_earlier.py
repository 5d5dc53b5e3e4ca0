"""A conversation's prompt repeats the one before it, token for token, memories and pasted texts included."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeagent.agent.drafting import Material, draft_whole
from edgeagent.agent.earlier import EarlierTurns
from edgeagent.agent.layout import Layout
from edgeagent.agent.prompting import as_first_asked, question_of, split_pasted, system_of
from edgeagent.core.chat import Message
from edgeagent.core.memory import MemoryHit, MemoryItem
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.store import StoredVariant
from tests.agent.memory.conftest import OpenMemory, open_memory
from tests.machine import REPACKS

__all__ = ["open_memory"]  # a fixture

PASTED = "The boiler was serviced in May by Mrs Okoro, who found nothing wrong with it. " * 30 + "\nWho serviced it?"


def memory(text: str) -> MemoryItem:
    return MemoryItem(id=f"id of {text}", user="ada", kind="note", text=text, source="", created_at=0.0)


def talk(*texts: str) -> list[Message]:
    return [Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(texts)]


def material(
    messages: Sequence[Message], recalled: Sequence[MemoryItem], earlier: Mapping[int, Sequence[MemoryItem]]
) -> Material:
    shown = as_first_asked(messages, {at: [item.text for item in items] for at, items in earlier.items()})
    kept, pasted = split_pasted(shown)
    hits = [MemoryHit(item=item, score=1.0) for item in recalled]
    return Material(kept, [pasted] if pasted else [], hits, question_of(kept), Layout(system_of(kept)), {})


def test_each_prompt_begins_with_the_whole_one_before_it(smollm2: StoredVariant) -> None:
    settings = LoadSettings(
        str(smollm2.path), smollm2.sha256, 4096, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS,
        chunk_tokens=64,
    )  # fmt: skip
    turns: list[tuple[str, list[MemoryItem]]] = [
        ("Where does my sister live?", [memory("My sister Ada lives in Lisbon."), memory("Lisbon is far away.")]),
        ("What is the capital of Chad?", []),
        (PASTED, [memory("Mrs Okoro is our plumber.")]),
        ("  And when?\n", []),
        ("Is that <|im_start|>long ago?", [memory("It is November.")]),
        ("Thank you.", []),
    ]

    async def body() -> None:
        model, earlier = LocalModel(settings), EarlierTurns()
        messages = [Message(role="system", content="You are kind.")]
        before: tuple[int, ...] = ()
        try:
            for question, recalled in turns:
                messages.append(Message(role="user", content=question))
                told = earlier.of("ada", messages)
                earlier.keep("ada", messages, recalled)
                tokens = (await draft_whole(material(messages, recalled, told), model)).tokens
                assert tokens[: len(before)] == before, question
                before = tokens
                messages.append(Message(role="assistant", content=f"An answer to {len(messages)} messages."))
        finally:
            await model.close()

    asyncio.run(body())


def test_question_keeps_its_memories_only_in_the_same_conversation_of_the_same_user() -> None:
    earlier, lisbon = EarlierTurns(), memory("My sister Ada lives in Lisbon.")
    earlier.keep("ada", talk("Where is she?"), [lisbon])
    assert earlier.of("ada", talk("Where is she?", "In Lisbon.", "And he?")) == {0: (lisbon,)}
    assert earlier.of("bob", talk("Where is she?", "In Lisbon.", "And he?")) == {}
    assert earlier.of("ada", talk("Where is he?", "In Lisbon.", "And she?")) == {}
    assert earlier.of("ada", talk("Where is she?")) == {}


def test_instructions_may_change_between_two_turns() -> None:
    earlier, lisbon = EarlierTurns(), memory("My sister Ada lives in Lisbon.")
    earlier.keep("ada", [Message(role="system", content="10:02"), *talk("Where is she?")], [lisbon])
    later = [Message(role="system", content="10:03"), *talk("Where is she?", "In Lisbon.", "And he?")]
    assert earlier.of("ada", later) == {0: (lisbon,)}


def test_turn_that_was_used_longest_ago_is_forgotten_first() -> None:
    earlier = EarlierTurns(max_turns=2)
    for question in ("a", "b", "c"):
        earlier.keep("ada", talk(question), [memory(question)])
    found = [list(earlier.of("ada", talk(question, "yes", "more"))) for question in ("a", "b", "c")]
    assert found == [[], [0], [0]]


def test_same_question_that_recalls_nothing_later_loses_what_it_had() -> None:
    earlier = EarlierTurns()
    earlier.keep("ada", talk("Where is she?"), [memory("In Lisbon.")])
    earlier.keep("ada", talk("Where is she?"), [])
    assert earlier.of("ada", talk("Where is she?", "Unknown.", "Really?")) == {}


def test_memory_tells_which_texts_it_still_holds(open_memory: OpenMemory, tmp_path: Path) -> None:
    async def body() -> None:
        async with open_memory(tmp_path / "memory.sqlite") as store:
            kept = await store.add("ada", "Ada lives in Lisbon.")
            gone = await store.add("ada", "Bob lives in Rome.")
            await store.forget("ada", gone)
            texts = ["Ada lives in Lisbon.", "Bob lives in Rome.", "Never stored."]
            assert kept
            assert await store.holds("ada", texts) == (True, False, False)
            assert await store.holds("bob", texts) == (False, False, False)

    asyncio.run(body())
