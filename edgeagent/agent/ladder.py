"""The rungs between L0 and L5: a prompt whose documents or old turns are shortened, as far as there is something to.

L1 leaves out repeats. L2 keeps a quarter of what is left, by relevance to the question. L3 also drops words inside
these sentences, never in quotes, L4 also has a summary in place of old turns. Instructions, tools and the newest turns
stay.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgeagent.agent.drafting import CONVERSATION, MIN_REDUCIBLE_TOKENS, REDUCTION_FACTOR, Draft, Material
from edgeagent.agent.prompting import compose
from edgeagent.agent.ranking import ranked
from edgeagent.agent.relevance import Unit
from edgeagent.agent.rolling import with_summary
from edgeagent.core.memory import Embedder
from edgeagent.core.plan import Dropped, ReductionLevel
from edgeagent.execution.loaded import LoadedModel
from edgeagent.execution.local import LocalModel
from edgeagent.model.reduction import Selection, Sentence, select, selection_without, with_texts
from edgeagent.model.repeats import repeated
from edgeagent.model.sentences import split_sentences
from edgeagent.model.surprisal import of_words
from edgeagent.model.word_pruning import EASY_TO_GUESS, prune_words

Wish = ReductionLevel | Literal["auto"]
SumUp = Callable[[], Awaitable[str | None]]
"""Makes a summary of a conversation's old turns now, for who asked for it."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Drafts of one request below the whole one. `auto` makes those that cost no run of the model."""

    material: Material
    model: LoadedModel
    embedder: Embedder
    whole: Draft
    wish: Wish
    sum_up: SumUp

    async def drafts(self) -> list[Draft]:
        sentences = await self._sentences()
        made = await self._of_documents(sentences) if sentences else []
        if (summed := await self._summed_up(made)) is not None:
            made.append(summed)
        return [draft for draft in made if self.wish == "auto" or draft.level is self.wish]

    async def _sentences(self) -> list[Sentence]:
        """Those of the documents; none when they are too short to be shortened."""
        units = [
            (document.source, index, text)
            for document in self.material.documents
            for index, text in enumerate(split_sentences(document.text))
        ]
        counts = await self.model.count([text for _, _, text in units]) if units else []
        if sum(counts) < MIN_REDUCIBLE_TOKENS:
            return []
        return [Sentence(source, i, text, tokens=n) for (source, i, text), n in zip(units, counts, strict=True)]

    async def _of_documents(self, sentences: Sequence[Sentence]) -> list[Draft]:
        gone = await asyncio.to_thread(repeated, sentences)
        made = []
        if gone or self.wish is ReductionLevel.L1:
            unique = selection_without(sentences, gone, ReductionLevel.L1)
            made.append(await self._draft(unique, ReductionLevel.L1))
        if self.wish is ReductionLevel.L1:
            return made
        units = [Unit(s.source, s.text) for s in sentences]
        relevance = await ranked(self.material.question, units, self.embedder)
        budget = sum(s.tokens for s in sentences) // REDUCTION_FACTOR
        chosen = select(sentences, relevance, budget, 0.0, gone)
        made.append(await self._draft(chosen, ReductionLevel.L2))
        if self.wish in ("auto", ReductionLevel.L3) and (pruned := await self._pruned(sentences, chosen)):
            made.append(await self._draft(pruned, ReductionLevel.L3))
        return made

    async def _pruned(self, sentences: Sequence[Sentence], chosen: Selection) -> Selection | None:
        """The chosen sentences without words that could be guessed; None when that is not known for free."""
        known = await self._stored_bits(sentences)
        bits = [known.get((s.source, s.index)) for s in chosen.kept]
        if None in bits:
            if self.wish is not ReductionLevel.L3:
                return None
            bits = await self._measured(chosen.kept, bits)
        texts = prune_words([s.text for s in chosen.kept], bits, self.material.question)
        counts = await self.model.count(texts)
        return with_texts(chosen, texts, counts, EASY_TO_GUESS, ReductionLevel.L3)

    async def _stored_bits(self, sentences: Sequence[Sentence]) -> dict[tuple[str, int], tuple[float, ...] | None]:
        found: dict[tuple[str, int], tuple[float, ...] | None] = {}
        for document in self.material.documents if self.material.stored else ():
            own = [s for s in sentences if s.source == document.source]
            assert self.material.stored is not None
            bits = await self.material.stored.bits(document.text, [s.text for s in own])
            found |= {(s.source, s.index): told for s, told in zip(own, bits, strict=True)}
        return found

    async def _measured(
        self, kept: Sequence[Sentence], known: Sequence[tuple[float, ...] | None]
    ) -> list[tuple[float, ...] | None]:
        """With what is not stored measured now: reading it costs as much as it costs in the prompt.

        A head alone predicts nothing, and measures nothing.
        """
        if not isinstance(self.model, LocalModel):
            return list(known)
        lacking = [s.text for s, told in zip(kept, known, strict=True) if told is None]
        tokens = iter(await self.model.surprisals(lacking))
        return [
            tuple(of_words(s.text, next(tokens))) if told is None else told for s, told in zip(kept, known, strict=True)
        ]

    async def _summed_up(self, made: Sequence[Draft]) -> Draft | None:
        """Level L4: the shortest documents so far, behind a summary of the old turns."""
        if self.wish not in ("auto", ReductionLevel.L4):
            return None
        found = await self._summary()
        shortest = min([self.whole, *(d for d in made if d.level is ReductionLevel.L2)], key=lambda d: len(d.tokens))
        if found is None:
            is_asked = self.wish is ReductionLevel.L4 and shortest is not self.whole
            return shortest.at(ReductionLevel.L4) if is_asked else None
        num_messages, summary = found
        material = replace(self.material, messages=with_summary(self.material.messages, num_messages, summary))
        turns = compose(material.messages, shortest.texts, material.recalled, material.layout)
        tokens = await self.model.encode(turns)
        gone = Dropped(
            source=CONVERSATION,
            tokens=max(0, len(shortest.tokens) - len(tokens)),
            reason=f"a summary stands for the oldest {num_messages} messages",
        )
        told = {"tokens_kept": len(tokens), "dropped": (*shortest.report.dropped, gone)}
        report = shortest.report.model_copy(update=told)
        num_questions = sum(m.role == "user" for m in self.material.messages[:num_messages])
        summed = replace(shortest, turns=turns, tokens=tokens, report=report, num_questions_gone=num_questions)
        return summed.at(ReductionLevel.L4)

    async def _summary(self) -> tuple[int, str] | None:
        """A stored summary and how many messages it stands for; one made now where it was asked for."""
        for cut in self.material.cuts if self.material.stored else ():
            assert self.material.stored is not None
            if (text := await self.material.stored.summary(cut.key)) is not None:
                return cut.num_messages, text
        if self.wish is ReductionLevel.L4 and self.material.cuts and (text := await self.sum_up()):
            return self.material.cuts[0].num_messages, text
        return None

    async def _draft(self, selection: Selection, level: ReductionLevel) -> Draft:
        material, whole = self.material, self.whole
        turns = compose(material.messages, selection.texts, material.recalled, material.layout)
        tokens = await self.model.encode(turns)
        report = whole.report.model_copy(
            update={
                "level": level,
                "tokens_kept": len(tokens),
                "dropped": (*whole.report.dropped, *selection.report.dropped),
                "order": selection.report.order,
            }
        )
        return Draft(level, turns, tokens, report, texts=selection.texts)
