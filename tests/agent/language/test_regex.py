"""Patterns: read as other engines read them, and written so that llama.cpp takes exactly the strings that have them."""

import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgeagent.agent.grammar import answer_grammar
from edgeagent.agent.language.gbnf import completion
from edgeagent.agent.language.regex import read_regex
from edgeagent.core.errors import RequestError

if TYPE_CHECKING:
    from tests.agent.conftest import GrammarJudge

atoms = st.sampled_from(
    ["a", "b", "é", '"', r"\\", r"\d", r"\w", r"\.", ".", "[ab]", "[^ab]", "[a-c0-9_-]", r"[\d.]", r"\x41", "(?:ab|c)",
     r"\S"]
)  # fmt: skip
repeats = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}", "+?"])
pieces = st.tuples(atoms, repeats).map("".join)
branches = st.lists(pieces, max_size=4).map("".join)
patterns = st.builds(
    lambda begin, options, end: f"{begin}({'|'.join(options)}){end}",
    st.sampled_from(["^", ""]),
    st.lists(branches, min_size=1, max_size=3),
    st.sampled_from(["$", ""]),
)
strings = st.text(st.sampled_from('abcé"\\.1A_- '), max_size=8)


@settings(max_examples=400, deadline=None)
@given(patterns, strings)
def test_pattern_fits_what_another_engine_finds_in_one_line(pattern: str, text: str) -> None:
    is_found = re.search(pattern, text, re.ASCII) is not None
    if r"\S" in pattern and not text.isascii():  # ours stays within ASCII
        assert is_found or not read_regex(pattern).fits(text)
    else:
        assert read_regex(pattern).fits(text) == is_found


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(patterns, strings)
def test_grammar_of_a_pattern_takes_the_strings_that_have_it(judge: "GrammarJudge", pattern: str, text: str) -> None:
    spelled = json.dumps(text, ensure_ascii=False)
    assume(judge.can_spell(spelled))
    grammar = answer_grammar({"type": "string", "pattern": pattern})
    assert judge.accepts(grammar, spelled) == read_regex(pattern).fits(text)


@settings(max_examples=60, deadline=None)
@given(patterns)
def test_string_that_closes_a_pattern_has_it(pattern: str) -> None:
    closed = completion(answer_grammar({"type": "string", "pattern": pattern}), "")
    assert closed is not None
    assert re.search(pattern, json.loads(closed), re.ASCII)


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [("^a{2,4}$", 2, 4), ("a", 1, None), ("^(a|bcd)?$", 0, 3), ("^$", 0, 0), (r"^\d{4}-\d\d$", 7, 7), ("^a{0}$", 0, 0)],
)
def test_lengths_of_a_pattern(pattern: str, least: int, most: int | None) -> None:
    assert read_regex(pattern).lengths == (least, most)


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("(?=a)", "groups"), ("(?!a)b", "groups"), ("(?<n>a)", "groups"), (r"(a)\1", r"'\\1'"), (r"\bword", r"'\\b'"),
        (r"\p{L}", r"'\\p'"), ("a**", "repeat"), ("*a", "cannot stand"), ("(a", "does not end"), ("a)", "not open"),
        ("[b-a]", "upside down"), ("a{3,1}", "upside down"), ("a{", "number of repeats"), ("[]", "no characters"),
        ("(a{500}){500}", "repeats too much"), ("(a$)", "anchor"), ("[a", "too early"), ("\\", "too early"),
        (r"\u12", "hexadecimal"), ("a" * 2000, "1024"), ("(" * 100 + ")" * 100, "deeply"),
    ],
)  # fmt: skip
def test_pattern_that_is_not_supported_is_refused_by_name(pattern: str, named: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_regex(pattern)
    assert re.search(re.escape(named).replace(r"\\\\", r"\\"), str(caught.value)) or named in str(caught.value)
    assert "pattern" in str(caught.value)


def test_pattern_that_makes_other_engines_explode_is_judged_at_once() -> None:
    assert not read_regex("^(a+)+$").fits("a" * 2000 + "!")
