"""The replay of bench `regret`: simulated time adds up to the measured pieces, with the overlap that executors have."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeagent.core.hardware import Rates
from edgeagent.core.invariance import Invariance
from edgeagent.core.plan import Candidate, PlanKind
from edgeagent.execution.loading import LoadedFacts, LoadSettings
from edgeagent.execution.stages import StageFacts
from edgeagent.model.registry import Registry
from edgeagent.settings import load_settings

CHUNK, LAYERS, K = 64, 30, 12
BENCHES = Path(__file__).parents[2] / "tools" / "bench"


@pytest.fixture
def bench() -> Iterator[Any]:
    """The modules as the bench's script finds them: beside it."""
    sys.path.insert(0, str(BENCHES))
    try:
        yield importlib.import_module("regret_world")
    finally:
        sys.path.remove(str(BENCHES))


def world(bench: Any) -> Any:
    """An edge that takes 1 s a chunk and 0.1 s a token, and a peer that takes a tenth; a head of K layers its part."""
    pieces = importlib.import_module("regret_pieces")
    card, variant = Registry.load(load_settings().paths.cards).variant("smollm2-135m-instruct", "Q4_1")
    assert variant.sha256 is not None
    free = Invariance(free_prefill=True, rewind=True)
    settings = LoadSettings(
        "model.gguf", variant.sha256, 2048, "q8_0", True, 1, False, CHUNK, invariance=free, speculation=False
    )
    planes = (204,) * 2 * LAYERS
    facts = LoadedFacts(2048, sum(planes), True, "bits", True, planes, LAYERS, 576, None, "engine", "system")
    stage = StageFacts(2048, 576, 49_152, "engine", "system", (204,) * 2 * (LAYERS - K), "bits")

    def end(chunk_s: float, part: float) -> Any:
        def layers(share: float) -> Any:
            return pieces.Part(pieces.Line(share * chunk_s), pieces.Line(share * chunk_s / 10))

        rates = Rates(
            prefill_tok_s=CHUNK / chunk_s, decode_tok_s=10 / chunk_s, threads=1, kv_type="q8_0", prompt_tokens=CHUNK
        )
        return pieces.Pieces(layers(1.0), {K: layers(part)}, ((8, 0.125),), 0.0, rates, (0.0, 0.0))

    template = pieces.Template(card, variant, settings, 10**8)
    edges, peers = {0.5: end(1.0, K / LAYERS)}, {0: end(0.1, 1 - K / LAYERS)}
    return bench.World(pieces.Measured(template, facts, {K: stage}, (K,), edges, peers, 0.0))


def candidate(plan: PlanKind) -> Candidate:
    k = K if plan.is_split else None
    peer = None if plan is PlanKind.LOCAL else "garage"
    return Candidate(
        plan=plan, peer=peer, model="smollm2-135m-instruct", variant="Q4_1", k=k, ttft_s=1, tpot_s=1, total_s=1
    )


def test_local_takes_what_its_chunks_and_steps_take(bench: Any) -> None:
    ran = world(bench).run(bench.Case(0.5, 10.0, 0.02, 5 * CHUNK, 11), candidate(PlanKind.LOCAL))
    assert ran.ttft_s == pytest.approx(5.0)
    assert ran.total_s == pytest.approx(6.0)


def test_remote_waits_for_the_link_and_the_peer(bench: Any) -> None:
    ran = world(bench).run(bench.Case(0.5, 10.0, 0.2, 5 * CHUNK, 11), candidate(PlanKind.REMOTE))
    assert 0.5 + 0.2 < ran.ttft_s < 0.5 + 0.5
    assert ran.total_s - ran.ttft_s == pytest.approx(0.1, abs=0.02)


def test_stages_of_a_split_work_on_different_chunks_at_once(bench: Any) -> None:
    ran = world(bench).run(bench.Case(0.5, 100.0, 0.01, 10 * CHUNK, 2), candidate(PlanKind.SPLIT_PREFILL))
    head_s = 10 * K / LAYERS
    assert head_s < ran.ttft_s < head_s + 0.5
    assert not ran.notes


def test_planner_is_told_what_the_link_probe_finds(bench: Any) -> None:
    (peer,) = world(bench).situation(bench.Case(0.5, 3.0, 0.1, 100, 8)).peers
    assert peer.link.down_bytes_s == pytest.approx(3.0 * 125_000, rel=0.1)
    assert 0.1 <= peer.link.rtt_s < 0.2
    assert peer.num_beside == 0


def test_run_that_is_stopped_has_no_total(bench: Any) -> None:
    ran = world(bench).run(bench.Case(0.5, 10.0, 0.02, 5 * CHUNK, 11), candidate(PlanKind.LOCAL), 5.5)
    assert ran.ttft_s == pytest.approx(5.0)
    assert ran.total_s is None
