"""Memory: what recall finds on LoCoMo by weights learned on the other conversations, how long it takes, what it weighs.

The learned score stands beside its baselines over the same memories: SQLite's own BM25, the dense vectors, and the two
fused by rank. Times are the store's for one question, its embedding apart, on synthetic memories (halves of LoCoMo
turns joined, signatures drawn); `cpu` figures are processor time, which other programs disturb less.
"""

import asyncio
import json
import os
import random
import re
import statistics
import tempfile
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import apsw
import harness
import insert_rates
import numpy as np
import recall_data
import recall_encoder
import recall_fit

from edgeagent.agent.memory.cues import spoken, without_names
from edgeagent.agent.memory.recall import Question
from edgeagent.agent.memory.reranking import NUM_RERANKED
from edgeagent.agent.memory.store import MemoryStore, NewMemory
from edgeagent.core.memory import Embedder, Vector, WordMatcher
from edgeagent.execution.embedding import OnnxEmbedder
from edgeagent.execution.onnx.engine import SentenceModel

NUM_QUERIES, QUICK_QUERIES = 300, 60
QUICK_INQUIRIES = 60
SMALL, LARGE, OWN = 10_000, 100_000, 2_000
BATCH = 1_000
RRF_K = 60
"""Reciprocal rank fusion's constant (Cormack, Clarke and Büttcher, SIGIR 2009)."""

NUM_DRAWS = 1_000

Shares = tuple[float, float]
"""Of one question's evidence, among the first 10 and the first 5."""
Results = defaultdict[tuple[str, str], defaultdict[str, list[Shares]]]
"""By method and category, then by conversation."""
Ranker = Callable[[str], list[str]]
"""Ids of turns for a question, best first."""


async def measure(folder: Path, *, quick: bool) -> tuple[harness.Json, harness.Json]:
    conversations = recall_data.load()
    models = Path(os.environ.get("EDGEAGENT_STATE") or harness.ROOT / ".state") / "models"
    async with recall_encoder.opened(models) as encoder:
        embedder = recall_data.Remembering(encoder, harness.progress)
        encoder_files = await recall_encoder.files(models)
        matching = recall_data.Matching(SentenceModel.load(encoder_files.model, encoder_files.tokenizer, 1))
        table, recall_conditions = await recall_table(folder, embedder, matching, conversations, quick=quick)
        recall_conditions["matching_ms"] = await matching_ms(encoder, conversations)
        asked = [Question(i.text, (await embedder.embed([i.text]))[0], 1.7e9) for i in questions(conversations, quick)]
    figures, conditions = scale(folder, conversations, asked)
    rates, rate_conditions = insert_rates.measure(folder, made_up(conversations), num_batches=5 if quick else 20)
    figures, conditions = figures | rates, conditions | rate_conditions
    shares = {
        f"{prefix}recall_at_{k}": table[method]["all"][f"at_{k}"]
        for method, prefix in (("learned", ""), ("reranked", "reranked_"))
        for k in (10, 5)
    }
    figures = shares | figures | {"recall": table}
    return figures, recall_conditions | conditions


async def matching_ms(encoder: OnnxEmbedder, conversations: Sequence[recall_data.Conversation]) -> harness.Json:
    """What reranking adds to a recall: questions compared word by word with as many turns as it takes."""
    draw, took = random.Random(9), list[float]()
    turns = [spoken(turn.text) for conversation in conversations for turn in conversation.turns]
    for inquiry in questions(conversations, quick=True):
        started = time.perf_counter()
        await encoder.match_words(inquiry.text, draw.sample(turns, NUM_RERANKED))
        took.append(1e3 * (time.perf_counter() - started))
    return {key: round(value, 1) for key, value in harness.spread(took[3:]).items()}


def questions(conversations: Sequence[recall_data.Conversation], quick: bool) -> list[recall_data.Inquiry]:
    every = [inquiry for conversation in conversations for inquiry in conversation.inquiries]
    return random.Random(5).sample(every, QUICK_QUERIES if quick else NUM_QUERIES)


