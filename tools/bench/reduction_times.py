"""What each level of reduction costs, and what it saves until the first word, in the running daemon."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import harness
import layout
from reduction_scoring import Judge

from edgeagent.agent.memory.scoring import Scorer
from edgeagent.agent.ranking import ranked
from edgeagent.agent.relevance import Unit
from edgeagent.core.memory import Embedder
from edgeagent.model.reduction import Sentence, select
from edgeagent.model.repeats import repeated
from edgeagent.model.word_pruning import prune_words

ROUNDS, QUICK_ROUNDS = 3, 1


def extra_buffers(state: Path) -> bool:
    """Whether llama.cpp survives its extra buffers here, as the profile found."""
    profile = json.loads((state / "profile.json").read_text(encoding="utf-8"))
    found = [engine["probe"]["settings"] for engine in profile["engines"] if engine["name"] == "llama"]
    return bool(found and found[0].get("extra_buffers"))


async def levels(units: Sequence[Unit], judge: Judge, encoder: Embedder, scorer: Scorer) -> harness.Json:
    """Milliseconds of each level on one window. L2's embeddings are made anew; L3's surprisals are stored ones."""
    counts = judge.count([unit.text for unit in units])
    sentences = [Sentence(u.source, i, u.text, n) for i, (u, n) in enumerate(zip(units, counts, strict=True))]
    question = "What did they plan for the summer?"
    started = time.perf_counter()
    gone = repeated(sentences)
    l1_s = time.perf_counter() - started
    started = time.perf_counter()
    relevance = await ranked(question, units, encoder, scorer)
    kept = select(sentences, relevance, sum(counts) // 4, 0.0, gone).kept
    l2_s = time.perf_counter() - started
    bits = [judge.bits(s.text) for s in kept]
    started = time.perf_counter()
    texts = prune_words([s.text for s in kept], bits, question)
    l3_s = time.perf_counter() - started
    return {
        "L1": round(1e3 * l1_s, 1),
        "L2": round(1e3 * l2_s, 1),
        "L3": round(1e3 * l3_s, 1),
        "units": len(units),
        "tokens": sum(counts),
        "tokens_without_repeats": sum(counts) - sum(counts[i] for i in gone),
        "tokens_selected": sum(s.tokens for s in kept),
        "tokens_pruned": sum(judge.count(texts)),
    }


def first_words(
    env: dict[str, str], text: str, questions: Sequence[str], *, is_quick: bool
) -> tuple[harness.Json, harness.Json]:
    """Time to the first word of a question behind the whole text, over that behind a quarter of it, each from cold.

    Counted at the client, so that reducing is part of it. And what the stable layout saves (see `layout`).
    """
    port = harness.free_port()
    more = {"EDGEAGENT__HTTP__PORT": str(port), "EDGEAGENT__MODELS__CONTEXT_TOKENS": "8192"}
    with harness.running(harness.edgeagent(["serve"], env | harness.COLD | harness.UNGOVERNED | more, "daemon ready")):
        url = f"http://127.0.0.1:{port}"
        layout.ask(url, "You are kind.", "as_given")  # loads the model
        pairs = [_pair(url, text, question) for question in questions[: QUICK_ROUNDS if is_quick else ROUNDS]]
    with harness.running(harness.edgeagent(["serve"], env | harness.UNGOVERNED | more, "daemon ready")):
        layout.ask(url, "You are kind.", "as_given")
        stable, told = layout.measure(url, seeds=range(1 if is_quick else 3))
    ratios = [whole.ttft_s / reduced.ttft_s for whole, reduced in pairs]
    figures = {
        "ttft_speedup_4x": round(harness.percentile(ratios, 0.5), 2),
        "stable_prefix_speedup": stable["stable_prefix_speedup"],
    }
    conditions = {
        "ttft_speedup": harness.spread(ratios),
        "ttft_whole_s": _spread(pairs, lambda pair: pair[0].ttft_s),
        "ttft_reduced_s": _spread(pairs, lambda pair: pair[1].ttft_s),
        "prepared_s": _spread(pairs, lambda pair: pair[1].report["prepare_s"]),
        "tokens": [pair[0].report["reduction"]["tokens_kept"] for pair in pairs],
        "tokens_reduced": [pair[1].report["reduction"]["tokens_kept"] for pair in pairs],
        "stable_prefix": told,
    }
    return figures, conditions


Pair = tuple[harness.Streamed, harness.Streamed]


def _spread(pairs: Sequence[Pair], of: Callable[[Pair], float]) -> harness.Json:
    return harness.spread([round(of(pair), 3) for pair in pairs])


def _pair(url: str, text: str, question: str) -> Pair:
    whole, reduced = (_ask(url, text, question, level) for level in ("L0", "L2"))
    harness.progress(f"first word after {whole.ttft_s:.2f} s whole, {reduced.ttft_s:.2f} s reduced")
    return whole, reduced


def _ask(url: str, text: str, question: str, level: str) -> harness.Streamed:
    body = {
        "model": harness.CHAT_MODEL,
        "messages": [{"role": "user", "content": f"{text}\n{question}"}],
        "max_tokens": 4,
        "temperature": 0,
        "edgeagent": {"plan": "local", "reduce": level, "memory": False},
    }
    return harness.stream(url, body)
