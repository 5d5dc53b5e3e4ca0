"""GBNF for numbers between bounds.

A number whose whole part is also a bound's is written with as many decimals as the bounds have, and two more when a
bound itself is left out: `exclusiveMinimum: 0` begins at 0.01. All others have up to 16.
"""

import math
from decimal import Decimal

from edgeagent.agent.digits import digits_between, same_length
from edgeagent.agent.schema import Number
from edgeagent.core.errors import RequestError

LARGEST = 10**16 - 1
MAX_DECIMALS = 15
_FRACTION = '("." [0-9]{1,16})?'
_ZEROS = '("." "0"{1,16})?'


def whole_numbers(low: int, high: int) -> list[str]:
    """Alternatives that together are the whole numbers `low <= n <= high`; none when there is none."""
    parts = []
    if high >= max(low, 0):
        parts.append(digits_between(max(low, 0), high))
    if low < 0 and low <= high:
        parts.append(f'"-" ({digits_between(max(-high, 1), -low)})')
    return parts


def decimals_between(schema: Number) -> list[str]:
    """Alternatives that together are numbers within the bounds; none when there is none."""
    low = Decimal(-LARGEST if schema.minimum is None else repr(schema.minimum))
    high = Decimal(LARGEST if schema.maximum is None else repr(schema.maximum))
    decimals = max(_decimals(low), _decimals(high)) + 2 * (schema.is_above or schema.is_below)
    if decimals > MAX_DECIMALS:
        raise RequestError(f"bounds with more than {MAX_DECIMALS - 2} decimals are not supported; round them")
    least = math.ceil(low.scaleb(decimals)) + schema.is_above
    most = math.floor(high.scaleb(decimals)) - schema.is_below
    if least > most:
        return []
    spans = _from_zero(max(least, 0), most, decimals) if most >= 0 else []
    if least < 0:
        spans += [f'"-" ({span})' for span in _from_zero(max(-most, 0), -least, decimals)]
    return spans


def _decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return max(0, -int(exponent))


def _from_zero(low: int, high: int, decimals: int) -> list[str]:
    """`0 <= low <= n <= high`, in units of the last decimal."""
    (first, above), (last, below) = divmod(low, 10**decimals), divmod(high, 10**decimals)
    zero, nine, top = "0" * decimals, "9" * decimals, f"{below:0{decimals}}" if decimals else ""
    if above and first == last:
        return [f'"{first}" "." ({same_length(f"{above:0{decimals}}", top)})']
    spans = [f'"{first}" "." ({same_length(f"{above:0{decimals}}", nine)})'] if above else []
    free = first + 1 if above else first
    if free < last:
        spans.append(f"({digits_between(free, last - 1)}) {_FRACTION}")
    return [*spans, f'"{last}" ("." ({same_length(zero, top)}))?' if decimals else f'"{last}" {_ZEROS}']
