"""Board profiles: what is known of a board without measuring it. One TOML file a board; each number has a source."""

import fnmatch
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeagent.core.errors import ConfigError


class BoardPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sourced(BoardPart):
    """Something that somebody measured or wrote down; `source` says who."""

    source: Annotated[str, Field(min_length=1)]


class Figure(Sourced):
    value: float = Field(gt=0)


class Match(BoardPart):
    """Both must fit; what is left out fits everything. `boards` are shell patterns over the board's name."""

    arch: Literal["x86_64", "aarch64"] | None = None
    boards: tuple[str, ...] = ()

    def fits(self, board: str, arch: str) -> bool:
        fits_arch = self.arch is None or self.arch == arch
        return fits_arch and (not self.boards or any(fnmatch.fnmatchcase(board, pattern) for pattern in self.boards))


class ThermalLimits(BoardPart):
    """`throttle_c`: slowing begins; `limit_c`: the board slows whatever it can."""

    throttle_c: Figure | None = None
    limit_c: Figure | None = None


class BoardAccelerator(Sourced):
    kind: Literal["gpu", "npu", "tpu"]
    name: str


class Quirk(Sourced):
    text: str


class ReferenceRates(Sourced):
    """Lowest and highest rate that was seen with a model, in tokens a second."""

    model: str
    prefill_tok_s: tuple[float, float]
    decode_tok_s: tuple[float, float]


class Board(BoardPart):
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    name: str
    match: Match
    memory_bandwidth_bytes_s: Figure | None = None
    thermal: ThermalLimits = ThermalLimits()
    accelerators: tuple[BoardAccelerator, ...] = ()
    quirks: tuple[Quirk, ...] = ()
    reference_rates: tuple[ReferenceRates, ...] = ()


def load_boards(folder: Path) -> tuple[Board, ...]:
    """Every board file of a folder, by id. Raises ConfigError that names the first bad file."""
    return tuple(_load(file) for file in sorted(folder.glob("*.toml")))


def match_board(boards: Iterable[Board], board: str, arch: str) -> Board | None:
    """The board whose rules fit; one that names boards goes before one that fits a whole architecture."""
    fitting = [b for b in boards if b.match.fits(board, arch)]
    return min(fitting, key=lambda b: (not b.match.boards, b.id), default=None)


def _load(file: Path) -> Board:
    try:
        board = Board.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"board profile {file} cannot be read: {error}; correct or remove it") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"board profile {file}, key '{key}': {first['msg']}; correct or remove it") from None
    if board.id != file.stem:
        raise ConfigError(f"board profile {file} says id '{board.id}'; name the file after its id")
    return board
