"""Do the stages of a cut model give the bits of the whole one, and how far off are the lossy wires between them?

Part of the bench `exactness`. Files are cut by a worker, as `edgeagent models slice` does it; the whole model, head and
tail are then evaluated in the same canonical chunks, the prompt first, then single tokens.
"""

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
import numpy as np
from exactness_lossy import Loss, lose
from exactness_stages import CHUNK, HIDDEN_IN, NUM_PROMPT, FloatArray, Size, context, cut, documents, prompt_of

from edgeagent.core.stages import HiddenType
from edgeagent.execution import canonical
from edgeagent.execution.llama import candidates
from edgeagent.execution.llama.hidden import decode, encode
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.stage_context import Part, StageContext

NUM_DECODED = 32
KV_TYPES = ("q8_0", "f16")
LAYERS, SEED = 30, 23
GEMMA, GEMMA_FILE, GEMMA_LAYERS = "gemma-3-270m", "gemma-3-270m-q4_k_m.gguf", 18
LOSSY_K = 8
LOSSY: tuple[HiddenType, ...] = ("f16", "int8")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is compared: every k of `sweep` on one document, `deep` ones on so many `documents`."""

    sweep: tuple[int, ...]
    deep: tuple[int, ...]
    documents: int
    lossy_documents: int
    gemma: tuple[int, ...]
    decoded: int

    @classmethod
    def of(cls, size: Size) -> "Extent":
        draw = random.Random(SEED)
        deep = tuple(sorted(draw.sample(range(1, LAYERS), 3)))
        if size == "full":
            return cls(tuple(range(1, LAYERS)), deep, 20, 20, (6, 12), NUM_DECODED)
        if size == "release":
            return cls((1, 8, 15, 22, 29), (), 0, 3, (6, 12), NUM_DECODED)
        sweep = tuple(sorted(draw.sample(range(1, LAYERS), 3)))
        return cls(sweep, deep[:2], 2, 3, (6,), 12)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the whole model says: logits behind the prompt and behind each token it then chose (greedily)."""

    prompt: list[int]
    tokens: list[int]
    logits: list[FloatArray]


@dataclass(slots=True)
class Found:
    """Over all comparisons; `head_mismatches`: hidden states that differ between a head's file and the whole one."""

    max_abs_logit: float = 0.0
    token_mismatches: int = 0
    head_mismatches: int = 0
    compared: int = 0


def reference(model: Model, kv_type: str, prompt: list[int], num_decoded: int) -> Reference:
    tokens, logits = list[int](), list[FloatArray]()
    with context(model, kv_type, Part()) as whole:
        for span in canonical.spans(len(prompt), 0, CHUNK):
            whole.evaluate(prompt[whole.num_tokens : whole.num_tokens + span])
        logits.append(candidates.logits(whole).copy())
        while len(tokens) < num_decoded:
            tokens.append(int(logits[-1].argmax()))
            whole.evaluate(tokens[-1:])
            logits.append(candidates.logits(whole).copy())
    return Reference(prompt, tokens, logits)


def compare(
    found: Found, stages: tuple[Model, Model], kv_type: str, known: Reference, whole: tuple[Model, int] | None = None
) -> None:
    """Head and tail against the whole; with `whole` and `k`, also the head's file against a head in the whole one."""
    head_model, tail_model = stages
    spans = canonical.spans(len(known.prompt), len(known.tokens), CHUNK)
    tokens, done, said = known.prompt + known.tokens, 0, 0
    with (
        context(head_model, kv_type, Part(after=head_model.layers - 1)) as head,
        context(tail_model, kv_type, HIDDEN_IN) as tail,
        _beside(whole, kv_type) as beside,
    ):
        for span in spans:
            rows = head.evaluate(tokens[done : done + span])
            assert rows is not None
            if beside is not None:
                others = beside.evaluate(tokens[done : done + span])
                found.head_mismatches += others is None or not np.array_equal(rows, others)
            tail.evaluate(decode(encode(rows, "f32"), span, tail_model.width, "f32"))
            done += span
            if done < len(known.prompt):
                continue
            logits, expected = candidates.logits(tail), known.logits[said]
            found.max_abs_logit = max(found.max_abs_logit, float(np.abs(logits - expected).max()))
            found.token_mismatches += int(logits.argmax()) != int(expected.argmax())
            found.compared += 1
            said += 1


