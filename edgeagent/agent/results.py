"""How a tool's result reaches the answer when the model knows no tool role."""

from collections.abc import Sequence

from edgeagent.agent.grammar import to_gbnf_text
from edgeagent.core.chat import Message

MAX_QUOTED_CHARS = 400  # longer results are material for an answer, not the answer


def with_results_told(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with each tool exchange folded into the user's message that caused it."""
    told: list[Message] = []
    for message in messages:
        if message.role == "tool":
            _fold(told, f"Result of the {message.name or 'tool'} tool: {message.content}")
        elif message.content or not message.tool_calls:
            told.append(message.model_copy(update={"tool_calls": ()}))
    return tuple(told)


def _fold(told: list[Message], result: str) -> None:
    at = next((i for i in reversed(range(len(told))) if told[i].role == "user"), None)
    if at is None:
        told.append(Message(role="user", content=result))
        return
    told[at] = told[at].model_copy(
        update={"content": f"{told[at].content}\n\n{result}\nAnswer with this result, in one sentence."}
    )


def quoting_grammar(result: str) -> str | None:
    """A grammar whose only text is `result`; None when it is too long to be an answer.

    Measured: SmolLM2-135M asked to answer "What is 17 * 23?" from the result "17 * 23 = 391" says "17".
    """
    return to_gbnf_text(result) if 0 < len(result) <= MAX_QUOTED_CHARS else None
