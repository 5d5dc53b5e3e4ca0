"""Narrows a tool's schema to the arguments that a request offers, so that a small model only has to choose.

Measured with a 135M-parameter model (docs/design.md, tool calls): values chosen among candidates from the
request beat free generation, prepositions tell roles apart, and optional arguments belong only where mentioned.
"""

import itertools
import re
from dataclasses import dataclass, replace

from edgeagent.agent.candidates import Phrase, anchored_number, formatted, numbers, phrases, sayings, unique
from edgeagent.agent.schema import (
    AnyOf,
    Array,
    JsonValue,
    Literals,
    Number,
    Object,
    Property,
    Schema,
    String,
    violation,
)
from edgeagent.agent.words import stem
from edgeagent.core.chat import ToolSpec

MAX_DOCUMENTS = 96  # whole-argument alternatives in one grammar; beyond that each value is chosen by itself

# Arithmetic or "remember that ..." all but names its tool; a name or a number where one is needed is a hint.
_EXPLICIT_EVIDENCE = 0.4
_VALUE_EVIDENCE = 0.25

_ROLES = (
    (frozenset({"from", "origin", "source", "departure", "start", "sender"}), frozenset({"from"})),
    (frozenset({"to", "destination", "target", "arrival", "recipient", "contact"}), frozenset({"to", "into", "in"})),
    (frozenset({"by", "artist", "author", "band"}), frozenset({"by"})),
    (frozenset({"city", "place", "location", "room", "country", "where"}), frozenset({"in", "at", "for", "of"})),
)
_UTTERANCES = frozenset({"text", "message", "body", "content", "note", "reminder", "title", "subject"})


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A schema whose values come from the request, and the required properties it offers nothing for."""

    schema: Schema
    missing: tuple[str, ...] = ()
    evidence: float = 0.0
    """How much the offered values alone speak for this tool, in units of cosine."""

    @property
    def only_document(self) -> dict[str, JsonValue] | None:
        """The arguments, when the request leaves nothing to choose."""
        match self.schema:
            case Literals(values=(dict() as document,)):
                return document
        return None

    def without(self, tried: list[dict[str, JsonValue]]) -> "Narrowed":
        """What is left to try; everything missing when nothing is."""
        if not tried or not isinstance(self.schema, Literals):
            return self
        left = tuple(document for document in self.schema.values if document not in tried)
        return replace(self, schema=Literals(left)) if left else replace(self, missing=("another value",))


def narrow(spec: ToolSpec, schema: Schema, request: str) -> Narrowed:
    """The part of `schema` (the parameters of `spec`) that `request` speaks of."""
    if not isinstance(schema, Object):
        return Narrowed(schema)
    offer = _Offer(spec, schema, request)
    kept = [(each, offer.values(each)) for each in schema.properties]
    missing = tuple(each.name for each, values in kept if each.is_required and values is None)
    kept = [(each, values) for each, values in kept if each.is_required or values]
    evidence = 0.0 if missing else offer.evidence(kept)
    return Narrowed(_as_documents(kept) or _as_object(kept), missing, evidence)


Values = tuple[JsonValue, ...]


def _as_documents(kept: list[tuple[Property, Values | None]]) -> Schema | None:
    """All combinations that give different parameters different values, if they are few and complete."""
    pools = [values or () for _, values in kept]
    if not all(pools) or _product_size(pools) > MAX_DOCUMENTS:
        return None if kept else Literals(({},))
    names = [each.name for each, _ in kept]
    rows = list(itertools.product(*pools))
    distinct = [row for row in rows if _is_distinct(row)]
    return Literals(tuple(dict(zip(names, row, strict=True)) for row in distinct or rows))


def _is_distinct(row: Values) -> bool:
    shown = [each for each in row if isinstance(each, str | int | float) and not isinstance(each, bool)]
    return len(set(shown)) == len(shown)


def _product_size(pools: list[Values]) -> int:
    size = 1
    for pool in pools:
        size *= len(pool)
    return size


def _as_object(kept: list[tuple[Property, Values | None]]) -> Schema:
    return Object(
        tuple(
            replace(each, is_required=True, schema=Literals(values) if values else each.schema) for each, values in kept
        )
    )


class _Offer:
    """What one request offers to one tool. Roles that a preposition settles are taken from the others' pool."""

    def __init__(self, spec: ToolSpec, schema: Object, request: str) -> None:
        self._spec = spec
        self._request = request
        self._words = set(re.findall(r"\w+", request.casefold()))
        self._properties = schema.properties
        self._numbers = numbers(request)
        self._sayings = sayings(request)
        self._pool = _without_tool_words(phrases(request), spec, schema)
        self._anchored = self._anchor_numbers()
        self._settled: dict[str, tuple[str, ...]] = {}
        self._settle_roles()

    def values(self, each: Property) -> Values | None:
        """The candidates for one property; None when the request offers nothing for it."""
        if each.format and (found := formatted(each.format, self._request)) is not None:
            return self._fitting(each.schema, found)
        return self._of_schema(each, each.schema)

    def evidence(self, kept: list[tuple[Property, Values | None]]) -> float:
        needed = [(each, values) for each, values in kept if each.is_required and not isinstance(each.schema, Literals)]
        if any(each.format and formatted(each.format, self._request) for each, _ in needed):
            return _EXPLICIT_EVIDENCE
        is_grounded = all(self._is_sure(each.schema, values or ()) for each, values in needed)
        return _VALUE_EVIDENCE if needed and is_grounded else 0.0

    def _is_sure(self, schema: Schema, values: Values) -> bool:
        match schema:
            case Number():
                return True
            case String():
                sure = {phrase.text for phrase in (*self._pool, *self._sayings) if phrase.is_name}
                return sure.issuperset(each for each in values if isinstance(each, str))
        return False

    def _of_schema(self, each: Property, schema: Schema) -> Values | None:
        match schema:
            case Literals(values):
                mentioned = tuple(value for value in values if self._mentions(value) or self._means(each, value))
                return mentioned or (values if each.is_required else None)
            case Number():
                return self._numeric(each, schema)
            case String():
                return self._textual(each, schema)
            case Array(items=items):
                return self._listed(each, schema, items)
            case AnyOf(options):
                found = (self._of_schema(each, option) for option in options)
                return next((values for values in found if values and values != (None,)), None)
            case Object():
                inner = narrow(self._spec, schema, self._request)
                return inner.schema.values if isinstance(inner.schema, Literals) and not inner.missing else None
        return None

    def _mentions(self, value: JsonValue) -> bool:
        words = re.findall(r"\w+", str(value).replace("_", " ").casefold())
        return isinstance(value, str) and bool(words) and self._words.issuperset(words)

    def _means(self, each: Property, value: JsonValue) -> bool:
        """A truth value is mentioned through its description: "true to lock, false to unlock"."""
        if not isinstance(value, bool):
            return False
        pattern = rf"\b{value}\W+(?:(?:to|if|for|when|means|turns) )*(?:the )?(\w+)"
        cue = re.search(pattern, each.description, re.IGNORECASE)
        return cue is not None and cue.group(1).casefold() in self._words

    def _numeric(self, each: Property, schema: Number) -> Values | None:
        required = sum(isinstance(one.schema, Number) for one in self._properties if one.is_required)
        if not each.is_required and len(self._numbers) <= required and each.name not in self._anchored:
            return None
        if each.name in self._anchored:
            return self._fitting(schema, (self._anchored[each.name],))
        free = tuple(number for number in self._numbers if number not in self._anchored.values())
        return self._fitting(schema, free or self._numbers)

    def _textual(self, each: Property, schema: String) -> Values | None:
        if _is_utterance(each) and self._sayings:
            if not each.is_required and any(_is_utterance(one) for one in self._properties if one.is_required):
                return None  # one saying has one place: the body of a mail, not its subject too
            return self._fitting(schema, tuple(phrase.text for phrase in self._sayings))
        if each.name in self._settled:
            return self._fitting(schema, self._settled[each.name])
        pool = self._free_pool()
        rivals = [one for one in self._properties if self._competes(one)]
        if not each.is_required and len(pool) <= sum(one.is_required for one in rivals):
            return None
        names = [phrase for phrase in pool if phrase.is_name]
        enough = len(names) >= max(1, len(rivals) if each.is_required else 0)
        return self._fitting(schema, unique(phrase.text for phrase in (names if enough else pool)))

    def _competes(self, each: Property) -> bool:
        return isinstance(each.schema, String) and not each.format and each.name not in self._settled

    def _free_pool(self) -> list[Phrase]:
        taken = {text for texts in self._settled.values() for text in texts}
        said = " ".join(phrase.text for phrase in self._sayings)
        uttered = said and any(map(_is_utterance, self._properties))
        return [one for one in self._pool if one.text not in taken and not (uttered and one.text in said)]

    def _listed(self, each: Property, schema: Array, items: Schema) -> Values | None:
        if isinstance(items, Number):
            listed: list[JsonValue] = list(self._numbers)
        else:
            names = [phrase.text for phrase in self._pool if phrase.is_name]
            listed = list(names or [phrase.text for phrase in self._pool])
        return self._fitting(schema, (listed,)) if listed else None

    def _anchor_numbers(self) -> dict[str, int | float]:
        numeric = [each for each in self._properties if isinstance(each.schema, Number)]
        found = ((each.name, anchored_number(self._request, _name_words(each))) for each in numeric)
        return {name: number for name, number in found if number is not None}

    def _settle_roles(self) -> None:
        for each in self._properties:
            prepositions = _role(each)
            if isinstance(each.schema, String) and not each.format and prepositions:
                taken = {text for texts in self._settled.values() for text in texts}
                fitting = [one for one in self._pool if one.before in prepositions and one.text not in taken]
                named = [one for one in fitting if one.is_name] or fitting
                if len(named) == 1:
                    self._settled[each.name] = (named[0].text,)

    @staticmethod
    def _fitting(schema: Schema, found: Values) -> Values | None:
        return tuple(value for value in found if violation(schema, value) is None) or None


