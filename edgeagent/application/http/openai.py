"""Reads an OpenAI chat completion request into a ChatRequest.

Follows https://platform.openai.com/docs/api-reference/chat/create: what is supported is typed here, what is known
but not supported is refused by name, what is unknown is ignored (as other compatible servers do).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, ValidationError

from edgeagent.application.http.errors import ParameterError, from_validation
from edgeagent.application.http.sampling import WireSampling
from edgeagent.application.http.shapes import Wire, one_of
from edgeagent.core.chat import (
    ChatRequest,
    Document,
    Extension,
    JsonObject,
    Message,
    ToolCall,
    ToolChoice,
    ToolSpec,
)

ADAPTER_MARK = ":"
"""In the name of a model, before that of an adapter."""


class TextPart(Wire):
    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("~text")] | Annotated[tuple[TextPart, ...], Tag("~list")],
    one_of("Input should be a string or a list of text parts"),
]


class WireFunctionCall(Wire):
    name: str
    arguments: str


class WireToolCall(Wire):
    id: str
    type: Literal["function"] = "function"
    function: WireFunctionCall


class WireMessage(Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: tuple[WireToolCall, ...] | None = None
    tool_call_id: str | None = None

    def to_core(self) -> Message:
        parts = self.content or ""
        calls = self.tool_calls or ()
        return Message(
            role="system" if self.role == "developer" else self.role,
            content=parts if isinstance(parts, str) else "\n".join(part.text for part in parts),
            name=self.name,
            tool_calls=tuple(ToolCall(id=c.id, name=c.function.name, arguments=c.function.arguments) for c in calls),
            tool_call_id=self.tool_call_id,
        )


class WireFunction(Wire):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: JsonObject | None = None


class WireTool(Wire):
    type: Literal["function"]
    function: WireFunction

    def to_core(self) -> ToolSpec:
        facts: dict[str, Any] = {"name": self.function.name, "description": self.function.description or ""}
        if self.function.parameters is not None:
            facts["parameters"] = self.function.parameters
        return ToolSpec(**facts)


class WireNamed(Wire):
    name: str


class WireNamedTool(Wire):
    type: Literal["function"]
    function: WireNamed


WireToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("~text")] | Annotated[WireNamedTool, Tag("~object")],
    one_of("Input should be 'auto', 'none', 'required' or a named function"),
]

Stop = Annotated[
    Annotated[str, Field(min_length=1), Tag("~text")]
    | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=4), Tag("~list")],
    one_of("Input should be a string or a list of at most 4 strings"),
]


class StreamOptions(Wire):
    include_usage: bool = False


class WireExtension(Extension):
    """The request's `edgeagent` object: the core's extension, and two facts only this surface needs."""

    events: bool = False
    """True: a stream also tells each step of the answer, in chunks with an `edgeagent_event`."""
    documents: tuple[Document, ...] = ()
    """Text given along with the question; only this may be shortened."""

    def to_core(self) -> Extension:
        return Extension(**self.model_dump(exclude={"events", "documents"}))


class Unavailable(Wire):
    """Parameters of the OpenAI API that this version cannot honour: each is let through only where it asks nothing."""

    n: Literal[1] | None = None
    modalities: tuple[Literal["text"], ...] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    functions: None = None
    function_call: None = None
    store: Literal[False] | None = None


class WireRequest(WireSampling, Unavailable):
    messages: tuple[WireMessage, ...] = Field(min_length=1)
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: tuple[WireTool, ...] | None = None
    tool_choice: WireToolChoice | None = None
    parallel_tool_calls: bool | None = None
    stop: Stop | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    """Accepted and unused, as an abuse-tracking label: whose memories are meant is `edgeagent.user`."""
    edgeagent: WireExtension = WireExtension()


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One request as this surface will serve it."""

    request: ChatRequest
    is_stream: bool
    include_usage: bool
    with_events: bool
    one_tool_call: bool
    """True when the caller forbade parallel tool calls: the first one ends the answer's list."""


