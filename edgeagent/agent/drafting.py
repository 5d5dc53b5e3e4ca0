"""The prompt of a request at each reduction level that is worth considering."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgeagent.agent.context_shift import shift
from edgeagent.agent.layout import Layout
from edgeagent.agent.prompting import compose
from edgeagent.agent.rolling import Cut, cuts
from edgeagent.agent.stored import Stored
from edgeagent.core.chat import Document, Message
from edgeagent.core.generation import Pruning
from edgeagent.core.memory import MemoryHit
from edgeagent.core.plan import Dropped, Moved, ReductionLevel, ReductionReport
from edgeagent.execution.loaded import LoadedModel
from edgeagent.execution.pruning import WINDOW, num_droppable

REDUCTION_FACTOR = 4
"""Selection keeps a quarter. Measured on long conversations with this recall: the answer's log-probability rose."""
CONVERSATION = "conversation"
MIN_REDUCIBLE_TOKENS = 256
"""Less than this is not worth shortening."""
MIN_PRUNED_TOKENS = 64
"""Fewer positions are not worth a look at what is attended to: attention is over whole blocks of cells anyway."""
PROMPT = "prompt"
LEAST_ATTENDED = (
    f"positions dropped from the cache after the prompt was read: its last {WINDOW} tokens attend to them least"
)
TEMPLATE_TOKENS = 16
"""What templates and our own words put in front of the instructions, and behind the question, at most."""
MAX_QUESTION_TOKENS = 256
"""Of a longer question only so many tokens at its end are protected: then it is what is to be shortened."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One prompt: the chat turns, their token ids, and what was left out."""

    level: ReductionLevel
    turns: Sequence[Mapping[str, str]]
    tokens: tuple[int, ...]
    report: ReductionReport
    pruning: Pruning | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    """What is left of each document."""
    num_questions_gone: int = 0
    """Of the user's oldest messages, those that a summary stands for."""

    def at(self, level: ReductionLevel) -> "Draft":
        return replace(self, level=level, report=self.report.model_copy(update={"level": level}))


@dataclass(frozen=True, slots=True)
class Material:
    """What a prompt is made of."""

    messages: Sequence[Message]
    documents: Sequence[Document]
    memories: Sequence[MemoryHit]
    question: str
    layout: Layout = field(default_factory=lambda: Layout(""))
    """The instructions among `messages`, as they are laid out."""
    earlier: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Ids of the memories in front of earlier questions, by the number of the user's message."""
    gone: "Gone | None" = None
    """The oldest part of the conversation, when there was no room for it."""
    said: Sequence[Message] = ()
    """The messages as the client sent them: what a summary is known by."""
    stored: Stored | None = None
    """What the user's memory knows of these texts; None: it is switched off."""

    @property
    def cuts(self) -> list[Cut]:
        """Where a summary could stand for what came before. A conversation that was cut to fit has none."""
        return cuts(self.said) if len(self.said) == len(self.messages) else []

    @property
    def recalled(self) -> list[str]:
        return [hit.item.text for hit in self.memories]


@dataclass(frozen=True, slots=True)
class Gone:
    """Messages that a context shift left out of a prompt that would have had `prompt_tokens`."""

    messages: int
    prompt_tokens: int


async def shifted(material: Material, model: LoadedModel, room: int, drafts: Sequence[Draft]) -> Material | None:
    """The material without the oldest part of its conversation; None when nothing may go.

    `room` is for the prompt in tokens, `drafts` are those that do not fit, the whole one first.
    """
    counts = await model.count([message.content for message in material.messages])
    if (left := shift(material.messages, counts, room, min(len(draft.tokens) for draft in drafts))) is None:
        return None
    before = material.gone or Gone(0, len(drafts[0].tokens))
    earlier = {at - left.num_questions: ids for at, ids in material.earlier.items() if at >= left.num_questions}
    gone = Gone(before.messages + left.num_messages, before.prompt_tokens)
    return replace(material, messages=left.messages, earlier=earlier, gone=gone)


async def draft_whole(material: Material, model: LoadedModel) -> Draft:
    """Level L0: every line, the changing ones last."""
    documents = {d.source: d.text for d in material.documents}
    turns = compose(material.messages, documents, material.recalled, material.layout)
    tokens = await model.encode(turns)
    moved = await _moved(material.layout, model)
    report = ReductionReport(
        level=ReductionLevel.L0,
        tokens_in=material.gone.prompt_tokens if material.gone else len(tokens),
        tokens_kept=len(tokens),
        dropped=_dropped(material.gone, len(tokens)),
        layout=moved,
    )
    return Draft(ReductionLevel.L0, turns, tokens, report, texts=documents)


async def draft_pruned(material: Material, model: LoadedModel, whole: Draft) -> Draft | None:
    """Level L5: the whole prompt, of whose positions a share is dropped once it was read. None if too few could go.

    The instructions and the question stay.
    """
    num_tokens = len(whole.tokens)
    instructions, question = await model.count([material.layout.stable, f"{material.question}{material.layout.block}"])
    tail = min(question + TEMPLATE_TOKENS, MAX_QUESTION_TOKENS)
    protected = [(num_tokens - tail, num_tokens)] + [(0, instructions + TEMPLATE_TOKENS)] * bool(instructions)
    count = num_droppable(num_tokens, model.settings.prune_share, protected)
    if count < MIN_PRUNED_TOKENS:
        return None
    report = whole.report.model_copy(
        update={
            "level": ReductionLevel.L5,
            "tokens_kept": whole.report.tokens_kept - count,
            "dropped": (*whole.report.dropped, Dropped(source=PROMPT, tokens=count, reason=LEAST_ATTENDED)),
        }
    )
    return replace(whole, level=ReductionLevel.L5, report=report, pruning=Pruning(count, tuple(protected)))


def _dropped(gone: Gone | None, num_tokens: int) -> tuple[Dropped, ...]:
    if gone is None:
        return ()
    reason = f"the oldest {gone.messages} messages: the conversation is longer than the context"
    return (Dropped(source=CONVERSATION, tokens=gone.prompt_tokens - num_tokens, reason=reason),)


async def _moved(layout: Layout, model: LoadedModel) -> Moved | None:
    if not layout.moved:
        return None
    [tokens] = await model.count([layout.block])
    return Moved(lines=len(layout.moved), tokens=tokens)
