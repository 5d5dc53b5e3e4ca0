"""Writes docs/selection.md: which model and variant every known board would get, for several memory budgets.

Usage: `selection_table.py [--check]`. With `--check` it writes nothing, and fails when the page is not current.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from edgeagent.core.cards import ModelCard
from edgeagent.model.explain import megabytes
from edgeagent.model.limits import Limits
from edgeagent.model.machine import Machine
from edgeagent.model.recommend import LEAST_BITS, Recommendation, recommend
from edgeagent.model.registry import Registry
from edgeagent.model.select import Row, Sizes
from edgeagent.model.sketch import DECODE_EFFICIENCY, board_machine
from edgeagent.resource.boards import Board, load_boards

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/selection.md"
BUDGETS = (250e6, 500e6, 1e9, 2e9, 4e9, 8e9, 16e9)
CONTEXT_TOKENS, TTFT_S = 4096, 10.0

INTRODUCTION = """\
# What each board would get

Made by `.venv/bin/python tools/selection_table.py`; a test keeps it current. Do not edit it.

This is what `edgeagent models recommend` says on boards that **nobody measured with this program**: on the CPU, over
all chat models, with the default targets: first token within {ttft_s:g} s after 1,000 tokens, then {rate:g} a second,
and {context:,} tokens of context or at least half of them. Memory is predicted from each model's shape. Speeds are
*estimates* from what is written of the board in `hwprofiles/`, with sources there: a token's weights are read at
{efficiency:g} of the memory's peak rate, and a prompt as slowly as in the slowest reference rate of llama.cpp on that
board's CPU. Where a figure has no source the cell is empty, and the target it belongs to is not judged. Between models,
the number of parameters stands for quality, as long as {bits:g} bits a weight are left. On your machine,
`edgeagent profile` measures, and `edgeagent models list` predicts from that.
"""
RECOMMENDED = """\

## By memory that may be used

A cell names the model and its variant; in italics where the board reaches the targets with none that fits, and the
fastest is named. A budget over three quarters of a board's memory is left out where its memory is known.

"""
OWN = """\

## With three quarters of a board's own memory

Boards whose profile says how much they have. `1st token`: after 1,000 tokens of prompt. `J`: the whole board's energy
for these and 100 tokens of answer, where its power under load has a source.

| board | may use | model | takes | context | 1st token | tokens/s | J |
|---|---|---|---|---|---|---|---|
"""


def main() -> int:
    page = "".join(lines(Registry.load(ROOT / "models"), load_boards(ROOT / "hwprofiles")))
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print("docs/selection.md is not current; run tools/selection_table.py", file=sys.stderr)
    return 1


def lines(registry: Registry, boards: tuple[Board, ...]) -> Iterator[str]:
    limits = limits_of(0)
    yield INTRODUCTION.format(
        ttft_s=limits.ttft_s,
        rate=1 / limits.tpot_s,
        context=limits.context_tokens,
        efficiency=DECODE_EFFICIENCY,
        bits=LEAST_BITS,
    )
    yield RECOMMENDED
    yield "| board | " + " | ".join(f"{budget / 1e9:g} GB" for budget in BUDGETS) + " |\n"
    yield "|---" * (len(BUDGETS) + 1) + "|\n"
    for board in boards:
        yield f"| {board.name} | " + " | ".join(_cell(registry, board, budget) for budget in BUDGETS) + " |\n"
    yield OWN
    for board in boards:
        if board.memory_bytes:
            yield _own_line(registry, board, board.memory_bytes.value * 3 / 4)


def limits_of(memory_bytes: float) -> Limits:
    return Limits(int(memory_bytes), TTFT_S, CONTEXT_TOKENS, "q8_0")


def recommended(registry: Registry, machine: Machine, memory_bytes: float) -> Recommendation | None:
    return recommend(registry.cards, sizes, machine, limits_of(memory_bytes))


def sizes(card: ModelCard) -> Sizes:
    """All variants, made or fetched: a board's owner may do both."""
    return {variant.name: variant.bytes for variant in card.variants}


def _cell(registry: Registry, board: Board, budget: float) -> str:
    if board.memory_bytes and budget > board.memory_bytes.value * 3 / 4:
        return ""
    found = recommended(registry, board_machine(board), budget)
    if found is None:
        return "none fits"
    text = f"{found.card.id} {found.selection.variant}"
    return f"*{text}*" if "latency" in _row(found).faults else text


def _own_line(registry: Registry, board: Board, budget: float) -> str:
    found = recommended(registry, board_machine(board), budget)
    if found is None:
        return f"| {board.name} | {megabytes(budget)} | none fits | | | | | |\n"
    row, choice = _row(found), found.selection.choice
    speed = row.speed
    ttft = f"{speed.ttft_s:.0f} s" if speed and speed.ttft_s else ""
    decode = f"{speed.decode_tok_s:.1f}" if speed and speed.decode_tok_s else ""
    energy = f"{row.energy_j:.0f}" if row.energy_j else ""
    context = f"{choice.context_tokens} {choice.kv_type}"
    model = f"{found.card.id} {choice.variant}"
    cells = (board.name, megabytes(budget), model, megabytes(choice.memory_bytes), context, ttft, decode, energy)
    return f"| {' | '.join(cells)} |\n"


def _row(found: Recommendation) -> Row:
    return next(row for row in found.selection.table if row.variant == found.selection.variant)


if __name__ == "__main__":
    sys.exit(main())
