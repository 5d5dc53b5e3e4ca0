"""Board profiles: what is known of a board without measuring it. One TOML file a board; each number has a source."""

import fnmatch
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeagent.core.errors import ConfigError
from edgeagent.core.hardware import Profile

Patterns = tuple[str, ...]
"""Shell patterns (`*`, `?`, `[…]`), case counts; one that fits is enough."""


class BoardPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sourced(BoardPart):
    """Something that somebody measured or wrote down; `source` says who and where."""

    source: Annotated[str, Field(min_length=1)]


class Figure(Sourced):
    value: float = Field(gt=0)


class Remark(Sourced):
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What match rules look at. What is not known fits no rule about it."""

    board: str
    arch: str
    cpu: str = ""
    memory_bytes: int = 0
    accelerators: tuple[str, ...] = ()
    power_mode: str | None = None

    @classmethod
    def of(cls, machine: Profile) -> Self:
        names = tuple(a.name for a in machine.accelerators)
        cpu, memory = machine.cpu, machine.memory
        return cls(machine.board, cpu.arch, cpu.model, memory.total_bytes, names, machine.power.mode)


class Match(BoardPart):
    """All rules must fit; what is left out fits everything."""

    arch: Literal["x86_64", "aarch64"] | None = None
    boards: Patterns = ()
    """Over the board's name, from the device tree or DMI."""
    cpus: Patterns = ()
    """Over the CPU's model name."""
    memory_bytes: tuple[int, int] | None = None
    """From, to (not including). Kernels tell less than what is installed: firmware and kernel keep some."""
    power_modes: Patterns = ()
    """Over the name of the power mode in force."""
    accelerators: Patterns = ()
    """Over the names of accelerators that are seen."""
    without: Patterns = ()
    """No accelerator seen may have such a name: keeps two profiles for two add-ons apart on a board with both."""

    @property
    def specificity(self) -> tuple[bool, ...]:
        """Greater goes first: what is plugged in says more than a mode, a mode more than memory, memory than a name."""
        rules = (self.accelerators, self.power_modes, self.memory_bytes, self.boards, self.cpus, self.arch)
        return tuple(map(bool, rules))

    def fits(self, seen: Seen) -> bool:
        return (
            self.arch in {None, seen.arch}
            and _any_fits(self.boards, _known(seen.board))
            and _any_fits(self.cpus, _known(seen.cpu))
            and (self.memory_bytes is None or self.memory_bytes[0] <= seen.memory_bytes < self.memory_bytes[1])
            and _any_fits(self.power_modes, _known(seen.power_mode))
            and _any_fits(self.accelerators, seen.accelerators)
            and not (self.without and _any_fits(self.without, seen.accelerators))
        )


class ThermalLimits(BoardPart):
    """`throttle_c`: slowing begins; `limit_c`: the board slows whatever it can, or switches off."""

    throttle_c: Figure | None = None
    limit_c: Figure | None = None


class BoardAccelerator(Sourced):
    """`runtime` is what a program would drive it with; `tops` counts as its maker does."""

    kind: Literal["gpu", "npu", "tpu"]
    name: str
    runtime: str | None = None
    tops: Figure | None = None


class PowerMode(Sourced):
    """`watts` is the budget of the whole module; a mode without one is not capped."""

    name: str
    watts: float | None = Field(default=None, gt=0)


class ReferenceRates(Sourced):
    """Lowest and highest rate that others saw with a model, in tokens a second."""

    model: str
    quantization: str
    engine: str
    """Program, and what it ran on: `llama.cpp, CPU, 4 threads`."""
    prefill_tok_s: tuple[float, float] | None = None
    decode_tok_s: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        ranges = [r for r in (self.prefill_tok_s, self.decode_tok_s) if r]
        if not ranges or any(not 0 < low <= high for low, high in ranges):
            raise ValueError("wants prefill_tok_s, decode_tok_s or both, each from the lowest to the highest above 0")
        return self


class Board(BoardPart):
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    name: str
    match: Match
    memory_bytes: Figure | None = None
    """Installed memory, where all boards that match have the same."""
    memory_bandwidth_bytes_s: Figure | None = None
    """Peak of the memory interface; where its maker tells none, the best rate measured (the source says so)."""
    storage_read_bytes_s: Figure | None = None
    """Peak of sequential reads from the storage it mostly has."""
    idle_w: Figure | None = None
    load_w: Figure | None = None
    """The whole board with all cores at work."""
    thermal: ThermalLimits = ThermalLimits()
    power_modes: tuple[PowerMode, ...] = ()
    accelerators: tuple[BoardAccelerator, ...] = ()
    storage: tuple[Remark, ...] = ()
    quirks: tuple[Remark, ...] = ()
    reference_rates: tuple[ReferenceRates, ...] = ()


def load_boards(folder: Path) -> tuple[Board, ...]:
    """Every board file of a folder, by id. Raises ConfigError that names the first bad file.

    A file with `extends = "<id>"` has all that file's facts too: its lists grow, its other keys go first.
    """
    tables = {file: _read(file) for file in sorted(folder.glob("*.toml"))}
    return tuple(_board(file, _extended(file, table, tables)) for file, table in tables.items())


def match_machine(boards: Iterable[Board], machine: Profile) -> Board | None:
    """The profile with the most specific rules among those that fit all that is known of a machine."""
    return best_match(boards, Seen.of(machine))


def best_match(boards: Iterable[Board], seen: Seen) -> Board | None:
    """The most specific profile that fits; the last id among equals, which the packaged profiles never are."""
    fitting = [b for b in boards if b.match.fits(seen)]
    return max(fitting, key=lambda b: (b.match.specificity, b.id), default=None)


def _known(name: str | None) -> tuple[str, ...]:
    return (name,) if name else ()


def _any_fits(patterns: Patterns, names: tuple[str, ...]) -> bool:
    """True without patterns: no rule is no obstacle."""
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


Table = dict[str, object]


def _read(file: Path) -> Table:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"board profile {file} cannot be read: {error}; correct or remove it") from None


def _extended(file: Path, table: Table, tables: dict[Path, Table]) -> Table:
    """The table on top of the one it extends, if any. One level: readers shall not have to follow a chain."""
    own = {key: value for key, value in table.items() if key != "extends"}
    if "extends" not in table:
        return own
    base = tables.get(file.with_name(f"{table['extends']}.toml"))
    if base is None or "extends" in base:
        raise ConfigError(f"board profile {file}, key 'extends': names no profile that stands alone; correct it")
    return {key: _grown(base.get(key), own.get(key)) for key in {**base, **own}}


def _grown(base: object, own: object) -> object:
    if isinstance(base, list) and isinstance(own, list):
        return [*base, *own]
    return base if own is None else own


def _board(file: Path, table: Table) -> Board:
    try:
        board = Board.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"board profile {file}, key '{key}': {first['msg']}; correct or remove it") from None
    if board.id != file.stem:
        raise ConfigError(f"board profile {file} says id '{board.id}'; name the file after its id")
    return board
