"""What the model reads: instructions, memories, documents, the conversation. Pure.

What changes from one request to the next comes last, so that the front of the prompt stays in the cache.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from edgeagent.agent.layout import Layout
from edgeagent.core.chat import Document, Message

INSTRUCTIONS = "You are a helpful assistant."
# Wording chosen on ten questions to SmolLM2-135M: 8 right, against 3 to 8 for nine other wordings. Small models
# follow few words better than many.
LONG_MESSAGE_CHARS = 1600
"""A user's last message beyond this is taken for a document with a question at its end."""
PASTED = "your message"


def question_of(messages: Sequence[Message]) -> str:
    """The newest thing the user said; empty if there is none."""
    return next((m.content for m in reversed(messages) if m.role == "user"), "")


def split_pasted(messages: Sequence[Message]) -> tuple[tuple[Message, ...], Document | None]:
    """A long last message as a document and the question behind it, so that only the document may be shortened."""
    last = messages[-1]
    if last.role != "user" or len(last.content) <= LONG_MESSAGE_CHARS:
        return tuple(messages), None
    body, _, question = last.content.rstrip().rpartition("\n")
    if not body.strip() or not 0 < len(question) <= LONG_MESSAGE_CHARS:
        return tuple(messages), None
    shortened = last.model_copy(update={"content": question.strip()})
    return (*messages[:-1], shortened), Document(source=PASTED, text=body.rstrip())


def told_apart(documents: Iterable[Document]) -> tuple[Document, ...]:
    """The documents, of which those with a name that another one has get a number: texts are known by it."""
    taken: set[str] = set()
    nexts: Counter[str] = Counter()
    apart: list[Document] = []
    for document in documents:
        name = document.source
        while name in taken:
            nexts[document.source] += 1
            name = f"{document.source} ({nexts[document.source] + 1})"
        taken.add(name)
        apart.append(document.model_copy(update={"source": name}))
    return tuple(apart)


def system_of(messages: Sequence[Message]) -> str:
    """The instructions: what the messages say as system, else the product's own."""
    return "\n".join(m.content for m in messages if m.role == "system") or INSTRUCTIONS


def as_first_asked(messages: Sequence[Message], earlier: Mapping[int, Sequence[str]]) -> tuple[Message, ...]:
    """The conversation with each earlier question as the model read it when it was the newest.

    `earlier` has the memories by the number of the user's message. The newest one is left to `compose`.
    """
    newest = sum(m.role == "user" for m in messages) - 1
    shown: list[Message] = []
    number = 0
    for message in messages:
        if message.role == "user":
            if number < newest:
                message = _as_first_asked(message, earlier.get(number, ()))
            number += 1
        shown.append(message)
    return tuple(shown)


def _as_first_asked(message: Message, memories: Sequence[str]) -> Message:
    [question], pasted = split_pasted([message])
    context = _context({pasted.source: pasted.text} if pasted else {}, memories)
    return message.model_copy(update={"content": _asked(question.content, context)}) if context else message


def compose(
    messages: Sequence[Message], documents: Mapping[str, str], memories: Sequence[str], layout: Layout
) -> list[dict[str, str]]:
    """Chat turns for the model's template. `documents` maps a source to its text, whole or reduced.

    The instructions come first, then the conversation as it was; what is of this request alone stands in the newest
    turn: documents and memories, the question, and lines that change (in front of documents where there are any).
    So a prompt repeats the one before it up to its newest question, and where nothing was moved out of the
    instructions, and the client sends what it was answered, the whole of it.
    """
    turns = [_turn(m) for m in messages if m.role != "system"]
    if context := _context(documents, memories):
        _ask_from(turns, f"{layout.block}\n\n{context}" if layout.moved else context)
    elif layout.moved:
        _follow(turns, layout.block)
    return [{"role": "system", "content": layout.stable}, *turns]


def _context(documents: Mapping[str, str], memories: Sequence[str]) -> str:
    parts = [text if source == PASTED else f"{source}:\n{text}" for source, text in documents.items()]
    if memories:
        parts.append("\n".join(f"- {text}" for text in memories))
    return "\n\n".join(parts)


def _asked(question: str, context: str) -> str:
    return f"Context:\n{context}\n\nQuestion: {question}\nAnswer from the context."


def _turn(message: Message) -> dict[str, str]:
    if message.role == "assistant" and message.tool_calls:
        calls = "\n".join(f"{call.name}({call.arguments})" for call in message.tool_calls)
        return {"role": "assistant", "content": f"{message.content}\n{calls}".strip()}
    return {"role": "user" if message.role == "tool" else message.role, "content": message.content}


def _follow(turns: list[dict[str, str]], block: str) -> None:
    """Put `block` behind the newest question.

    Measured with SmolLM2-135M on a list of ten lamps, one of which had changed: the log-odds of the right state were
    higher than with the list as given, and fell when the block stood in front of the question.
    """
    turn = next(turn for turn in reversed(turns) if turn["role"] == "user")
    turn["content"] = f"{turn['content']}\n\n{block}"


def _ask_from(turns: list[dict[str, str]], context: str) -> None:
    """Turn the newest question into one about `context`."""
    for turn in reversed(turns):
        if turn["role"] == "user":
            turn["content"] = _asked(turn["content"], context)
            return
    turns.append({"role": "user", "content": context})
