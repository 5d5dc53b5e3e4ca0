"""The three tools every agent has: clock, calculator, memory."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Protocol

from edgeagent.agent import arithmetic
from edgeagent.agent.places import zone_of
from edgeagent.core.chat import JsonObject, ToolSpec
from edgeagent.core.errors import ToolError
from edgeagent.core.memory import MemoryHit

NUM_SEARCH_RESULTS = 5


class MemoryStore(Protocol):
    """The part of a memory that the tool needs."""

    async def search(self, user: str, query: str, k: int) -> Sequence[MemoryHit]: ...

    async def add(self, user: str, text: str, kind: str, source: str) -> str:
        """The id of the stored memory."""
        ...


class ClockTool:
    """Date and time now. `now` gives Unix seconds; `home` is the zone used when none is named."""

    spec = ToolSpec(
        name="clock",
        description=(
            "Tells the current date and time, here or in another place. What time is it now? What day is it today? "
            "What is today's date? What time is it in Tokyo?"
        ),
        parameters={
            "type": "object",
            "properties": {
                "timezone": {
                    "type": "string",
                    "format": "place",
                    "description": "City or IANA time zone, such as Tokyo or Europe/Paris",
                }
            },
            "additionalProperties": False,
        },
    )
    has_side_effects = False

    def __init__(self, now: Callable[[], float], home: tzinfo = UTC) -> None:
        self._now = now
        self._home = home

    async def call(self, arguments: JsonObject, user: str) -> str:
        place: str | None = arguments.get("timezone")
        zone = zone_of(place) if place else self._home
        if zone is None:
            raise ToolError(f"clock: no time zone is known for '{place}'; name a large city or an IANA zone")
        moment = datetime.fromtimestamp(self._now(), zone)
        where = f" in {place}" if place else ""
        return f"It is {moment:%H:%M} on {moment:%A}, {moment.day} {moment:%B %Y}{where} ({zone}, UTC{moment:%z})."


class CalculatorTool:
    spec = ToolSpec(
        name="calculator",
        description=(
            "Computes arithmetic exactly. What is 17 * 23? Calculate 12.5% of 80. What is the square root of 144? "
            "How much is 100 divided by 8?"
        ),
        parameters={
            "type": "object",
            "properties": {
                "expression": {
                    "type": "string",
                    "format": "arithmetic",
                    "maxLength": arithmetic.MAX_EXPRESSION_CHARS,
                    "description": "Numbers, + - * / // % **, parentheses and functions such as sqrt",
                }
            },
            "required": ["expression"],
            "additionalProperties": False,
        },
    )
    has_side_effects = False

    async def call(self, arguments: JsonObject, user: str) -> str:
        expression: str = arguments["expression"]
        return f"{expression} = {arithmetic.spell(arithmetic.evaluate(expression))}"


class MemoryTool:
    spec = ToolSpec(
        name="memory",
        description=(
            "Saves a fact the user wants remembered, or searches what was saved. Remember that my sister's name is "
            "Ada. Make a note that the key is under the mat. What do you remember about my car? "
            "Search your memory for the door code."
        ),
        parameters={
            "type": "object",
            "properties": {
                "action": {
                    "type": "string",
                    "enum": ["save", "search"],
                    "format": "memory-action",
                    "description": "save a fact, or search what was saved",
                },
                "text": {
                    "type": "string",
                    "format": "statement",
                    "minLength": 1,
                    "maxLength": 1000,
                    "description": "The fact to save, or what to search for",
                },
            },
            "required": ["action", "text"],
            "additionalProperties": False,
        },
    )
    has_side_effects = True

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def call(self, arguments: JsonObject, user: str) -> str:
        text: str = arguments["text"]
        if arguments["action"] == "save":
            await self._store.add(user, text, "note", "tool:memory")
            return f"Saved: {text}"
        hits = await self._store.search(user, text, NUM_SEARCH_RESULTS)
        return "\n".join(f"- {hit.item.text}" for hit in hits) or f"Nothing is remembered about '{text}'."
