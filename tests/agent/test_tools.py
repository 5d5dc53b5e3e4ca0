"""The registry between a model's call and a tool: everything wrong stops here, in clear words."""

import asyncio

import pytest

from edgeagent.agent.tools import MAX_RESULT_CHARS, ToolRegistry
from edgeagent.core.chat import JsonObject, ToolCall, ToolSpec
from edgeagent.core.errors import ConfigError, NotFoundError, RequestError, ToolError


class Repeat:
    """Says a word a number of times."""

    def __init__(self, *, has_side_effects: bool = False, keyword: str = "minimum") -> None:
        times = {"type": "integer", keyword: 1, "maximum": 5000}
        self.spec = ToolSpec(
            name="repeat",
            parameters={
                "type": "object",
                "properties": {"word": {"type": "string"}, "times": times},
                "required": ["word", "times"],
            },
        )
        self.has_side_effects = has_side_effects

    async def call(self, arguments: JsonObject, user: str) -> str:
        return str(arguments["word"]) * int(arguments["times"])


def call(arguments: str, name: str = "repeat") -> str:
    return asyncio.run(ToolRegistry([Repeat()]).call(ToolCall(id="1", name=name, arguments=arguments), "ann"))


def test_call_with_fitting_arguments_returns_the_result() -> None:
    assert call('{"word": "ab", "times": 2}') == "abab"


def test_call_with_a_long_result_is_capped_and_says_so() -> None:
    result = call('{"word": "ab", "times": 5000}')

    assert result.startswith("ab" * (MAX_RESULT_CHARS // 2))
    assert result.endswith(f"[{10_000 - MAX_RESULT_CHARS} more characters left out]")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ('{"word": "ab"}', "arguments.times is missing"),
        ('{"word": 3, "times": 1}', "arguments.word is not a string"),
        ('{"word": "a", "times": 1.5}', "not a whole number"),
        ('{"word": "a", "times": true}', "not a number"),
        ('{"word": "a", "times": 0}', "below 1"),
        ('{"word": "a", "times": 1, "x": 2}', "arguments.x is not a known name"),
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        ("[" * 16_000, "not JSON"),
        (" " * 20_000, "16384 characters"),
    ],
)
def test_call_with_wrong_arguments_names_what_is_wrong(arguments: str, why: str) -> None:
    with pytest.raises(ToolError, match=why):
        call(arguments)


def test_call_of_an_unknown_tool_names_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match="repeat"):
        call("{}", name="clock")


def test_registry_refuses_two_tools_of_one_name() -> None:
    with pytest.raises(ConfigError, match="repeat"):
        ToolRegistry([Repeat(), Repeat()])


def test_registry_refuses_a_schema_it_cannot_check() -> None:
    with pytest.raises(RequestError, match="multipleOf"):
        ToolRegistry([Repeat(keyword="multipleOf")])


def test_registry_without_side_effects_drops_the_tools_that_have_them() -> None:
    assert not ToolRegistry([Repeat(has_side_effects=True)]).without_side_effects().specs
    assert "repeat" in ToolRegistry([Repeat()]).without_side_effects()
