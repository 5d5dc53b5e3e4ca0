"""Reduction: what fewer prompt tokens do to the likelihood of the right answer and to the time to the first word.

LoCoMo questions (categories 1 to 4) over windows of 6,000 tokens that hold all their evidence. The figure is the mean
log-probability per token of the gold answer, reduced against whole, paired. Weights of the selection are learned on
two conversations, and the figures are of three others. Scores are kept in `bench-reduction.json` in the state folder.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import exactness_split
import harness
import recall_data
import recall_encoder
import recall_fit
import reduction_data
import reduction_times
from reduction_data import LEARNED_ON, Question, Window
from reduction_scoring import Judge, Kept, keep_vectors, vectors_of

from edgeagent.agent.layout import Layout
from edgeagent.agent.memory.features import NAMES
from edgeagent.agent.memory.scoring import Scorer
from edgeagent.agent.prompting import INSTRUCTIONS, compose
from edgeagent.agent.ranking import ranked
from edgeagent.agent.relevance import Unit
from edgeagent.core.chat import Message
from edgeagent.model.reduction import Sentence, select
from edgeagent.model.repeats import repeated
from edgeagent.model.word_pruning import prune_words

FACTORS = (2, 4, 8, 16)
BARS = (4, 8)
Z_95 = 1.96
SEED = 5
VECTORS, WEIGHTS = "bench-reduction-vectors.json", "bench-reduction-weights.json"


@dataclass(frozen=True, slots=True)
class Extent:
    """What is measured."""

    window_tokens: int
    conversations: tuple[str, ...]
    windows: int
    """Of each conversation."""
    questions: int
    """Of each window."""
    curve_every: int
    """Each so many-th question is asked at every factor and with every baseline; the others at those of the bars."""
    models: tuple[str, ...]
    threads: int = 1


FULL = Extent(6000, ("conv-42", "conv-43", "conv-44"), 2, 12, 3, ("smollm2", "gemma"))
QUICK = Extent(3000, ("conv-43",), 1, 5, 5, ("smollm2",))


@dataclass(slots=True)
class Results:
    """Scores by method, with the whole context's of the same questions."""

    pairs: defaultdict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    evidence: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The share of the evidence that a method kept."""
    kept: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The share of the context's tokens that a method kept."""

    def table(self) -> harness.Json:
        return {method: self._row(method) for method in self.pairs}

    def _row(self, method: str) -> harness.Json:
        pairs = self.pairs[method]
        whole = statistics.fmean(w for w, _ in pairs)
        deltas = [r - w for w, r in pairs]
        mean = statistics.fmean(deltas)
        error = statistics.stdev(deltas) / len(deltas) ** 0.5 if len(deltas) > 1 else None
        return {
            "questions": len(pairs),
            "whole": round(whole, 3),
            "reduced": round(whole + mean, 3),
            "delta": round(mean / abs(whole), 4),
            "delta_lower_95": None if error is None else round((mean - Z_95 * error) / abs(whole), 4),
            "evidence_kept": round(statistics.fmean(self.evidence[method]), 3),
            "tokens_kept": round(statistics.fmean(self.kept[method]), 3),
        }