@contextmanager
def _beside(whole: tuple[Model, int] | None, kv_type: str) -> Iterator[StageContext | None]:
    if whole is None:
        yield None
        return
    with context(whole[0], kv_type, Part(after=whole[1])) as made:
        yield made


def run(chat_file: Path, size: Size) -> tuple[harness.Json, harness.Json]:
    """Figures and conditions of the split plans."""
    extent, found = Extent.of(size), Found()
    label, texts = documents(max(extent.documents, extent.lossy_documents), SEED)
    model = Model(str(chat_file), extra_buffers=harness.repacks_weights())
    prompts = [prompt_of(model, text) for text in texts]
    sweep(found, chat_file, model, prompts[0], extent.sweep, LAYERS, extent.decoded)
    go_deep(found, chat_file, model, prompts[: extent.documents], extent)
    gemma = gemma_file(chat_file.parents[1], fetch=size == "full")
    if gemma is not None:
        other = Model(str(gemma), extra_buffers=harness.repacks_weights())
        sweep(found, gemma, other, prompt_of(other, texts[0]), extent.gemma, GEMMA_LAYERS, extent.decoded)
    losses = {hidden: Loss() for hidden in LOSSY}
    with cut(chat_file, LOSSY_K, LAYERS) as stages:
        lose(losses, stages, prompts[: extent.lossy_documents])
    figures = {
        "split_max_abs_logit": found.max_abs_logit,
        "split_token_mismatches": found.token_mismatches,
        "split_head_mismatches": found.head_mismatches,
        "f16_mean_kl": losses["f16"].mean_kl,
        "f16_top1": losses["f16"].top1,
        "int8_mean_kl": losses["int8"].mean_kl,
        "int8_top1": losses["int8"].top1,
    }
    conditions = {
        "split_documents": label,
        "split_extent": asdict(extent) | {"gemma": extent.gemma if gemma is not None else f"{GEMMA} is not here"},
        "split_caches": KV_TYPES,
        "split_prompt_tokens": NUM_PROMPT,
        "split_compared": found.compared,
        "lossy_k": LOSSY_K,
        "lossy_cache": "q8_0",
        "lossy_positions": len(losses["int8"].kl),
        "lossy_kl_spread": {hidden: harness.spread(loss.kl) for hidden, loss in losses.items()},
    }
    return figures, conditions


def sweep(
    found: Found, file: Path, model: Model, prompt: list[int], ks: Sequence[int], layers: int, decoded: int
) -> None:
    """Every one of `ks` on one document; head files are compared with heads in the whole file, too."""
    known = {kv_type: reference(model, kv_type, prompt, decoded) for kv_type in KV_TYPES}
    for k in ks:
        with cut(file, k, layers) as stages:
            for kv_type in KV_TYPES:
                compare(found, stages, kv_type, known[kv_type], whole=(model, k))
        harness.progress(f"{file.name} at {k}: {found.compared} compared, max {found.max_abs_logit:g}")


def go_deep(found: Found, file: Path, model: Model, prompts: Sequence[list[int]], extent: Extent) -> None:
    with ExitStack() as stack:
        stages = [stack.enter_context(cut(file, k, LAYERS)) for k in extent.deep]
        for number, prompt in enumerate(prompts, 1):
            for kv_type in KV_TYPES:
                known = reference(model, kv_type, prompt, extent.decoded)
                for each in stages:
                    compare(found, each, kv_type, known)
            harness.progress(f"document {number} at {extent.deep}: max {found.max_abs_logit:g}")


def gemma_file(models: Path, *, fetch: bool) -> Path | None:
    """The card's file below the models' folder, pulled if need be and wanted."""
    path = models / GEMMA / GEMMA_FILE
    if fetch and not path.is_file():
        command = [sys.executable, "-m", "edgeagent", "models", "pull", GEMMA]
        subprocess.run(command, env=harness.state_env(), check=True, stdout=subprocess.DEVNULL)
    return path if path.is_file() else None
