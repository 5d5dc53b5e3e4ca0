"""Finds arithmetic in a sentence: `17 * 23`, but also "15% of 240" and "nine squared"."""

import re

from edgeagent.agent.arithmetic import FUNCTIONS, MAX_EXPRESSION_CHARS, parse
from edgeagent.core.errors import ToolError

_TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_UNITS = re.findall(r"\w+", f"zero|one|two|three|four|five|six|seven|eight|nine|{_TEENS}")
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: n for n, word in enumerate(_UNITS)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6}
_NUMBER_WORDS = "|".join([*_SMALL, *_SCALES])
_SPOKEN = re.compile(rf"\b(?:a )?(?:{_NUMBER_WORDS})(?:(?:[ -]| and )(?:{_NUMBER_WORDS}))*\b")

_N = r"(\d+(?:\.\d+)?)"
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"{_N} ?(?:%|percent) (?:of|off) {_N}", r"\1 / 100 * \2"),
        (rf"\b(?:the )?(?:square )?root of {_N}", r"sqrt(\1)"),
        (rf"\b(?:the )?cube root of {_N}", r"cbrt(\1)"),
        (rf"\b(?:the )?factorial of {_N}", r"factorial(\1)"),
        (rf"\b(?:add|(?:the )?sum of) {_N} (?:and|to|with) {_N}", r"\1 + \2"),
        (rf"\bsubtract {_N} from {_N}", r"\2 - \1"),
        (rf"\b(?:the )?difference (?:between|of) {_N} and {_N}", r"\1 - \2"),
        (rf"\b(?:multiply|(?:the )?product of) {_N} (?:by|and|with) {_N}", r"\1 * \2"),
        (rf"\bdivide {_N} by {_N}", r"\1 / \2"),
        (rf"\bhalf of {_N}", r"\1 / 2"),
        (r" (?:to the power of|raised to(?: the power(?: of)?)?) |\^", " ** "),
        (r" squared\b", " ** 2"),
        (r" cubed\b", " ** 3"),
        (r" (?:times|multiplied by) |(?<=\d) ?x ?(?=\d)", " * "),
        (r" (?:divided by|over) ", " / "),
        (r" plus ", " + "),
        (r" minus ", " - "),
        (r" (?:modulo|mod) ", " % "),
    )
]
_FUNCTION = "|".join(FUNCTIONS)
# Commas belong to a function's arguments; elsewhere they part the sentence.
_RUN = re.compile(
    rf"(?:(?:{_FUNCTION})\([\d\s.,+*/%-]*\)|(?:{_FUNCTION})\(|\bpi\b|\d+(?:\.\d+)?|\*\*|//|[-+*/%()]|\s)+"
)


def expressions(text: str) -> tuple[str, ...]:
    """The arithmetic expressions in `text`, longest first, as the calculator reads them. Plain numbers do not count."""
    digits = re.sub(r"(?<=\d),(?=\d{3}\b)", "", spoken_to_digits(text.casefold()))
    for pattern, replacement in _REWRITES:
        digits = pattern.sub(replacement, digits)
    runs = (match.group() for match in _RUN.finditer(digits) if not _is_idiom(match, digits))
    return tuple(sorted(filter(None, set(map(_trimmed, runs))), key=len, reverse=True))


def _is_idiom(run: re.Match[str], text: str) -> bool:
    """24/7, 9/11, a score of 4-2 and a phone number are no sums, unless the sentence asks for their value."""
    is_tight = re.fullmatch(r"\s*\d+[-/]\d+\s*", run.group()) is not None
    return (
        is_tight
        and re.search(r"(?:what is|what's|calculate|compute|evaluate|solve|^)\s*$", text[: run.start()]) is None
    )


def spoken_to_digits(text: str) -> str:
    """`text` (lower case) with number words as digits: "one hundred and five" becomes "105"."""
    return _SPOKEN.sub(lambda match: str(_spoken_value(match.group())), text)


def _spoken_value(words: str) -> int:
    total, group = 0, 0
    for word in re.findall(r"[a-z]+", words):
        if word in _SMALL:
            group += _SMALL[word]
        elif word == "hundred":
            group = max(group, 1) * 100
        elif word in _SCALES:
            total, group = total + max(group, 1) * _SCALES[word], 0
    return total + group


def _trimmed(run: str) -> str:
    """The run without the punctuation of its sentence; empty when no operation remains."""
    run = run.strip()
    while run and not _is_operation(run):
        shorter = run.rstrip("+-*/%( ") if run[-1] in "+-*/%( " else run.lstrip("+*/%) ")
        if shorter == run:
            return ""
        run = shorter
    return run


def _is_operation(run: str) -> bool:
    if len(run) > MAX_EXPRESSION_CHARS or not re.search(r"\d\)* *[-+*/%]+ *[\d(a-z]|[a-z]\(", run):
        return False
    try:
        parse(run)
    except ToolError:
        return False
    return True
