"""GBNF for a range of whole numbers: a regular language, one digit at a time."""


def digits_between(low: int, high: int) -> str:
    """GBNF of the decimal spellings, without leading zeros, of the whole numbers `0 <= low <= n <= high`."""
    lengths = range(len(str(low)), len(str(high)) + 1)
    return " | ".join(
        same_length(str(max(low, 10 ** (n - 1) if n > 1 else 0)), str(min(high, 10**n - 1))) for n in lengths
    )


def same_length(low: str, high: str) -> str:
    """GBNF of the digits between two spellings of one length: the common first ones, then the last ones opened up."""
    if not low:
        return ""
    rest = len(low) - 1
    if low[0] == high[0]:
        return f'"{low[0]}" {_grouped(same_length(low[1:], high[1:]))}'.strip()
    if set(low[1:]) <= {"0"} and set(high[1:]) <= {"9"}:
        return f"[{low[0]}-{high[0]}]" + (f" [0-9]{{{rest}}}" if rest else "")
    parts, first, last = [], int(low[0]), int(high[0])
    if rest and set(low[1:]) != {"0"}:
        parts.append(f'"{first}" {_grouped(same_length(low[1:], "9" * rest))}')
        first += 1
    tail = []
    if rest and set(high[1:]) != {"9"}:
        tail.append(f'"{last}" {_grouped(same_length("0" * rest, high[1:]))}')
        last -= 1
    middle = [f"[{first}-{last}] [0-9]{{{rest}}}"] if first <= last else []
    return " | ".join(parts + middle + tail)


def _grouped(expression: str) -> str:
    return f"({expression})" if " | " in expression else expression
