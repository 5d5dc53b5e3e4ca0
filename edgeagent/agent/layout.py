"""Reduction level L0: lines of the instructions that change from request to request go behind everything else. Pure.

A KV cache is reused up to the first token that differs. A clock in the first line of 3,000 tokens of instructions
therefore costs all of them, every minute; the same clock beside the question costs a few tokens.
"""

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from unicodedata import normalize

from edgeagent.agent.prompt_rows import Row, read_rows

MIN_SYSTEM_CHARS = 600
"""About 150 tokens of English: reading less again costs less than the lines that introduce what was moved."""
MAX_SYSTEM_CHARS = 64_000
"""Some 20,000 tokens: longer texts are not worth the time that reading their lines takes."""
MAX_MOVED_PART = 0.5
"""When more of the text would have to move, most of it is read anew anyway, and the order given is kept."""
MAX_CLOCK_CHARS = 160
INTRODUCTION = "As of now:"

_MOMENT = re.compile(
    r"\d{1,2}:\d{2}|\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}[年/.]|\b\d{4}\b|"
    r"\d{1,2} ?(?:h\b|[時时시])",
    re.IGNORECASE,
)
"""`\\d` means the digits of every script."""
_ONLY_MOMENT = re.compile(r"(?:[\d\s:.,/+-]|[TZ](?=[\d\s]|$)|\b(?:[AaPp][Mm]|UTC|GMT|CES?T)\b)+")
_TELLS_MOMENT = re.compile(
    r"(?:(?:the|der|die|das|le|la|el|il|o|a) |l\W)?"
    r"(?:(?:current|present|local|system|actual|aktuelle[sr]?|lokale|heutiges?) )?"
    r"(?:date/time|date[ _]?time|time|date|timestamp|now|today(?:\Ws date)?|"
    r"uhrzeit|datum|heute|jetzt|heure|aujourd\Whui|maintenant|hora|fecha|hoy|ahora|ora|oggi|adesso|data|hoje|agora|"
    r"tijd|vandaag|tid|i dag|czas|dzisiaj|teraz|время|дата|сегодня|сейчас|"
    r"(?:当前|现在|現在|今)?(?:时间|时刻|時間|時刻|日時)|现在|今天|日期|現在|今日|현재|시간|오늘|날짜|समय|आज|الوقت|التاريخ|اليوم)"
    r"(?: (?:and (?:time|date)|und (?:uhrzeit|datum)|et heure|y hora|e ora|actuelle?|actual|attuale|atual))?"
    r"(?: ?\([^)]*\))?(?= ?[:=,は是]| ?\d| (?:is|ist|est|es|è|é|jest)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """`stable` is the text without the rows `moved`; both keep their order, and every line is in one of them."""

    stable: str
    moved: tuple[Row, ...] = ()

    @property
    def block(self) -> str:
        """The moved rows, introduced, each below the lines that say what it belongs to; empty when nothing moved."""
        return "\n".join([INTRODUCTION, *_told(self.moved)]) if self.moved else ""


def arrange(system: str, changing: Container[tuple[str, ...]] = ()) -> Layout:
    """Move the rows whose identity is in `changing`, and those that look like a clock or a date.

    Nothing moves when the text is short, or when most of it would.
    """
    return laid_out(system, read_rows(system), changing) if is_worth_it(system) else Layout(system)


def is_worth_it(system: str) -> bool:
    return MIN_SYSTEM_CHARS <= len(system) <= MAX_SYSTEM_CHARS


def laid_out(system: str, rows: Sequence[Row], changing: Container[tuple[str, ...]]) -> Layout:
    """As `arrange`, for a text of the right length whose rows are known."""
    moved = tuple(row for row in rows if _is_volatile(row, changing))
    if not moved or sum(len(row.text) + 1 for row in moved) > MAX_MOVED_PART * len(system):
        return Layout(system)
    behind = {id(row) for row in moved}
    return Layout("\n".join(row.text for row in rows if id(row) not in behind), moved)


def _is_volatile(row: Row, changing: Container[tuple[str, ...]]) -> bool:
    return row.identity is not None and (row.identity in changing or looks_like_clock(row.text))


def looks_like_clock(line: str) -> bool:
    """Whether a line tells the time or the date: it says so, or holds nothing else.

    Times of other things ("Bedtime: 22:00") are not meant. What this misses is learned once it has changed.
    """
    if len(line) > MAX_CLOCK_CHARS:
        return False
    text = normalize("NFKC", line).strip().lstrip("-*+• ")
    if not _MOMENT.search(text):
        return False
    return bool(_TELLS_MOMENT.match(text) or (_ONLY_MOMENT.fullmatch(text) and not text.isdigit()))


def _told(rows: tuple[Row, ...]) -> Iterator[str]:
    shown: tuple[str, ...] = ()
    for row in rows:
        common = 0
        while common < min(len(shown), len(row.under)) and shown[common] == row.under[common]:
            common += 1
        yield from row.under[common:]
        yield row.text
        shown = row.under