async def recall_table(
    folder: Path,
    embedder: recall_data.Remembering,
    matcher: WordMatcher,
    conversations: Sequence[recall_data.Conversation],
    *,
    quick: bool,
) -> tuple[harness.Json, harness.Json]:
    """Recall by method and category. `--quick` judges a sample of the questions, and learns on all the same."""
    path = folder / "locomo.sqlite"
    found: dict[str, list[recall_data.Case]] = {}
    results: Results = defaultdict(lambda: defaultdict(list))
    for conversation in conversations:
        harness.progress(f"remembering {conversation.name}")
        await recall_data.remember(path, embedder, conversation)
        found[conversation.name] = await recall_data.cases(path, embedder, conversation, matcher)
    every, second = recall_fit.leave_one_out(found), recall_fit.leave_one_out(found, reranks=True)
    names = [name for name, cases in found.items() for _ in cases]
    chosen = sample(len(every), quick)
    judged = [every[i] for i in chosen]
    for method, scored in (("learned", judged), ("reranked", [second[i] for i in chosen])):
        for name, (case, scores) in zip((names[i] for i in chosen), scored, strict=True):
            note(results, method, case.category, name, [recall_fit.recall_at(case, scores, k) for k in (10, 5)])
    places = iter(range(len(every)))
    for conversation in conversations:
        rankers = await baselines(embedder, conversation)
        asked = [inquiry for inquiry in conversation.inquiries if next(places) in chosen]
        for inquiry in asked:
            for method, ranker in rankers.items():
                best = ranker(inquiry.text)
                shares = [len(inquiry.evidence & set(best[:k])) / len(inquiry.evidence) for k in (10, 5)]
                note(results, method, inquiry.category, conversation.name, shares)
    table: defaultdict[str, harness.Json] = defaultdict(dict)
    for (method, category), by_conversation in results.items():
        table[method][category] = summed_up(by_conversation)
    errors = [recall_fit.recall_at(case, scores, 10) for case, scores in judged]
    pools = [len(case.features) for cases in found.values() for case in cases]
    return dict(table), {
        "recall": "share of a question's evidence turns in the first k, mean over questions, one conversation held out",
        "turns": "as `Name: words [photo: caption]`, one user a conversation, one source a session",
        "intervals": f"95 %, conversations drawn with replacement {NUM_DRAWS} times",
        "recall_at_10_standard_error": round(statistics.stdev(errors) / len(errors) ** 0.5, 4),
        "candidates": harness.spread(pools),
    }


def sample(num_questions: int, quick: bool) -> list[int]:
    """Places of the questions that are judged, by every method alike."""
    every = range(num_questions)
    return random.Random(6).sample(every, 5 * QUICK_INQUIRIES) if quick else list(every)


def note(results: Results, method: str, category: int, conversation: str, shares: Sequence[float]) -> None:
    for key in ("all", recall_data.CATEGORIES[category]):
        results[method, key][conversation].append((shares[0], shares[1]))


def summed_up(by_conversation: Mapping[str, Sequence[Shares]]) -> harness.Json:
    """Means over questions, and how far they move when other conversations of such a kind are drawn."""
    draw = random.Random(8)
    groups = list(by_conversation.values())
    draws = [means(draw.choices(groups, k=len(groups))) for _ in range(NUM_DRAWS)]
    found: harness.Json = {"questions": sum(map(len, groups))}
    for i, k in enumerate(("at_10", "at_5")):
        drawn = [mean[i] for mean in draws]
        found[k] = round(means(groups)[i], 4)
        found[f"{k}_interval"] = [round(harness.percentile(drawn, part), 4) for part in (0.025, 0.975)]
    return found


def means(groups: Sequence[Sequence[Shares]]) -> Shares:
    at_10, at_5 = zip(*(shares for group in groups for shares in group), strict=True)
    return statistics.fmean(at_10), statistics.fmean(at_5)


async def baselines(embedder: Embedder, conversation: recall_data.Conversation) -> dict[str, Ranker]:
    ids = [turn.id for turn in conversation.turns]
    names = sorted({turn.text.split(":")[0] for turn in conversation.turns})
    matrix = floats(await embedder.embed([spoken(turn.text) for turn in conversation.turns]))
    asked = {i.text: without_names(i.text, names) for i in conversation.inquiries}
    vectors = dict(zip(asked, floats(await embedder.embed(list(asked.values()))), strict=True))
    db = apsw.Connection(":memory:")
    db.execute("CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'porter unicode61')")
    db.executemany(
        "INSERT INTO words (rowid, text) VALUES (?, ?)", [(i, t.text) for i, t in enumerate(conversation.turns)]
    )

    def fts5(question: str) -> list[str]:
        words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", question))
        found = db.execute("SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank", (words,))
        return [ids[int(str(row))] for (row,) in found]

    def dense(question: str) -> list[str]:
        return [ids[i] for i in np.argsort(-(matrix @ vectors[question]), kind="stable")]

    def fused(question: str) -> list[str]:
        scores: defaultdict[str, float] = defaultdict(float)
        for ranking in (fts5(question)[:100], dense(question)[:100]):
            for rank, id_ in enumerate(ranking, start=1):
                scores[id_] += 1 / (RRF_K + rank)
        return sorted(scores, key=lambda id_: -scores[id_])

    return {"fts5_bm25": fts5, "dense": dense, "rank_fusion": fused}