@dataclass(slots=True)
class Bench:
    """Asks one model about windows, whole and reduced."""

    judge: Judge
    embedder: recall_data.Remembering
    scorer: Scorer
    results: Results = field(default_factory=Results)

    async def ask(self, window: Window, curve_every: int) -> None:
        units = window.units()
        counts = self.judge.count([unit.text for unit in units])
        sentences = [Sentence(u.source, i, u.text, n) for i, (u, n) in enumerate(zip(units, counts, strict=True))]
        asked = window.questions
        whole = self._scores(asked, [sentences] * len(asked))
        baselines = self._baselines(sentences, asked[::curve_every])
        for number, (question, score) in enumerate(zip(asked, whole, strict=True)):
            relevance = await ranked(question.text, units, self.embedder, self.scorer)
            is_curve = number % curve_every == 0
            for factor in FACTORS if is_curve else BARS:
                chosen = select(sentences, relevance, sum(counts) // factor, 0.0, repeated(sentences)).kept
                [reduced] = self._scores([question], [chosen])
                self._note(f"L2 {factor}x", window, question, sentences, chosen, (score, reduced))
                if is_curve and factor == BARS[0]:
                    self._note_pruned(window, question, sentences, chosen, score)
            if is_curve:
                for method, (kept, scores) in baselines.items():
                    self._note(method, window, question, sentences, kept, (score, scores[question.text]))
            harness.progress(f"{self.judge.name} {window.conversation}: {number + 1} of {len(asked)} questions")

    def _baselines(
        self, sentences: Sequence[Sentence], asked: Sequence[Question]
    ) -> dict[str, tuple[Sequence[Sentence], dict[str, float]]]:
        """Truncation keeps the newest turns, chance any; both are the same for every question."""
        found: dict[str, tuple[Sequence[Sentence], dict[str, float]]] = {}
        for factor in BARS:
            budget = sum(s.tokens for s in sentences) // factor
            newest = _within(list(reversed(sentences)), budget)
            drawn = _within(random.Random(SEED).sample(sentences, len(sentences)), budget)
            for method, kept in ((f"truncation {factor}x", newest), (f"random {factor}x", drawn)):
                scores = self._scores(asked, [kept] * len(asked))
                found[method] = kept, dict(zip((q.text for q in asked), scores, strict=True))
        return found

    def _note_pruned(
        self,
        window: Window,
        question: Question,
        sentences: Sequence[Sentence],
        chosen: Sequence[Sentence],
        score: float,
    ) -> None:
        """Level L3 on what L2 chose."""
        texts = [s.text for s in chosen]
        pruned = prune_words(texts, [self.judge.bits(text) for text in texts], question.text)
        counts = self.judge.count(pruned)
        kept = [Sentence(s.source, s.index, t, n) for s, t, n in zip(chosen, pruned, counts, strict=True)]
        [reduced] = self._scores([question], [kept])
        self._note("L3 on L2 4x", window, question, sentences, kept, (score, reduced))

    def _scores(self, asked: Sequence[Question], kept: Sequence[Sequence[Sentence]]) -> list[float]:
        prompts = [self.judge.prompt(turns_of(q.text, part)) for q, part in zip(asked, kept, strict=True)]
        scores: list[float] = self.judge.scores(prompts, [q.answer for q in asked])
        return scores

    def _note(
        self,
        method: str,
        window: Window,
        question: Question,
        sentences: Sequence[Sentence],
        kept: Sequence[Sentence],
        pair: tuple[float, float],
    ) -> None:
        evidence = window.evidence(question)
        self.results.pairs[method].append(pair)
        self.results.evidence[method].append(len(evidence & {s.index for s in kept}) / len(evidence))
        self.results.kept[method].append(sum(s.tokens for s in kept) / sum(s.tokens for s in sentences))


def turns_of(question: str, sentences: Sequence[Sentence]) -> list[dict[str, str]]:
    """The prompt as the product composes it, each session a document."""
    texts: dict[str, str] = {}
    for sentence in sentences:
        texts[sentence.source] = texts.get(sentence.source, "") + sentence.text
    return compose([Message(role="user", content=question)], texts, [], Layout(INSTRUCTIONS))


def _within(sentences: Sequence[Sentence], budget: int) -> list[Sentence]:
    """The first that fit, in the order of the text."""
    kept = []
    for sentence in sentences:
        if sentence.tokens > budget:
            break
        budget -= sentence.tokens
        kept.append(sentence)
    return sorted(kept, key=lambda s: s.index)


async def needles(
    windows: Sequence[Window], judge: Judge, embedder: recall_data.Remembering, scorer: Scorer
) -> harness.Json:
    """How much of what was hidden in a window the selection keeps: the share of its sentences."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for seed, window in enumerate([*windows] * 3):
        for name, hide in (("passkey", reduction_data.with_passkey), ("facts", reduction_data.with_facts)):
            hidden = hide(window, seed)
            units = hidden.units()
            sentences = _sentences(units, judge)
            [question] = hidden.questions
            relevance = await ranked(question.text, units, embedder, scorer)
            for factor in FACTORS:
                kept = select(sentences, relevance, sum(s.tokens for s in sentences) // factor, 0.0).kept
                evidence = hidden.evidence(question)
                found[f"{name} {factor}x"].append(len(evidence & {s.index for s in kept}) / len(evidence))
    return {name: round(statistics.fmean(shares), 3) for name, shares in found.items()} | {"windows": len(windows) * 3}


def _sentences(units: Sequence[Unit], judge: Judge) -> list[Sentence]:
    counts = judge.count([unit.text for unit in units])
    return [Sentence(u.source, i, u.text, n) for i, (u, n) in enumerate(zip(units, counts, strict=True))]


async def learned(
    folder: Path, embedder: recall_data.Remembering, conversations: Sequence[recall_data.Conversation], kept: Path
) -> Scorer:
    """Weights of LEARNED_ON, kept in a file as long as the features have the same names."""
    if (found := _weights_of(kept)) is not None:
        return found
    cases: list[recall_data.Case] = []
    for conversation in conversations:
        if conversation.name in LEARNED_ON:
            await recall_data.remember(folder / "locomo.sqlite", embedder, conversation)
            cases += await recall_data.cases(folder / "locomo.sqlite", embedder, conversation)
    fit = recall_fit.fit(cases)
    _keep_weights(kept, fit)
    return Scorer.of(fit.weights, fit.offset)


def _weights_of(path: Path) -> Scorer | None:
    if not path.is_file() or (found := json.loads(path.read_text()))["names"] != list(NAMES):
        return None
    return Scorer.of(found["weights"], found["offset"])


def _keep_weights(path: Path, fit: recall_fit.Fit) -> None:
    path.write_text(json.dumps({"names": NAMES, "weights": fit.weights, "offset": fit.offset}))


async def measure(extent: Extent, models: Path, folder: Path, kept: Kept) -> tuple[harness.Json, harness.Json]:
    conversations = recall_data.load()
    figures: harness.Json = {}
    conditions: harness.Json = {"curves": {}}
    async with recall_encoder.opened(models) as encoder:
        embedder = recall_data.Remembering(encoder, harness.progress)
        embedder.vectors |= vectors_of(models.parent / VECTORS)
        scorer = await learned(folder, embedder, conversations, models.parent / WEIGHTS)
        for name in extent.models:
            if (file := _file_of(name, models)) is None:
                conditions["curves"][name] = "its file is not here"
                continue
            harness.progress(f"{name}: loading")
            judge = Judge(file, extent.threads, kept, extra_buffers=reduction_times.extra_buffers(models.parent))
            windows = [w for c in conversations if c.name in extent.conversations for w in _drawn(c, judge, extent)]
            bench = Bench(judge, embedder, scorer)
            for window in windows:
                await bench.ask(window, extent.curve_every)
                keep_vectors(models.parent / VECTORS, embedder.vectors)
            conditions["curves"][file.name] = bench.results.table()
            if "level_ms" not in conditions:
                conditions["needles_kept"] = await needles(windows, judge, embedder, scorer)
                conditions["level_ms"] = await reduction_times.levels(windows[0].units(), judge, encoder, scorer)
    tables = [table for table in conditions["curves"].values() if isinstance(table, dict)]
    figures["answer_logprob_delta_4x"] = min(table["L2 4x"]["delta_lower_95"] for table in tables)
    figures["answer_logprob_delta_8x"] = min(table["L2 8x"]["delta"] for table in tables)
    return figures, conditions | {"learned_on": LEARNED_ON, "judged_on": extent.conversations}


def _drawn(conversation: recall_data.Conversation, judge: Judge, extent: Extent) -> list[Window]:
    counts = judge.count([turn.text + "\n" for turn in conversation.turns])
    every = reduction_data.windows(conversation, counts, extent.window_tokens)
    chosen: list[Window] = reduction_data.drawn(every, extent.windows, extent.questions, SEED)
    return chosen


def _longest(extent: Extent) -> tuple[str, list[str]]:
    """A conversation's text of about a window's tokens, at 4 characters a token, and questions about it."""
    conversation = next(c for c in recall_data.load() if c.name in extent.conversations)
    text = "\n".join(turn.text for turn in conversation.turns)[: 4 * extent.window_tokens]
    return text.rsplit("\n", 1)[0], [inquiry.text for inquiry in conversation.inquiries]


def _file_of(name: str, models: Path) -> Path | None:
    if name == "smollm2":
        chat: Path = models / harness.CHAT_MODEL / "SmolLM2-135M-Instruct.Q4_1.gguf"
        return chat
    file: Path | None = exactness_split.gemma_file(models, fetch=True)
    return file


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one document on stdout")
    parser.add_argument("--quick", action="store_true", help="a seeded sample, at most five minutes")
    parser.add_argument("--window-tokens", type=int, help="another length of the context")
    parser.add_argument("--conversations", help="names with commas, of those that nothing was learned on")
    parser.add_argument("--windows", type=int, help="of each conversation")
    parser.add_argument("--questions", type=int, help="of each window")
    parser.add_argument("--models", help="smollm2, gemma, or both, with a comma")
    parser.add_argument("--threads", type=int, default=len(harness.cores()), help="of the model that judges")
    parser.add_argument("--no-times", action="store_true", help="leave out the times to the first word")
    return parser.parse_args()


def _extent(options: argparse.Namespace) -> Extent:
    base = QUICK if options.quick else FULL
    return Extent(
        options.window_tokens or base.window_tokens,
        tuple(options.conversations.split(",")) if options.conversations else base.conversations,
        options.windows or base.windows,
        options.questions or base.questions,
        base.curve_every,
        tuple(options.models.split(",")) if options.models else base.models,
        options.threads,
    )


def main() -> None:
    options, started = _options(), time.monotonic()
    extent = _extent(options)
    state = Path(os.environ.get("EDGEAGENT_STATE") or harness.ROOT / ".state")
    is_ready = (state / "profile.json").is_file() and (state / "models" / harness.CHAT_MODEL).is_dir()
    env = os.environ | {"EDGEAGENT_STATE": str(state), "PYTHONPATH": str(harness.ROOT)}
    env = env if is_ready else harness.state_env()  # a profile need not be a whole one here
    kept = Kept(state / "bench-reduction.json")
    with tempfile.TemporaryDirectory() as folder:
        figures, conditions = asyncio.run(measure(extent, state / "models", Path(folder), kept))
    if not options.no_times:
        times, more = reduction_times.first_words(env, *_longest(extent), is_quick=options.quick)
        figures |= times
        conditions |= more
    conditions |= {"window_tokens": extent.window_tokens, "seed": SEED, "took_s": round(time.monotonic() - started, 1)}
    harness.publish("reduction", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