def read_chat(body: bytes, draw_seed: Callable[[], int]) -> ChatCall:
    """The request in `body`. `draw_seed` gives a seed where sampling wants one and none was named.

    Raises RequestError, naming the parameter where there is one.
    """
    wire = _parse(body)
    _check_messages(wire.messages)
    _check_tools(wire)
    if wire.stream_options is not None and not wire.stream:
        raise ParameterError("stream_options needs stream; set stream to true", "stream_options")
    return ChatCall(
        request=_to_core(wire, draw_seed),
        is_stream=bool(wire.stream),
        include_usage=wire.stream_options is not None and wire.stream_options.include_usage,
        with_events=wire.edgeagent.events,
        one_tool_call=wire.parallel_tool_calls is False,
    )


def _parse(body: bytes) -> WireRequest:
    try:
        return WireRequest.model_validate_json(body)
    except ValidationError as error:
        param = str(next(iter(error.errors(include_url=False, include_input=False)[0]["loc"]), ""))
        if param in Unavailable.model_fields:
            text = f"parameter '{param}': this value is not available in this version; leave it out"
            raise ParameterError(text, param) from None
        raise from_validation(error) from None


def _check_messages(messages: tuple[WireMessage, ...]) -> None:
    open_calls: set[str] = set()
    for place, message in enumerate(messages):
        if message.role == "tool" and message.tool_call_id not in open_calls:
            param = f"messages.{place}.tool_call_id"
            raise ParameterError(f"parameter '{param}': no tool call before it has this id; correct it", param)
        if message.content is None and not message.tool_calls and message.role != "assistant":
            param = f"messages.{place}.content"
            raise ParameterError(f"parameter '{param}': a {message.role} message needs it; add it", param)
        open_calls.update(call.id for call in message.tool_calls or ())


def _check_tools(wire: WireRequest) -> None:
    names = [tool.function.name for tool in wire.tools or ()]
    if len(set(names)) < len(names):
        raise ParameterError("parameter 'tools': two tools have one name; rename one", "tools")
    choice = wire.tool_choice
    if choice == "required" and not names:
        raise ParameterError("parameter 'tool_choice': 'required' needs tools; add one", "tool_choice")
    if isinstance(choice, WireNamedTool) and choice.function.name not in names:
        raise ParameterError(
            f"parameter 'tool_choice': no tool is named '{choice.function.name}'; name one of tools", "tool_choice"
        )


def _to_core(wire: WireRequest, draw_seed: Callable[[], int]) -> ChatRequest:
    return ChatRequest(
        messages=tuple(message.to_core() for message in wire.messages),
        documents=wire.edgeagent.documents,
        model=wire.model.partition(ADAPTER_MARK)[0] or None if wire.model else None,
        tools=tuple(tool.to_core() for tool in wire.tools or ()),
        tool_choice=_tool_choice(wire),
        sampling=wire.sampling(draw_seed),
        max_tokens=wire.max_completion_tokens or wire.max_tokens,
        stop=(wire.stop,) if isinstance(wire.stop, str) else wire.stop or (),
        edgeagent=_extension(wire),
    )


def _extension(wire: WireRequest) -> Extension:
    """With the adapter of a model named `ID:ADAPTER`."""
    wish = wire.edgeagent.to_core()
    _, mark, name = (wire.model or "").partition(ADAPTER_MARK)
    if not mark:
        return wish
    if wish.adapter not in (None, name):
        raise ParameterError(
            f"parameter 'model' names the adapter '{name}', 'edgeagent' another; leave one out", "model"
        )
    try:
        return Extension.model_validate(wish.model_dump() | {"adapter": name})
    except ValidationError:
        raise ParameterError(f"parameter 'model': '{name}' is no name of an adapter; correct it", "model") from None


def _tool_choice(wire: WireRequest) -> ToolChoice:
    if isinstance(wire.tool_choice, WireNamedTool):
        return ToolChoice(mode="named", name=wire.tool_choice.function.name)
    return ToolChoice(mode=wire.tool_choice or "auto")