def floats(vectors: Sequence[Vector]) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    return np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), -1)


def scale(
    folder: Path, conversations: Sequence[recall_data.Conversation], asked: Sequence[Question]
) -> tuple[harness.Json, harness.Json]:
    """Times and bytes: 10k memories alone; then 100k of one user, and one user of 2k among 100k."""
    figures: harness.Json = {}
    conditions: harness.Json = {"queries": len(asked)}

    def time_queries(store: MemoryStore, user: str, name: str) -> None:
        wall, cpu = timed(store, user, asked)
        figures[f"query_p95_ms_{name}"] = round(harness.percentile(wall, 0.95), 2)
        figures[f"query_cpu_p95_ms_{name}"] = round(harness.percentile(cpu, 0.95), 2)
        conditions[f"query_ms_{name}"] = {key: round(value, 2) for key, value in harness.spread(wall).items()}

    memories = made_up(conversations)
    small = MemoryStore.open(folder / "small.sqlite", recall_encoder.DIMENSIONS)
    fill(small, "one", islice(memories, SMALL))
    time_queries(small, "one", "10k")
    small.close()
    path = folder / "large.sqlite"
    large = MemoryStore.open(path, recall_encoder.DIMENSIONS)
    fill(large, "own", islice(memories, OWN))
    text_bytes = fill(large, "one", islice(memories, LARGE - OWN))
    time_queries(large, "own", "2k_of_100k")
    text_bytes += fill(large, "one", islice(memories, OWN))
    time_queries(large, "one", "100k")
    large.close()
    own_bytes = text_bytes / LARGE * (LARGE + OWN)
    figures["bytes_per_memory"] = round((path.stat().st_size - own_bytes) / (LARGE + OWN), 1)
    conditions["text_bytes_per_memory"] = round(text_bytes / LARGE, 1)
    return figures, conditions


def made_up(conversations: Sequence[recall_data.Conversation]) -> Iterator[NewMemory]:
    """Memories without end: a speaker, half of one turn and half of another, sessions of twenty."""
    draw = random.Random(7)
    said = [spoken(turn.text).split() for conversation in conversations for turn in conversation.turns]
    number = 0
    while True:
        a, b = draw.choice(said), draw.choice(said)
        text = f"{draw.choice(('Ann', 'Bob'))}: {' '.join(a[: len(a) // 2 + 1] + b[len(b) // 2 :])} {number}"
        vector = array("f", [draw.choice((-1.0, 1.0)) for _ in range(recall_encoder.DIMENSIONS)]).tobytes()
        yield NewMemory("turn", text, f"session {number // 20}", 1.6e9 + 60.0 * number, vector)
        number += 1


def fill(store: MemoryStore, user: str, memories: Iterator[NewMemory]) -> int:
    """Bytes of the texts stored."""
    num_bytes = num_stored = 0
    while batch := list(islice(memories, BATCH)):
        store.add(user, batch)
        num_bytes += sum(len(memory.text.encode()) for memory in batch)
        num_stored += len(batch)
        if num_stored % 20_000 == 0:
            harness.progress(f"{num_stored} memories stored")
    return num_bytes


def timed(store: MemoryStore, user: str, asked: Sequence[Question]) -> tuple[list[float], list[float]]:
    """Wall and processor milliseconds of each search of ten, after three that warm the caches."""
    wall, cpu = [], []
    for question in (*asked[:3], *asked):
        started, started_cpu = time.perf_counter(), time.thread_time()
        store.search(user, question, 10)
        wall.append(1e3 * (time.perf_counter() - started))
        cpu.append(1e3 * (time.thread_time() - started_cpu))
    return wall[3:], cpu[3:]


def main() -> None:
    options = harness.options(__doc__)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures, conditions = asyncio.run(measure(Path(folder), quick=options.quick))
    conditions["seconds"] = round(time.monotonic() - started, 1)
    if not options.json:
        print(json.dumps(figures.pop("recall"), indent=1))
    harness.publish("memory", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
