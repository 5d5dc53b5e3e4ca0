"""A cascade of two real variants: what stands is shown, what does not is asked of the larger, nothing shows before."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeagent.agent.answering import Answerer
from edgeagent.agent.cascading import Cascade
from edgeagent.agent.drafting import Material
from edgeagent.agent.situation import Surroundings
from edgeagent.core.chat import ChatRequest, Extension, JsonObject, Message, ToolSpec
from edgeagent.core.config import EngineConfig, ModelsConfig, PolicyConfig
from edgeagent.core.events import Event, Finished, Planned, Text
from edgeagent.core.generation import Sampling
from edgeagent.core.hardware import Cpu, EngineFacts, MemoryFacts, Profile, Rates, Storage, Verdict
from edgeagent.core.plan import CascadeReport, PlanKind
from edgeagent.execution.supervisor import Worker
from edgeagent.model import overlay
from edgeagent.model.cascade import Calibration, Early, Figures
from edgeagent.model.confidence import FEATURES, Logistic
from edgeagent.model.limits import Limits
from edgeagent.model.machine import machine_of
from edgeagent.model.overlay import Overlay
from edgeagent.model.pool import ModelPool
from edgeagent.model.quantize import quantize
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.capability import ENGINE, ProbeModel

if TYPE_CHECKING:
    from tests.agent.conftest import OnnxSentences

MODEL = "smollm2-135m-instruct"
SMALL, LARGER = f"{MODEL}/Q4_0", f"{MODEL}/Q4_1"
QUESTION = "Name three animals that live in the sea."
ZEROS = (0.0,) * len(FEATURES)


def always(confidence: float) -> Logistic:
    """A confidence that no answer changes: 0.27 for -1, 0.73 for 1."""
    return Logistic(means=ZEROS, scales=(1.0,) * len(FEATURES), weights=ZEROS, bias=confidence)


def profile() -> Profile:
    """A CPU with rates as if they had been measured."""
    safe = {"extra_buffers": False, "flash_attention": True}
    engine = EngineFacts(name=ENGINE, version="", usable=True, probe=Verdict(verdict="ok", reason="", settings=safe))
    return Profile(
        fingerprint="",
        board="",
        cpu=Cpu(model="", arch="x86_64", cores=1, features=()),
        memory=MemoryFacts(total_bytes=0, available_bytes=0),
        storage=Storage(path="/", free_bytes=0),
        engines=(engine,),
        rates={name: Rates(prefill_tok_s=100, decode_tok_s=50, threads=1) for name in (SMALL, LARGER)},
    )


@pytest.fixture(scope="session")
def two_variants(smollm2: StoredVariant, embedded_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded model as fetched, and made smaller here."""
    folder = tmp_path_factory.mktemp("two-variants")
    store = ModelStore(folder, Registry([smollm2.card]), embedded_store._fetcher)
    path = store.path(smollm2.card, smollm2.variant)
    path.parent.mkdir(parents=True)
    path.symlink_to(smollm2.path)
    asyncio.run(quantize(store, MODEL, "Q4_0", lambda: Worker.spawn("llama"), threads=2))
    return folder


class Stage:
    """A pool of both variants, and cascades of them by calibrations written for the test."""

    def __init__(self, folder: Path, card: StoredVariant, store: ModelStore, embedder: "OnnxSentences") -> None:
        async def read_profile(probe: ProbeModel | None) -> Profile:
            del probe
            return profile()

        self.store = ModelStore(folder, Registry([card.card]), store._fetcher)
        limits = Limits(900_000_000, 60, 1024, "q8_0")
        self.pool = ModelPool(self.store, EngineConfig(), read_profile, lambda: limits, machine_of)
        self.answerer = Answerer(Surroundings(PolicyConfig(), ModelsConfig(), None), embedder)

    async def __aenter__(self) -> None:
        overlay.path_of(self.store.folder, MODEL).unlink(missing_ok=True)

    async def __aexit__(self, *_: object) -> None:
        await self.pool.close()

    def calibrate(self, threshold: float, early: Early | None = None) -> None:
        stored = self.store.find(MODEL, "Q4_0")
        assert stored
        made = Calibration(
            variant="Q4_0",
            sha256=stored.sha256,
            confidence=always(1.0),
            threshold=threshold,
            early=early,
            target="",
            figures=Figures(questions=1, accuracy=0, auroc=0, calibration_error=0, share_asked=0, small_s=0),
            file="",
            file_sha256="0" * 64,
            max_tokens=1,
            engine="",
            date="",
        )
        overlay.save(self.store.folder, MODEL, Overlay().with_calibration(made))

    def cascade(self, larger: str = LARGER) -> Cascade:
        folder = self.store.folder
        return Cascade(self.pool, self.answerer, folder, small=SMALL, larger=larger, default_model=MODEL)

    async def ask(self, cascade: Cascade, **more: object) -> list[Event]:
        request = asking(**more)
        default = await self.pool.get(LARGER)
        material = Material(request.messages, (), (), QUESTION)
        return [event async for event in cascade.answer(request, material, default, time.monotonic())]

    async def alone(self, name: str) -> str:
        """What a variant says when it is asked by itself."""
        request, resident = asking(edgeagent=Extension(plan=PlanKind.LOCAL)), await self.pool.get(name)
        material = Material(request.messages, (), (), QUESTION)
        events = self.answerer.answer(request, material, resident, None, time.monotonic())
        return said([event async for event in events])


def asking(**more: object) -> ChatRequest:
    fields: JsonObject = {"messages": (Message(role="user", content=QUESTION),), "max_tokens": 24, **more}
    return ChatRequest(**fields)


