"""What a tool is, and the registry that checks every call before it runs and caps what comes back."""

import json
from collections.abc import Iterable
from typing import Protocol

from edgeagent.agent.schema import Schema, violation
from edgeagent.agent.schema_reader import read_schema
from edgeagent.core.chat import JsonObject, ToolCall, ToolSpec
from edgeagent.core.errors import ConfigError, NotFoundError, ToolError

MAX_ARGUMENT_CHARS = 16_384
MAX_RESULT_CHARS = 4_000  # about a thousand tokens: a result must leave room for the answer


class Tool(Protocol):
    """Something the agent can do. `call` gets arguments that fit the spec and raises ToolError in clear words."""

    @property
    def spec(self) -> ToolSpec: ...

    @property
    def has_side_effects(self) -> bool:
        """True when a call changes anything that outlives the request."""
        ...

    async def call(self, arguments: JsonObject, user: str) -> str: ...


class ToolRegistry:
    """Tools by name. Raises ConfigError for a name given twice, RequestError for a schema it cannot check."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools: dict[str, Tool] = {}
        self._schemas: dict[str, Schema] = {}
        for tool in tools:
            if tool.spec.name in self._tools:
                raise ConfigError(f"two tools are named '{tool.spec.name}'; rename one")
            self._tools[tool.spec.name] = tool
            self._schemas[tool.spec.name] = read_schema(tool.spec.parameters)

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self._tools.values())

    def without_side_effects(self) -> "ToolRegistry":
        """The tools that a less trusted surface may use."""
        return ToolRegistry(tool for tool in self._tools.values() if not tool.has_side_effects)

    async def call(self, call: ToolCall, user: str) -> str:
        """The tool's result, at most MAX_RESULT_CHARS long. Raises NotFoundError, ToolError."""
        tool = self._tools.get(call.name)
        if tool is None:
            raise NotFoundError(f"no tool is named '{call.name}'; use one of {', '.join(self._tools) or 'none'}")
        arguments = parse_arguments(call)
        if problem := violation(self._schemas[call.name], arguments, "arguments"):
            raise ToolError(f"{call.name}: {problem}; correct the arguments")
        return _capped(await tool.call(arguments, user))


def parse_arguments(call: ToolCall) -> JsonObject:
    """The call's arguments as an object. Raises ToolError when the document is too long or no JSON object."""
    if len(call.arguments) > MAX_ARGUMENT_CHARS:
        raise ToolError(f"{call.name}: arguments exceed {MAX_ARGUMENT_CHARS} characters; shorten them")
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        raise ToolError(f"{call.name}: arguments are not JSON; correct them") from None
    if not isinstance(arguments, dict):
        raise ToolError(f"{call.name}: arguments are not a JSON object; correct them")
    return arguments


def _capped(result: str) -> str:
    left_out = len(result) - MAX_RESULT_CHARS
    return f"{result[:MAX_RESULT_CHARS]}\n[{left_out} more characters left out]" if left_out > 0 else result
