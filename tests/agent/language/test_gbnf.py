"""Grammars read as llama.cpp reads them, and the shortest ends of what they began."""

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgeagent.agent.grammar import answer_grammar, spell, to_gbnf
from edgeagent.agent.language import machine
from edgeagent.agent.language.gbnf import completion, read_gbnf
from edgeagent.agent.language.machine import Machine
from edgeagent.agent.language.tree import Rule
from edgeagent.agent.schema import violation
from edgeagent.agent.schema_reader import read_schema
from edgeagent.core.chat import JsonObject
from edgeagent.core.errors import RequestError
from tests.agent.test_answer_grammar import CHAIN
from tests.agent.test_grammar import in_order, schemas, values_of

if TYPE_CHECKING:
    from tests.agent.conftest import GrammarJudge

WRITTEN = r"""
# every part of the notation
root ::= greeting ("," " " item){1,2} end? # and comments
greeting ::= "he\"llo" | [^a-z\]\x41-\x43]+
item ::= ( "\u00e9" | [\U0001F600-\U0001F64F]
  | "x"{2,} )
end ::= . [-a]
"""
PARTS = ["he", '"', "llo", "A", "D", "]", "q", ", ", "é", "😀", "x", "xx", "xxx", "-", "a", "\n"]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
def test_machine_agrees_with_llama_cpp(judge: "GrammarJudge", text: str) -> None:
    assume(judge.can_spell(text))
    read = Machine(Rule("root"), read_gbnf(WRITTEN)).read(text)
    assert read.is_word == judge.accepts(WRITTEN, text)
    if (end := read.completion()) is not None and judge.can_spell(text + end):
        assert judge.accepts(WRITTEN, text + end)
    assert (end is not None) == read.is_alive


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_document_cut_anywhere_is_closed_to_one_that_fits(data: st.DataObject) -> None:
    schema = data.draw(schemas)
    tree = read_schema(schema)
    value = data.draw(values_of(schema))
    assume(violation(tree, value) is None)
    text = spell(in_order(schema, value))
    cut = text[: data.draw(st.integers(0, len(text)))]
    grammar = to_gbnf(tree)
    assume(Machine(Rule("root"), read_gbnf(grammar)).read(text).is_word)  # the grammar's spelling of numbers is its own

    end = completion(grammar, cut)

    assert end is not None
    assert violation(tree, json.loads(cut + end)) is None
    assert len(cut + end) <= len(text)


@pytest.mark.parametrize(
    ("schema", "text", "end"),
    [
        ({"type": "object"}, "", "{}"),
        ({"type": "object"}, '{"a": [1, {"b": "c\\', None),
        ({"enum": ["red", "green"]}, '"g', 'reen"'),
        ({"type": "string", "pattern": "^[0-9]{4}$"}, '"19', '00"'),
        ({"type": "number", "minimum": 0.5, "maximum": 0.75}, "0", ".50"),
        (CHAIN, '{"next": {"next": {', "}}}"),
        ({"type": "boolean"}, "yes", ""),
    ],
)
def test_shortest_end(schema: JsonObject, text: str, end: str | None) -> None:
    found = completion(answer_grammar(schema), text)
    if end is None:  # any escape will do
        assert found is not None
        json.loads(text + found)
    else:
        assert found == (end or None)


def test_end_that_would_be_huge_counts_as_none() -> None:
    schema: JsonObject = {"type": "boolean"}
    for _ in range(4):
        schema = {"type": "array", "items": schema, "minItems": 900}
    with pytest.raises(RequestError, match="ends"):
        answer_grammar(schema)


def test_grammar_that_is_read_in_too_many_ways_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MAX_STACKS", 50)
    with pytest.raises(RequestError, match="ambiguous"):
        completion("root ::= (" + " | ".join(f'"a"{{1,{n}}}' for n in range(1, 60)) + ")", "aaa")


@pytest.mark.parametrize(
    "broken",
    ["", "root", "root :=", 'root ::= "a', "root ::= (a", "root ::= [a", 'root ::= "a"{x}', "root ::= other",
     'a ::= "b"', 'root ::= "\\xzz"', 'root ::= "\\Uffffffff"', "root ::= " + "(" * 300 + '"a"' + ")" * 300],
)  # fmt: skip
def test_grammar_that_cannot_be_read_is_an_error(broken: str) -> None:
    with pytest.raises(RequestError, match="grammar"):
        completion(broken, "a")
