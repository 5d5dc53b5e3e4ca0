"""The probe's verdicts on real models, against logits computed once more, with other texts, in another way."""

import asyncio
import ctypes
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import RequestError
from edgeagent.core.invariance import Invariance, conclude
from edgeagent.execution.llama.context import ContextSettings
from edgeagent.execution.llama.invariance import DRAFTS, Probe
from edgeagent.execution.llama.library import KV_TYPES, llama
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.probe_slots import Part, Slots
from edgeagent.execution.llama.reference import CELLS, END, Reference, cut_patterns
from edgeagent.execution.llama.rig import RigShape, write_rig
from edgeagent.execution.llama.tensors import FloatArray
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.capability.llama import TEXT
from edgeagent.resource.invariance import OTHER_TEXT
from tests.execution.llama.conftest import Job

Batch = Sequence[tuple[int, int, int]]
"""Of each token: its sequence, position and id."""

CHUNK, SEQUENCES = 16, 3


@dataclass(frozen=True, slots=True)
class Mode:
    kv_type: str
    flash_attention: bool
    threads: int = 1


Q8, F16, PLAIN = Mode("q8_0", True), Mode("f16", True, threads=2), Mode("f16", False)


def context_settings(mode: Mode, sequences: int) -> ContextSettings:
    cache, threads = (mode.kv_type, mode.flash_attention), mode.threads
    return ContextSettings(CELLS, *cache, threads, CHUNK, sequences=sequences, is_free=True)


def probe_file(job: Job, path: Path, mode: Mode, **changes: Any) -> tuple[Invariance, dict[str, Any]]:
    reply = job(
        "invariance",
        path=str(path),
        **{
            "texts": [TEXT, OTHER_TEXT],
            "budget_s": 600,
            "sequences": SEQUENCES,
            "kv_type": mode.kv_type,
            "flash_attention": mode.flash_attention,
            "extra_buffers": False,
            "threads": mode.threads,
            "chunk_tokens": CHUNK,
            **changes,
        },
    )
    return conclude(reply["worst"], has_window=reply["has_window"], complete=reply["complete"]), reply


def last_logits(model: Model, mode: Mode, batches: Sequence[Batch]) -> dict[tuple[int, int], FloatArray]:
    """Logits of every token of the last batches' positions, by sequence and position, with nothing but the library."""
    lib = llama()
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 1024 * SEQUENCES, 64, 64
    params.n_seq_max, params.kv_unified = SEQUENCES, False
    params.n_threads = params.n_threads_batch = mode.threads
    params.flash_attn_type = int(mode.flash_attention)
    params.type_k = params.type_v = KV_TYPES[mode.kv_type]
    context = lib.llama_init_from_model(model.handle, params)
    batch = lib.llama_batch_init(64, 0, 1)
    found: dict[tuple[int, int], FloatArray] = {}
    for tokens in batches:
        batch.n_tokens = len(tokens)
        for i, (sequence, position, token) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, True
            batch.seq_id[i][0] = sequence
        assert lib.llama_decode(context, batch) == 0
        for i, (sequence, position, _) in enumerate(tokens):
            row = ctypes.cast(lib.llama_get_logits_ith(context, i), ctypes.POINTER(ctypes.c_float))
            found[sequence, position] = np.ctypeslib.as_array(row, (model.num_vocab,)).copy()
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    return found


def alone(sequence: int, tokens: Sequence[int], first: int = 0) -> list[Batch]:
    return [[(sequence, first + i, token)] for i, token in enumerate(tokens)]


def pieces(sequence: int, tokens: Sequence[int], sizes: Sequence[int], first: int = 0) -> list[Batch]:
    ends = list(itertools.accumulate(sizes))
    return [
        [(sequence, first + i, tokens[i]) for i in range(end - size, end)]
        for size, end in zip(sizes, ends, strict=True)
    ]


def words(model: Model, seed: int, count: int) -> list[int]:
    """Any tokens, unlike the probe's texts."""
    dice = random.Random(seed)
    return [dice.randrange(model.num_vocab) for _ in range(count)]


def is_same(model: Model, mode: Mode, found: Sequence[Batch], wanted: Sequence[Batch]) -> bool:
    rows, others = last_logits(model, mode, found), last_logits(model, mode, wanted)
    assert rows.keys() == others.keys()
    return all(rows[place].tobytes() == others[place].tobytes() for place in rows)


