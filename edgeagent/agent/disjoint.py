"""Whether two schemas exclude each other, so that `oneOf` may be written as a plain choice. Errs on the side of no."""

from collections.abc import Sequence
from itertools import combinations

from edgeagent.agent.schema import (
    AnyOf,
    Anything,
    Array,
    Literals,
    Map,
    Number,
    Object,
    Recursive,
    Schema,
    String,
    violation,
)

MAX_RECURSIONS = 3


def are_apart(options: Sequence[Schema]) -> bool:
    """Whether what is written for one of the options never fits another one."""
    return all(_apart(one, other, 0) for one, other in combinations(options, 2))


def _apart(one: Schema, other: Schema, depth: int) -> bool:
    if depth > MAX_RECURSIONS or isinstance(one, Anything) or isinstance(other, Anything):
        return False
    for first, second in ((one, other), (other, one)):
        match first:
            case Recursive():
                # One that is still being read has no schema yet.
                return first.name in first.definitions and _apart(first.schema, second, depth + 1)
            case AnyOf(options):
                return all(_apart(option, second, depth) for option in options)
            case Literals(values) if not isinstance(second, AnyOf | Recursive):
                return all(violation(second, value) is not None for value in values)
    return _kind(one) != _kind(other) or _same_kind_apart(one, other, depth)


def _kind(schema: Schema) -> type:
    return Object if isinstance(schema, Map) else type(schema)


def _same_kind_apart(one: Schema, other: Schema, depth: int) -> bool:
    match one, other:
        case Number(), Number():
            return _ends_before(one, other) or _ends_before(other, one)
        case (String(least, most), String(fewest, longest)):
            return (most is not None and most < fewest) or (longest is not None and longest < least)
        case (Array(_, least, most), Array(_, fewest, longest)):
            return (most is not None and most < fewest) or (longest is not None and longest < least)
        case Object(), Object():
            return _never_fits(one, other, depth) and _never_fits(other, one, depth)
    return False


def _ends_before(one: Number, other: Number) -> bool:
    if one.maximum is None or other.minimum is None:
        return False
    return one.maximum < other.minimum or (one.maximum == other.minimum and (one.is_below or other.is_above))


def _never_fits(written: Object, other: Object, depth: int) -> bool:
    """`written` has its own properties and no others."""
    mine, theirs = ({each.name: each for each in schema.properties} for schema in (written, other))
    if any(each.is_required and name not in mine for name, each in theirs.items()):
        return True
    if other.is_closed and any(each.is_required and name not in theirs for name, each in mine.items()):
        return True
    shared = mine.keys() & theirs.keys()
    return any(
        (mine[name].is_required or theirs[name].is_required) and _apart(mine[name].schema, theirs[name].schema, depth)
        for name in shared
    )
