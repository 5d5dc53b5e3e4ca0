"""Calibration files: questions whose answers are known, and whether an answer is right. Pure."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeagent.core.errors import RequestError

MAX_QUESTIONS = 5000
MINUS = "\N{MINUS SIGN}"
NUMBER = re.compile(rf"(?<!\w)[-{MINUS}]?\d+(?:,\d{{3}})*(?:\.\d+)?")
EDGES = re.compile(r"^\W+|\W+$")


class Item(BaseModel):
    """One line of a calibration file. What `check` asks of an answer is in `docs/guide.md`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Annotated[str, Field(min_length=1)]
    check: Literal["exact", "contains", "choice", "number"]
    answers: Annotated[tuple[str, ...], Field(min_length=1)]
    options: tuple[str, ...] = ()
    """Only for `choice`: all that could be named, the right ones among them."""
    kind: str = ""
    """For people: what is asked for."""

    @model_validator(mode="after")
    def _fits(self) -> "Item":
        if (self.check == "choice") != bool(self.options):
            raise ValueError("'options' belong to check 'choice', and only there")
        if self.options and not set(self.answers) < set(self.options):
            raise ValueError("'answers' must be some of 'options', not all")
        if self.check == "number" and any(_number(answer) is None for answer in self.answers):
            raise ValueError("check 'number' needs answers that are numbers")
        return self

    def accepts(self, answer: str) -> bool:
        """Whether a model's answer is right."""
        match self.check:
            case "exact":
                return _bare(answer) in {_bare(each) for each in self.answers}
            case "contains":
                return any(_first(each, answer) is not None for each in self.answers)
            case "choice":
                return _named(self.options, answer) in self.answers
            case "number":
                return _number(answer) in {_number(each) for each in self.answers}


def read_items(content: bytes, name: str) -> list[Item]:
    """The questions of a JSONL file. Raises RequestError, naming the line and the key at fault."""
    items: list[Item] = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                items.append(Item.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(map(str, first["loc"])) or "the whole"
                raise RequestError(f"{name}, line {number}: {key}: {first['msg']}; correct it") from None
    if not items or len(items) > MAX_QUESTIONS:
        raise RequestError(f"{name} holds {len(items)} questions; 1 to {MAX_QUESTIONS} can be asked")
    if twice := next((q for q, count in Counter(item.question for item in items).items() if count > 1), None):
        raise RequestError(f"{name} asks twice: {twice!r}; remove one")
    return items


def _bare(text: str) -> str:
    """Without case, outer marks and runs of blanks."""
    return " ".join(EDGES.sub("", text).casefold().split())


def _first(word: str, text: str) -> int | None:
    """Where the word stands in the text, as a whole and in any case."""
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
    return found.start() if found else None


def _named(options: Sequence[str], text: str) -> str | None:
    """The option that the text names first."""
    places = {option: at for option in options if (at := _first(option, text)) is not None}
    return min(places, key=lambda option: (places[option], -len(option)), default=None)


def _number(text: str) -> float | None:
    """The last number of the text; its thousands may be set apart by commas."""
    found = NUMBER.findall(text)
    if not found:
        return None
    value = float(found[-1].replace(",", "").replace(MINUS, "-"))
    return value if math.isfinite(value) else None
