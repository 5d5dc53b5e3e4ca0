"""A variant in use: what was chosen for this machine, how fast it is, who uses it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from edgeagent.core.cards import ModelCard, Variant
from edgeagent.core.errors import ModelNotFoundError, RequestError
from edgeagent.core.generation import Adapter
from edgeagent.core.hardware import Rates
from edgeagent.execution.loaded import LoadedModel
from edgeagent.execution.local import LocalModel
from edgeagent.execution.stages import StageModel
from edgeagent.model.locks import Hold
from edgeagent.resource.drift import Drift


def _no_adapter(name: str) -> Adapter:
    raise ModelNotFoundError(f"there is no adapter '{name}' here; leave it out")


@dataclass(slots=True)
class HeldHead:
    """The first layers of a model, alone. `why` the whole is not used; `batch_rows` tokens share a batch (0: no guesses
    are made)."""

    stage: StageModel
    why: str
    batch_rows: int = 0
    is_tried: bool = False

    @property
    def k(self) -> int:
        return self.stage.cut.end


@dataclass(slots=True)
class HeldOutput:
    """The output head of a model beside what else of it is here: this machine is to draw tokens by itself."""

    stage: StageModel
    hold: Hold
    """Keeps its file from eviction."""
    num_bytes: int
    """What it takes, part of the resident's `memory_bytes`."""
    batch_rows: int | None = None
    """Tokens whose draws share a batch; None: that was not tried yet."""


@dataclass(slots=True)
class Resident:
    """A variant chosen for this machine. Its worker is started on first use.

    With a `head`, only that part of the variant is here, and `rates` are what those of all its layers would be.
    """

    card: ModelCard
    variant: Variant
    why: str
    rates: Rates
    memory_bytes: int
    local: LoadedModel
    used_at: float
    head: HeldHead | None = None
    """None: the whole variant is here."""
    output: HeldOutput | None = None
    no_output: str = ""
    """Why there is none though one is wanted and its file is here."""
    pace: tuple[int, float] | None = None
    """Threads and duty that the governor set last; None: as chosen."""
    full_rates: Rates | None = None
    """`rates` before the governor slowed it."""
    position_s: tuple[float, float] = (0.0, 0.0)
    """Seconds that each earlier position adds to a prompt token and to an answer token (0: not known)."""
    drift: Drift = field(default_factory=Drift)
    """How far answers have lately been from what `rates` say."""
    hold: Hold | None = None
    """Keeps the file from eviction by any process."""
    single_bytes: int = 0
    """`memory_bytes` if it held one sequence only."""
    num_users: int = 0
    """Requests that hold a lease of the pool."""
    find_adapter: Callable[[str], Adapter] = _no_adapter
    """An adapter by name. Blocks while a file that was never checked is. Raises ModelNotFoundError, ModelFileError."""
    is_promised: bool = False
    """Memory is kept for its worker, which may not have been started yet."""
    is_retired: bool = False
    """Requests from now on take another choice; this one ends with those that use it."""

    @property
    def name(self) -> str:
        return self.card.id + (" (as chosen before)" if self.is_retired else "")

    @property
    def whole(self) -> LocalModel:
        """Raises RequestError where only the first layers are here."""
        if isinstance(self.local, LocalModel):
            return self.local
        raise RequestError(f"only the first layers of {self.card.id} are here; another machine has to run the rest")

    @property
    def is_loaded(self) -> bool:
        return self.local.is_loaded

    @property
    def pid(self) -> int | None:
        return self.local.pid

    @property
    def models(self) -> tuple[LoadedModel, ...]:
        """Each has a worker of its own, once it is loaded."""
        return (self.local, self.output.stage) if self.output else (self.local,)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of all its workers."""
        return tuple(model.pid for model in self.models if model.pid is not None)

    @property
    def is_in_use(self) -> bool:
        return self.num_users > 0 or self.local.num_waiting > 0

    async def unload(self) -> None:
        """End the workers; their memory may be promised to others."""
        for model in self.models:
            await model.close()
        self.is_promised = False

    async def end(self) -> None:
        """End the worker and give its file up: nobody uses it any more."""
        await self.unload()
        for hold in (self.hold, self.output.hold if self.output else None):
            if hold:
                hold.close()