def agrees(model: Model, mode: Mode, verdict: Invariance) -> None:
    """What the verdict grants holds for other texts and shapes; where it saw a difference, there is one."""
    prompt, text = words(model, 1, 250), words(model, 2, 30)
    before = alone(0, prompt[:1]) + pieces(0, prompt[1:], [50, 50, 50, 50, 49], 1)  # attention's padding steps at 256
    one_by_one = before + alone(0, text, len(prompt))

    def drafted(size: int) -> list[Batch]:
        sizes = [size] * (len(text) // size) + [len(text) % size] * (len(text) % size > 0)
        return before + pieces(0, text, sizes, len(prompt))

    for size in sorted({2, verdict.draft_batch}):
        is_claimed = size <= verdict.draft_batch and verdict.draft_batch > 1
        if is_claimed or verdict.max_abs_logit.get(f"draft {size}"):
            assert is_same(model, mode, drafted(size), one_by_one) == is_claimed, f"drafts of {size}"
    if verdict.decode_batch == SEQUENCES:
        starts = [*before, *alone(1, prompt[:7]), *alone(2, prompt[:40])]
        lengths = [len(prompt), 7, 40]
        steps = [[(s, n + i, text[i + s]) for s, n in enumerate(lengths)] for i in range(10)]
        separate = [[place] for step in steps for place in step]
        assert is_same(model, mode, [*starts, *steps], [*starts, *separate])
    if verdict.free_prefill:
        whole = alone(0, prompt[:64])
        sizes = [CHUNK, 1, 11, 3, CHUNK - 2, 10, 9]
        assert is_same(model, mode, pieces(0, prompt[:64], sizes), whole)


@given(st.integers(2, 512), st.integers(64, 512))
def test_cut_patterns_cover_the_text_with_pieces_up_to_the_chunk(chunk: int, length: int) -> None:
    patterns = cut_patterns(chunk, length)
    assert patterns[0] == [min(chunk, length)] * (length // chunk) + [length % chunk] * (length % chunk > 0)
    assert all(sum(pattern) <= length and min(pattern) > 0 and max(pattern) <= chunk for pattern in patterns)
    sizes = {size for pattern in patterns for size in pattern}
    most = min(chunk, length)
    assert sizes >= {n for n in (2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 32, 33, most - 1, most) if 1 < n <= most}


@pytest.mark.parametrize("mode", [Q8, pytest.param(Mode("f16", True), marks=pytest.mark.long)], ids=str)
@pytest.mark.parametrize("kind", ["Q8_0", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("Q4_K", "F16"))])
def test_verdict_on_a_small_decoder_agrees_with_logits_computed_independently(
    tmp_path: Path, kind: str, mode: Mode
) -> None:
    write_rig(RigShape(kind, layers=2, width=256, ffn=512, heads=4, kv_heads=2, context_tokens=1024), f"{tmp_path}/rig")
    model = Model(f"{tmp_path}/rig", extra_buffers=False)
    settings = context_settings(mode, SEQUENCES)
    slots = Slots(model, settings)
    probe = Probe(slots, words(model, 3, CELLS), words(model, 4, CELLS))
    for _ in probe.run():
        pass
    slots.close()
    assert {*(f"draft {size}" for size in DRAFTS), "decode 2", "decode 3", "mixed 2", "cut far"} <= probe.worst.keys()
    verdict = conclude(probe.worst, has_window=False, complete=True)
    assert verdict.restore
    agrees(model, mode, verdict)


@pytest.mark.long
@pytest.mark.parametrize("mode", [Q8, F16, PLAIN], ids=str)
@pytest.mark.parametrize("model_id", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_verdict_on_a_real_model_agrees_with_other_logits(
    embedded_store: ModelStore, job: Job, model_id: str, mode: Mode
) -> None:
    stored = asyncio.run(embedded_store.ensure(model_id))
    verdict, _ = probe_file(job, stored.path, mode)
    assert verdict.complete
    model = Model(str(stored.path), extra_buffers=False)
    assert verdict.rewind <= (not model.has_window)
    agrees(model, mode, verdict)


def test_without_time_nothing_is_granted(smollm2: StoredVariant, job: Job) -> None:
    verdict, _ = probe_file(job, smollm2.path, Q8, budget_s=0)
    assert verdict == Invariance()


def test_one_sequence_is_never_granted_company(smollm2: StoredVariant) -> None:
    model = Model(str(smollm2.path), extra_buffers=False)
    slots = Slots(model, context_settings(Q8, 1))
    names = [name for name, _ in Probe(slots, [1] * 768, [2] * 768)._checks()]
    slots.close()
    assert not [name for name in names if name.partition(" ")[0] in {"decode", "mixed"}]


def test_text_without_tokens_is_refused(smollm2: StoredVariant, job: Job) -> None:
    with pytest.raises(RequestError, match="without tokens"):
        probe_file(job, smollm2.path, Q8, texts=["", ""])


def test_a_difference_of_one_cell_or_one_bit_is_seen(smollm2: StoredVariant) -> None:
    """The comparisons themselves can fail: a wrong token leaves other logits and other cells."""
    model = Model(str(smollm2.path), extra_buffers=False)
    slots = Slots(model, context_settings(Q8, 1))
    tokens = model.tokenize(TEXT * 6, add_special=True, parse_special=False)[:768]
    check = Reference(slots, tokens, tokens)
    (row,) = slots.evaluate(Part(0, tokens[:4]))
    check.saved[END] = slots.save(0)
    slots.cut(0)
    (other,) = slots.evaluate(Part(0, [*tokens[:3], tokens[3] + 1]))
    check.compare_cells(0, 0, 3)
    assert check.difference == 0
    check.compare_cells(0, 0, 4)
    assert 0 < check.difference < 1e-37
    check.compare(row[0], other[0])
    assert check.difference == float(np.abs(row - other).max()) > 1e-3
    slots.close()
