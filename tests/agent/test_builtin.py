"""Clock, calculator and memory, called the way the loop calls them."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from edgeagent.agent.builtin import CalculatorTool, ClockTool, MemoryTool
from edgeagent.agent.places import zone_of
from edgeagent.core.errors import ToolError
from edgeagent.core.memory import MemoryHit, MemoryItem

MOMENT = datetime(2026, 7, 31, 22, 5, tzinfo=UTC).timestamp()


class ListMemory:
    """Keeps what it is given; finds every note that shares a word with the query."""

    def __init__(self) -> None:
        self.items: list[MemoryItem] = []

    async def add(self, user: str, text: str, kind: str, source: str) -> str:
        item = MemoryItem(id=f"m{len(self.items)}", user=user, kind=kind, text=text, source=source, created_at=0.0)
        self.items.append(item)
        return item.id

    async def search(self, user: str, query: str, k: int) -> Sequence[MemoryHit]:
        words = set(query.split())
        mine = [item for item in self.items if item.user == user and words & set(item.text.split())]
        return [MemoryHit(item=item, score=1.0) for item in mine[:k]]


def ask_clock(**arguments: str) -> str:
    return asyncio.run(ClockTool(lambda: MOMENT).call(arguments, "ann"))


def test_clock_without_a_place_tells_the_home_time() -> None:
    assert ask_clock() == "It is 22:05 on Friday, 31 July 2026 (UTC, UTC+0000)."


@pytest.mark.parametrize("place", ["Tokyo", "Asia/Tokyo", "japan"])
def test_clock_in_another_place_tells_its_date_too(place: str) -> None:
    assert ask_clock(timezone=place) == f"It is 07:05 on Saturday, 1 August 2026 in {place} (Asia/Tokyo, UTC+0900)."


def test_clock_in_an_unknown_place_says_so() -> None:
    with pytest.raises(ToolError, match="Atlantis"):
        ask_clock(timezone="Atlantis")


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "/etc/localtime", "a\0b"])
def test_zone_of_a_hostile_name_is_none(name: str) -> None:
    assert zone_of(name) is None


def test_calculator_shows_the_sum_and_its_value() -> None:
    assert asyncio.run(CalculatorTool().call({"expression": "17 * 23"}, "ann")) == "17 * 23 = 391"


def test_memory_saves_and_finds_for_the_same_user_only() -> None:
    async def scenario() -> tuple[str, str]:
        tool = MemoryTool(ListMemory())
        await tool.call({"action": "save", "text": "my sister is Ada"}, "ann")
        return (
            await tool.call({"action": "search", "text": "my sister"}, "ann"),
            await tool.call({"action": "search", "text": "my sister"}, "bob"),
        )

    mine, others = asyncio.run(scenario())
    assert mine == "- my sister is Ada"
    assert others == "Nothing is remembered about 'my sister'."
