"""Stages of small decoders of every family: the bytes of their weights, and that together they are the whole model."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edgeagent.core.cards import Architecture, Experts
from edgeagent.core.errors import EdgeAgentError, EngineError
from edgeagent.core.stages import SOURCE_KEY, Cut
from edgeagent.execution.canonical import spans
from edgeagent.execution.llama import candidates
from edgeagent.execution.llama.context import ContextSettings
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.stage_context import Part, StageContext
from edgeagent.execution.llama.tensors import FloatArray
from edgeagent.execution.supervisor import Worker
from edgeagent.model.gguf_header import read_header
from edgeagent.model.slicing import PERIODS, legal_cuts, padding_of
from tests.model.tiny_decoder import write

CHUNK, NUM_PROMPT, NUM_OUTPUT = 16, 40, 4
SHA256 = "5" * 64


def tiny(family: str, **more: object) -> Architecture:
    shape = {"layers": 8, "width": 64, "ffn": 96, "heads": 2, "kv_heads": 1, "head_dim": 32, "vocab": 40}
    return Architecture.model_validate({"family": family, "context_tokens": 256, **shape, **more})


TINY = {
    "llama": tiny("llama"),
    "qwen2": tiny("qwen2", tied_head=True),
    "qwen3": tiny("qwen3"),
    "qwen3moe": tiny("qwen3moe", experts=Experts(count=4, used=2, ffn=32)),
    "phi3": tiny("phi3", tied_head=True),
    "smollm3": tiny("smollm3", layers=10, tied_head=True),
    "gemma3": tiny("gemma3", layers=14, tied_head=True, sliding_window=32, window_pattern=6),
}


def test_every_family_that_may_be_cut_is_tried_here() -> None:
    assert TINY.keys() == PERIODS.keys()


@pytest.fixture(scope="module", params=TINY)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stages") / "whole.gguf"
    write(path, TINY[request.param])
    return path


def cuts_of(path: Path) -> tuple[int, tuple[int, ...]]:
    with path.open("rb") as file:
        header = read_header(file, path.name)
    return header.layers, legal_cuts(header, path.name)


def stages(source: Path, cuts: list[tuple[int, int]]) -> list[Path]:
    """The files of these layers, made by a worker."""
    return asyncio.run(_stages(source, cuts))


async def _stages(source: Path, cuts: list[tuple[int, int]]) -> list[Path]:
    worker, made = await Worker.spawn("llama"), []
    try:
        for begin, end in cuts:
            made.append(source.with_name(f"{begin}to{end}.gguf"))
            place = {"source": str(source), "target": str(made[-1])}
            await worker.call("slice", (), stall_s=60, begin=begin, end=end, sha256=SHA256, **place)
    finally:
        await worker.close()
    return made


class Chain:
    """Contexts that hand hidden states on, each over a file of its own: some with layers behind (`num_inside`), a tail,
    and maybe the output head."""

    def __init__(self, stack: ExitStack, files: list[Path], parts: list[Part], num_inside: int, *, pads: bool) -> None:
        settings = ContextSettings(256, "q8_0", flash_attention=True, threads=1, chunk_tokens=CHUNK)
        paddings = [padding_of(file) if pads and i < num_inside else None for i, file in enumerate(files)]
        models = [Model(str(f), extra_buffers=False, padding=p) for f, p in zip(files, paddings, strict=True)]
        pairs = zip(models, parts, strict=True)
        self._contexts = [stack.enter_context(closing(StageContext(m, settings, part, 256))) for m, part in pairs]
        self._num_inside = num_inside

    def evaluate(self, tokens: list[int]) -> FloatArray:
        """The logits of the last token."""
        rows: FloatArray | None = None
        for i, context in enumerate(self._contexts):
            if i > self._num_inside:  # the output head looks at nothing before
                context.truncate(0)
            rows = context.evaluate(tokens if rows is None else rows, all_rows=i < self._num_inside)
        return candidates.logits(self._contexts[-1]).copy()


def logits(
    stack: ExitStack, files: list[Path], parts: list[Part], num_inside: int = 0, *, pads: bool = False
) -> Iterator[FloatArray]:
    """Of a prompt in canonical chunks, and of tokens behind it one by one."""
    chain, done = Chain(stack, files, parts, num_inside, pads=pads), 0
    tokens = [(7 * i + 3) % 40 for i in range(NUM_PROMPT + NUM_OUTPUT)]
    for span in spans(NUM_PROMPT, NUM_OUTPUT, CHUNK):
        yield chain.evaluate(tokens[done : done + span])
        done += span


def worst(whole: Path, files: list[Path], parts: list[Part], num_inside: int = 1, *, pads: bool = False) -> float:
    """The largest difference of a logit."""
    with ExitStack() as stack:
        found = logits(stack, files, parts, num_inside, pads=pads)
        return max(float(np.abs(a - b).max()) for a, b in zip(logits(stack, [whole], [Part()]), found, strict=True))


HIDDEN_IN = Part(takes_hidden=True)


def test_stages_of_every_family_give_the_bits_of_the_whole(whole: Path) -> None:
    layers, cuts = cuts_of(whole)
    heads, tails = stages(whole, [(0, k) for k in cuts]), stages(whole, [(k, layers) for k in cuts])
    [output] = stages(whole, [(layers, layers)])
    for k, head, tail in zip(cuts, heads, tails, strict=True):
        for pads in (False, True):
            assert worst(whole, [head, tail], [Part(after=k), HIDDEN_IN], pads=pads) == 0
        assert worst(whole, [whole, tail], [Part(after=k), HIDDEN_IN]) == 0
        final = Part(takes_hidden=True, after=layers - k)
        assert worst(whole, [head, tail, output], [Part(after=k), final, HIDDEN_IN]) == 0


def test_layers_between_pass_on_what_gives_the_bits_of_the_whole(whole: Path) -> None:
    layers, cuts = cuts_of(whole)
    for k, m in sorted({cuts[:2], cuts[-2:], (cuts[0], cuts[-1])}):
        files, between = stages(whole, [(0, k), (k, m), (m, layers)]), Part(takes_hidden=True, after=m - k)
        for pads in (False, True):
            assert worst(whole, files, [Part(after=k), between, HIDDEN_IN], 2, pads=pads) == 0


@pytest.mark.parametrize(("family", "k"), [("gemma3", 4), ("smollm3", 3)])
def test_cut_inside_a_group_of_layers_is_another_model(family: str, k: int, tmp_path: Path) -> None:
    path = tmp_path / "whole.gguf"
    write(path, TINY[family])
    head, tail = stages(path, [(0, k), (k, TINY[family].layers)])
    assert worst(path, [head, tail], [Part(after=k), HIDDEN_IN]) > 0


def test_every_weight_is_in_a_stage_with_its_bytes(whole: Path) -> None:
    layers, cuts = cuts_of(whole)
    k = cuts[0]
    before = {t.name: t for t in GGUFReader(whole).tensors}
    head, tail, output = (GGUFReader(path) for path in stages(whole, [(0, k), (k, layers), (layers, layers)]))
    table = before.get("output.weight", before["token_embd.weight"])
    expected = {name: t for name, t in before.items() if name not in ("token_embd.weight", "output.weight")}
    seen = set[str]()
    for reader, first in ((head, 0), (tail, k)):
        for tensor in reader.tensors:
            if tensor.name == "token_embd.weight":
                source = before["token_embd.weight"] if first == 0 else table
            else:
                number, _, rest = tensor.name.removeprefix("blk.").partition(".")
                old = f"blk.{int(number) + first}.{rest}" if tensor.name.startswith("blk.") else tensor.name
                source = expected[old]
                seen.add(old)
            assert tensor.tensor_type == source.tensor_type
            assert np.array_equal(tensor.data, source.data)
    assert seen == expected.keys()
    assert all(not t.data.any() for t in output.tensors if t.name.startswith("blk."))
    assert np.array_equal(next(t.data for t in output.tensors if t.name == "token_embd.weight"), table.data)


def test_file_says_what_it_was_cut_from(whole: Path) -> None:
    layers, cuts = cuts_of(whole)
    [tail] = stages(whole, [(cuts[0], layers)])
    with tail.open("rb") as file:
        header = read_header(file, "tail")
    assert header.layers == layers - cuts[0]
    assert header.metadata[SOURCE_KEY] == SHA256
    cut = Cut.of(cuts[0], layers, layers)
    assert {key: header.metadata[key] for key in cut.metadata()} == cut.metadata()
    before = {k: f.contents() for k, f in GGUFReader(whole).fields.items() if not k.startswith("GGUF.")}
    after = {k: f.contents() for k, f in GGUFReader(tail).fields.items() if not k.startswith("GGUF.")}
    own = {SOURCE_KEY, *cut.metadata()}
    assert {k for k in after if after[k] != before.get(k)} - own == {f"{header.architecture}.block_count"}


def test_layers_that_a_file_does_not_have_cost_an_error_not_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "whole.gguf"
    write(path, TINY["llama"])
    with pytest.raises(EdgeAgentError, match="are no layers of 8"):
        stages(path, [(3, 9)])


def test_full_stage_context_is_an_error_and_can_be_rewound(tmp_path: Path) -> None:
    path = tmp_path / "whole.gguf"
    write(path, TINY["llama"])
    settings = ContextSettings(256, "q8_0", flash_attention=True, threads=1, chunk_tokens=CHUNK)
    with closing(StageContext(Model(str(path), extra_buffers=False), settings, Part(after=2), 1)) as context:
        first = [context.evaluate([i % 40] * CHUNK) for i in range(256 // CHUNK)]
        with pytest.raises(EngineError, match="256 tokens is full"):
            context.evaluate([1])
        context.truncate(CHUNK)
        again = context.evaluate([1] * CHUNK)
        assert again is not None
        assert first[1] is not None
        assert np.array_equal(again, first[1])
