"""Splitting text into units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.model.sentences import MAX_UNIT_CHARS, split_sentences

FENCE = "```python\na = 1.  B\n\nprint(a). Done\n```\n"
LIST = "- one thing. Really.\n- two\n\n  more of two\n1. three\n"
TABLE = "| a | b. C |\n|---|---|\n| 1 | 2 |\n"


@given(st.text(st.sampled_from("aB1 .!?\n\r#-*|`~\"')é漢。\u2028\t"), max_size=400))
def test_split_joined_again_is_the_text(text: str) -> None:
    units = split_sentences(text)
    assert "".join(units) == text
    assert len(units) <= 1 or all(unit.strip() for unit in units)


@given(st.text(max_size=200))
def test_split_any_unicode_is_lossless(text: str) -> None:
    assert "".join(split_sentences(text)) == text


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith paid 3.14 dollars. He left.", ["Dr. Smith paid 3.14 dollars.", "He left."]),
        ("J. Doe came. So did I. Bye.", ["J. Doe came.", "So did I.", "Bye."]),
        ('"Really?" she asked. He nodded.', ['"Really?" she asked.', "He nodded."]),
        ("He said (twice.) Then he left.", ["He said (twice.)", "Then he left."]),
        ("Born in\n2024. Then gone.", ["Born in\n2024.", "Then gone."]),
        ("今日は。明日\uff01End.", ["今日は。", "明日\uff01", "End."]),
        ("# Title\nText here.", ["# Title", "Text here."]),
        ("First part\n\nsecond part", ["First part", "second part"]),
        ("Use e.g. water. Done.", ["Use e.g. water.", "Done."]),
    ],
)
def test_split_prose_into_sentences(text: str, units: list[str]) -> None:
    assert [unit.strip() for unit in split_sentences(text)] == units


@pytest.mark.parametrize("unit", [FENCE, LIST, TABLE, FENCE.replace("```", "~~~")])
def test_split_keeps_code_lists_and_tables_whole(unit: str) -> None:
    units = split_sentences(f"Before it. Still before.\n\n{unit}\nAfter it. The end.")
    assert units == ("Before it. ", "Still before.\n\n", unit + "\n", "After it. ", "The end.")


def test_split_unclosed_fence_runs_to_the_end() -> None:
    assert split_sentences("Text.\n```\nA. B.\n\nC. D.") == ("Text.\n", "```\nA. B.\n\nC. D.")


def test_split_long_log_falls_apart_at_its_lines() -> None:
    log = "2024-01-01 something happened here\n" * 100
    assert len(log) > MAX_UNIT_CHARS
    assert len(split_sentences(log)) == 100
