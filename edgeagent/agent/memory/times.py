"""Times that a question names, as spans of Unix seconds seen from the memory's clock. Pure; days are UTC's."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY = timedelta(days=1)
_UNITS = {"day": 1, "week": 7, "month": 30, "year": 365}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COUNTS = {word: number for number, word in enumerate(_NUMBERS)} | {"a": 1, "an": 1}

_MONTH = re.compile(
    rf"(?:\b(?P<before>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? )?\b(?P<month>{'|'.join(MONTHS)})\b"
    r"(?:,? (?P<after>\d{1,2})(?:st|nd|rd|th)?\b)?(?:,? (?P<year>(?:19|20)\d\d)\b)?",
    re.IGNORECASE,
)
_ISO = re.compile(r"\b(?P<year>(?:19|20)\d\d)-(?P<month>\d\d)-(?P<day>\d\d)\b")
_YEAR = re.compile(r"\b(?P<year>(?:19|20)\d\d)\b")
_AGO = re.compile(r"\b(?P<count>\d{1,3}|[a-z]+) (?P<unit>day|week|month|year)s? ago\b", re.IGNORECASE)
_LAST = re.compile(
    rf"\b(?P<which>last|this|past) (?P<unit>week|month|year|weekend|{'|'.join(_WEEKDAYS)})\b", re.IGNORECASE
)
_NEAR_DAY = re.compile(r"\b(?P<day>today|yesterday|tonight|last night|this morning)\b", re.IGNORECASE)

Span = tuple[float, float]


def spans(question: str, now: float) -> list[Span]:
    """From and to (exclusive) of every time expression, in Unix seconds; a month without a year is the latest one."""
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    found = [
        *(_of_date(m) for m in _ISO.finditer(question)),
        *(_of_month(m, today) for m in _MONTH.finditer(question) if _is_month(m, question)),
        *(_of_ago(m, today) for m in _AGO.finditer(question)),
        *(_of_last(m, today) for m in _LAST.finditer(question)),
        *(_of_near_day(m, today) for m in _NEAR_DAY.finditer(question)),
    ]
    known = [span for span in found if span is not None]
    if not known:
        known = [_year(int(m["year"])) for m in _YEAR.finditer(question)]
    return [(start.timestamp(), end.timestamp()) for start, end in known]


_Dates = tuple[datetime, datetime]


def _is_month(found: "re.Match[str]", question: str) -> bool:
    """ "may" is a month only with a day, a year or a preposition."""
    if found["month"].lower() != "may" or found["before"] or found["after"] or found["year"]:
        return True
    return (
        re.search(r"\b(?:in|of|last|since|early|late|mid|during) $", question[: found.start()], re.IGNORECASE)
        is not None
    )


def _of_date(found: "re.Match[str]") -> _Dates | None:
    return _day(int(found["year"]), int(found["month"]), int(found["day"]))


def _of_month(found: "re.Match[str]", today: datetime) -> _Dates | None:
    month = MONTHS.index(found["month"].lower()) + 1
    year = int(found["year"]) if found["year"] else today.year - (month > today.month)
    if day := found["before"] or found["after"]:
        return _day(year, month, int(day))
    start = datetime(year, month, 1, tzinfo=UTC)
    return start, datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def _of_ago(found: "re.Match[str]", today: datetime) -> _Dates | None:
    word = found["count"].lower()
    count = int(word) if word.isdigit() else _COUNTS.get(word)
    if count is None:
        return None
    days = _UNITS[found["unit"].lower()]
    middle = today - count * days * _DAY
    return middle - (days // 2) * _DAY, middle + (days // 2 + 1) * _DAY


def _of_last(found: "re.Match[str]", today: datetime) -> _Dates:
    unit, is_this = found["unit"].lower(), found["which"].lower() == "this"
    if unit in _WEEKDAYS:
        back = (today.weekday() - _WEEKDAYS.index(unit)) % 7 or (0 if is_this else 7)
        return today - back * _DAY, today - (back - 1) * _DAY
    if unit == "weekend":
        back = (today.weekday() - 5) % 7 or (0 if is_this else 7)
        return today - back * _DAY, today - (back - 2) * _DAY
    days = _UNITS[unit]
    return (
        (today - (days - 1) * _DAY, today + _DAY) if is_this else (today - 2 * days * _DAY, today - (days // 7) * _DAY)
    )


def _of_near_day(found: "re.Match[str]", today: datetime) -> _Dates:
    back = 1 if found["day"].lower() in ("yesterday", "last night") else 0
    return today - back * _DAY, today - (back - 1) * _DAY


def _day(year: int, month: int, day: int) -> _Dates | None:
    try:
        start = datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        return None
    return start, start + _DAY


def _year(year: int) -> _Dates:
    return datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)


SLACK_DAYS = 30


def nearness(at: float, found: Sequence[Span]) -> float:
    """1 inside a span (days, months and years alike), falling to 0 over the SLACK_DAYS after it: people tell later."""
    best = 0.0
    for start, end in found:
        if start <= at < end:
            return 1.0
        if at >= end:
            best = max(best, 1 - (at - end) / (SLACK_DAYS * 86400))
    return best