def _role(each: Property) -> frozenset[str]:
    """The prepositions that introduce this parameter; its name speaks louder than its description."""
    for words in (_name_words(each), set(re.findall(r"[a-z]+", each.description.casefold()))):
        for cues, prepositions in _ROLES:
            if words & cues:
                return prepositions
    return frozenset()


def _name_words(each: Property) -> set[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", each.name)
    return set(re.findall(r"[a-z]+", spaced.casefold()))


def _is_utterance(each: Property) -> bool:
    return not _UTTERANCES.isdisjoint(_name_words(each))


def _without_tool_words(found: tuple[Phrase, ...], spec: ToolSpec, schema: Object) -> list[Phrase]:
    """Phrases that do more than repeat the tool's own words: "light" asks for set_light, it names no room."""
    name = {stem(word) for word in re.findall(r"[a-z]+", spec.name.casefold())}
    told = " ".join([spec.description, *(f"{each.name} {each.description}" for each in schema.properties)])
    words = name | {stem(word) for word in re.findall(r"[a-z]+", told.casefold().replace("_", " "))}
    kept = []
    for phrase in found:
        parts = phrase.text.split()
        while parts and not phrase.is_name and stem(parts[-1]) in name:
            parts.pop()
        while parts and not phrase.is_name and stem(parts[0]) in name:
            parts.pop(0)
        if parts and not all(stem(part) in words for part in parts):
            kept.append(replace(phrase, text=" ".join(parts)))
    return kept