def said(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def told(events: list[Event]) -> tuple[Finished, CascadeReport]:
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.report.cascade
    return last, last.report.cascade


@pytest.fixture
def stage(two_variants: Path, smollm2: StoredVariant, embedded_store: ModelStore, embedder: "OnnxSentences") -> Stage:
    return Stage(two_variants, smollm2, embedded_store, embedder)


def test_answer_that_is_not_sure_is_asked_of_the_larger_and_nothing_of_it_shows(stage: Stage) -> None:
    async def scenario() -> tuple[list[Event], str]:
        async with stage:
            stage.calibrate(threshold=0.9)
            return await stage.ask(stage.cascade()), await stage.alone(LARGER)

    events, larger = asyncio.run(scenario())
    finished, report = told(events)
    assert said(events) == larger
    assert (finished.report.model, finished.report.variant) == (MODEL, "Q4_1")
    assert (report.small, report.larger, report.stood, report.early_at) == (SMALL, LARGER, False, None)
    assert report.confidence == pytest.approx(0.731, abs=1e-3)
    assert report.threshold == 0.9
    assert report.small_tokens > 0
    assert report.larger_s is not None
    assert f"the answer of {SMALL} does not stand: confidence 0.73, 0.90 wanted; " in finished.report.why
    assert sum(isinstance(event, Planned) for event in events) == 1


def test_answer_that_is_sure_stands_and_the_larger_is_never_loaded(stage: Stage) -> None:
    async def scenario() -> tuple[list[Event], bool, str]:
        async with stage:
            stage.calibrate(threshold=0.5)
            events = await stage.ask(stage.cascade())
            is_loaded = (await stage.pool.get(LARGER)).local.is_loaded
            return events, is_loaded, await stage.alone(SMALL)

    events, is_loaded, small = asyncio.run(scenario())
    finished, report = told(events)
    assert said(events) == small
    assert (finished.report.variant, report.stood, report.larger_s) == ("Q4_0", True, None)
    assert not is_loaded
    assert not any(event.tokens for event in events if isinstance(event, Text))  # nobody asked for log-probabilities
    assert not any(event.requested for event in events if isinstance(event, Planned))


@pytest.mark.parametrize(("accept", "reject"), [(0.5, None), (None, 0.8)])
def test_long_answer_is_decided_after_its_first_tokens(
    stage: Stage, accept: float | None, reject: float | None
) -> None:
    async def scenario() -> list[Event]:
        async with stage:
            # At its end the whole answer would be decided the other way.
            early = Early(confidence=always(1.0), accept=accept, reject=reject)
            stage.calibrate(threshold=0.9 if accept else 0.5, early=early)
            return await stage.ask(stage.cascade())

    events = asyncio.run(scenario())
    finished, report = told(events)
    assert report.stood is (accept is not None)
    assert report.early_at == 9
    assert report.threshold == (accept or reject)
    assert report.small_tokens == 9
    assert finished.report.variant == ("Q4_0" if accept else "Q4_1")
    assert finished.usage.completion_tokens > 9
    assert sum(isinstance(event, Text) for event in events) > 9  # it streams from there on


def test_unsure_answer_is_shown_after_all_when_nobody_has_the_larger_model(stage: Stage) -> None:
    async def scenario(early: Early | None) -> tuple[list[Event], str]:
        async with stage:
            stage.calibrate(threshold=0.9, early=early)
            return await stage.ask(stage.cascade(f"{MODEL}/Q8_0")), await stage.alone(SMALL)

    for early in (None, Early(confidence=always(1.0), reject=0.8)):
        events, small = asyncio.run(scenario(early))
        finished, report = told(events)
        assert said(events) == small
        assert (finished.report.variant, report.stood, report.larger_s) == ("Q4_0", False, None)
        assert f"{MODEL}/Q8_0 has none: " in finished.report.notes[0]


def test_model_that_was_never_calibrated_answers_nothing_and_the_note_says_what_to_run(stage: Stage) -> None:
    async def scenario() -> list[Event]:
        async with stage:
            return await stage.ask(stage.cascade())

    finished = asyncio.run(scenario())[-1]
    assert isinstance(finished, Finished)
    assert (finished.report.variant, finished.report.cascade) == ("Q4_1", None)
    assert f"edgeagent models calibrate {MODEL} --variant Q4_0 --larger {LARGER}" in finished.report.notes[0]


def test_log_probabilities_come_as_asked_for(stage: Stage) -> None:
    async def scenario() -> list[Event]:
        async with stage:
            stage.calibrate(threshold=0.5)
            return await stage.ask(stage.cascade(), sampling=Sampling(logprobs=2))

    events = asyncio.run(scenario())
    tokens = [token for event in events if isinstance(event, Text) for token in event.tokens]
    assert tokens
    assert all(len(token.top) == 2 for token in tokens)


@pytest.mark.parametrize(
    ("more", "is_taken"),
    [
        ({}, True),
        ({"model": MODEL}, True),
        ({"model": "qwen3-0.6b"}, False),
        ({"edgeagent": Extension(cascade=False)}, False),
        ({"edgeagent": Extension(plan=PlanKind.LOCAL)}, False),
        ({"sampling": Sampling(temperature=0.7)}, False),
        ({"sampling": Sampling(grammar="root ::= [a-z]+")}, False),
        ({"sampling": Sampling(logit_bias=((1, 1.0),))}, False),
        ({"tools": (ToolSpec(name="set_light"),)}, False),
        ({"messages": (Message(role="user", content="?"), Message(role="tool", content="7"))}, False),
    ],
)
def test_only_plain_requests_to_the_default_model_are_taken(stage: Stage, more: JsonObject, is_taken: bool) -> None:
    request = asking(**more)
    assert stage.cascade().takes(request, request.messages) is is_taken
