"""What was forgotten in the middle of a conversation: the whole house, the real model."""

import asyncio
import contextlib
from pathlib import Path

from edgeagent.core.chat import ChatRequest, Extension, Message
from edgeagent.core.events import Text
from edgeagent.core.plan import PlanKind, ReductionLevel
from edgeagent.daemon import House, open_house
from edgeagent.settings import load_settings

SAID = "The mill stood by the river and had two wheels, and the miller was called Hagen. " * 8
NUM_QUESTIONS = 4


def holding(text: bytes, folder: Path) -> list[Path]:
    """Files in and below the folder."""
    return [file for file in folder.rglob("*") if file.is_file() and text in file.read_bytes()]


async def asked(house: House, talk: list[Message], question: str) -> None:
    """One more question to the assistant, and its answer, in `talk`."""
    talk.append(Message(role="user", content=question))
    wish = Extension(plan=PlanKind.LOCAL, reduce=ReductionLevel.L4)
    request = ChatRequest(messages=tuple(talk), max_tokens=4, edgeagent=wish)
    async with contextlib.aclosing(house.answer(request, "ann")) as events:
        said = [event.text async for event in events if isinstance(event, Text)]
    talk.append(Message(role="assistant", content="".join(said).strip()))


async def talked(house: House) -> list[Message]:
    talk: list[Message] = []
    for number in range(NUM_QUESTIONS):
        await asked(house, talk, f"{SAID} How was it in {1800 + number}?")
    return talk


def test_what_was_forgotten_stays_away_while_its_conversation_goes_on(
    ready_env: dict[str, str], tmp_path: Path
) -> None:
    env = ready_env | {
        "EDGEAGENT__MEMORY__PATH": str(tmp_path / "memory.sqlite"),
        "EDGEAGENT__MEMORY__IDLE_WORK": "false",
        "EDGEAGENT__GOVERNOR__ENABLED": "false",
    }

    async def body() -> None:
        async with open_house(load_settings(environment=env), role="test") as house:
            id_ = await house.remember("ann", "The miller was called Hagen.", "")
            talk = await talked(house)
            [summary] = await house.memories("ann", None, 9, "summary")
            assert summary.item.conversation
            assert await house.forget("ann", id_) == (summary.item.id,)
            await asked(house, talk, "And then?")
            await asked(house, talk, "And after that?")
            assert await house.memories("ann", None, 9) == []
            assert holding(b"Hagen", tmp_path) == []
            await talked(house)  # told again
            assert len(await house.memories("ann", None, 9, "summary")) == 1

    asyncio.run(body())
