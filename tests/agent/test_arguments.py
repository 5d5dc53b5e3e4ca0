"""What a request offers a tool, without any model: roles, numbers with names, optional values, hostile text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeagent.agent.arguments import Narrowed, narrow
from edgeagent.agent.builtin import CalculatorTool, ClockTool, MemoryTool
from edgeagent.agent.schema import JsonValue, Literals, violation
from edgeagent.agent.schema_reader import read_schema
from edgeagent.core.chat import JsonObject, ToolSpec


def tool(name: str, description: str, required: list[str], **properties: JsonObject) -> ToolSpec:
    schema = {"type": "object", "properties": properties, "required": required}
    return ToolSpec(name=name, description=description, parameters=schema)


FLIGHT = tool(
    "search_flights",
    "Search for flights between two cities",
    ["origin", "destination"],
    origin={"type": "string", "description": "City of departure"},
    destination={"type": "string", "description": "City of arrival"},
    passengers={"type": "integer", "minimum": 1},
)
HOTEL = tool(
    "book_hotel",
    "Book a hotel room",
    ["city", "nights"],
    city={"type": "string"},
    nights={"type": "integer"},
    guests={"type": "integer"},
)
LOCK = tool(
    "lock_door",
    "Lock or unlock a door",
    ["locked"],
    locked={"type": "boolean", "description": "true to lock, false to unlock"},
)
RECIPE = tool(
    "find_recipe",
    "Find a recipe",
    ["ingredients"],
    ingredients={"type": "array", "items": {"type": "string"}},
)
MAIL = tool(
    "send_email",
    "Send an email",
    ["to", "body"],
    to={"type": "string", "format": "email"},
    subject={"type": "string"},
    body={"type": "string"},
)


def offered(spec: ToolSpec, request: str) -> Narrowed:
    return narrow(spec, read_schema(spec.parameters), request)


@pytest.mark.parametrize(
    ("spec", "request_text", "arguments"),
    [
        (FLIGHT, "Are there flights to Lisbon from Vienna?", {"origin": "Vienna", "destination": "Lisbon"}),
        (HOTEL, "A hotel in Porto for 2 guests and 5 nights", {"city": "Porto", "nights": 5, "guests": 2}),
        (HOTEL, "A hotel in Porto for three nights", {"city": "Porto", "nights": 3}),
        (LOCK, "Unlock the back door", {"locked": False}),
        (RECIPE, "Find a recipe with eggs, spinach and cheese", {"ingredients": ["eggs", "spinach", "cheese"]}),
        (MAIL, 'Email ann@example.com: "see you"', {"to": "ann@example.com", "body": "see you"}),
        (ClockTool.spec, "What time is it?", {}),
        (ClockTool.spec, "Current time in Asia/Kolkata?", {"timezone": "Asia/Kolkata"}),
        (CalculatorTool.spec, "20% of 350 is how much?", {"expression": "20 / 100 * 350"}),
        (MemoryTool.spec, "Please remember: rent is due", {"action": "save", "text": "rent is due"}),
        (MemoryTool.spec, "What do you remember about Tom?", {"action": "search", "text": "Tom"}),
    ],
)
def test_narrow_with_every_value_in_the_request_leaves_one_document(
    spec: ToolSpec, request_text: str, arguments: dict[str, JsonValue]
) -> None:
    assert offered(spec, request_text).only_document == arguments


@pytest.mark.parametrize(
    ("spec", "request_text", "missing"),
    [
        (CalculatorTool.spec, "What is algebra?", ("expression",)),
        (MemoryTool.spec, "How does human memory work?", ("text",)),
        (HOTEL, "Book a hotel in Porto", ("nights",)),
        (MAIL, "Tell Ann I am late", ("to",)),
    ],
)
def test_narrow_without_a_needed_value_names_what_is_missing(
    spec: ToolSpec, request_text: str, missing: tuple[str, ...]
) -> None:
    narrowed = offered(spec, request_text)

    assert narrowed.missing == missing
    assert narrowed.evidence == 0


def test_narrow_of_a_nested_object_fills_it_too() -> None:
    place: JsonObject = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    spec = tool("get_weather", "Get the weather", ["location"], location=place)

    assert offered(spec, "What is the weather in Oslo?").only_document == {"location": {"city": "Oslo"}}


def test_narrow_with_an_enum_of_symbols_offers_them_all() -> None:
    spec = tool("draw", "Draw a symbol", ["symbol"], symbol={"enum": ["(", "[", "*+", None, 3]})

    assert offered(spec, "Draw it").schema == Literals(tuple({"symbol": each} for each in ("(", "[", "*+", None, 3)))


def test_narrow_gives_two_parameters_two_values() -> None:
    schema = offered(FLIGHT, "Flights: Paris, Berlin").schema

    assert isinstance(schema, Literals)
    assert all(isinstance(each, dict) and each["origin"] != each["destination"] for each in schema.values)


@given(
    text=st.text(max_size=300),
    spec=st.sampled_from([FLIGHT, HOTEL, LOCK, RECIPE, MAIL, CalculatorTool.spec, MemoryTool.spec]),
)
@example(text="(" * 300, spec=CalculatorTool.spec)
@example(text="remember " * 200 + "that", spec=MemoryTool.spec)
@example(text="one hundred million " * 80, spec=HOTEL)
@example(text="max(1, " * 200, spec=CalculatorTool.spec)
@example(text="9" * 2000, spec=HOTEL)
def test_narrow_of_any_text_offers_only_values_that_fit(spec: ToolSpec, text: str) -> None:
    narrowed = offered(spec, text)

    if isinstance(narrowed.schema, Literals):
        schema = read_schema(spec.parameters)
        assert [violation(schema, value) for value in narrowed.schema.values] == [None] * len(narrowed.schema.values)
