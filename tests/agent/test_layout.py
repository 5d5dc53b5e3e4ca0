"""Changing lines go last: none is lost, none is torn from what explains it, and the front stays the same."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.layout import INTRODUCTION, Layout, arrange, looks_like_clock
from edgeagent.agent.prompt_rows import read_rows
from edgeagent.agent.prompting import compose
from edgeagent.agent.seen_prompts import SeenPrompts
from edgeagent.core.chat import Message

ARABIC_TIME = "10:02".translate({ord("0") + n: chr(0x660 + n) for n in range(10)})
RULES = "\n".join(f"Rule {word}: treat every {word} as the owner of the house would." for word in "abcdefghijkl")


def home(clock: str = "10:02", *, kitchen: str = "on", hall: str = "21") -> str:
    return "\n".join(
        [
            f"Current time: {clock}",
            "You look after a house.",
            "Devices:",
            "entity_id,name,state",
            f"light.kitchen,Kitchen lamp,{kitchen}",
            "light.attic,Attic lamp,off",
            "",
            "Rooms:",
            "- name: Hall",
            f"  temperature: {hall}",
            "- name: Cellar",
            "  temperature: 12",
            "",
            RULES,
        ]
    )


@pytest.mark.parametrize(
    "line",
    [
        "Current time: 10:02",
        "Current time is 10:02:11. Today's date is 2026-11-24.",
        "The current date and time is 24/11/2026, 10:02 AM",
        "2026-11-24T10:02:00Z",
        "- Now: 10:02",
        "Datum und Uhrzeit: 24.11.2026",
        "Heute ist Dienstag, der 24.11.2026.",
        "Heure actuelle : 10:02",
        "Hora actual: 10:02",
        "当前时间\N{FULLWIDTH COLON}2026年11月24日",
        "現在時刻は10:02です",
        "الوقت: " + ARABIC_TIME,
        "समय: १०:०२",
    ],
)
def test_line_that_tells_the_time_is_known_at_first_sight(line: str) -> None:
    assert looks_like_clock(line)


@pytest.mark.parametrize(
    "line",
    [
        "Bedtime: 22:00",
        "Quiet hours: 22:00 to 07:00",
        "Time zone: UTC+02:00",
        "Breakfast at 7:30",
        "Date format: YYYY-MM-DD",
        "Data retention: 2026",
        "Now answer in 2026 words.",
        "1984",
        "Current time: unknown",
        "Time: " + "10:02 " * 40,
    ],
)
def test_line_about_another_time_stays(line: str) -> None:
    assert not looks_like_clock(line)


def test_clock_moves_and_the_rest_is_word_for_word_as_it_came() -> None:
    layout = arrange(home())
    assert layout.block == f"{INTRODUCTION}\nCurrent time: 10:02"
    assert layout.stable == home().partition("\n")[2]


def test_short_instructions_stay_as_they_came() -> None:
    assert arrange("Current time: 10:02\nYou are kind.") == Layout("Current time: 10:02\nYou are kind.")


def test_text_that_would_mostly_move_stays_as_it_came() -> None:
    text = "\n".join(f"Now (city {n}): 10:02" for n in range(40)) + "\n" + RULES[:300]
    assert arrange(text) == Layout(text)


def test_row_that_changes_moves_below_its_heading_and_its_table_header() -> None:
    seen = SeenPrompts()
    assert len(seen.arrange("ada", home()).moved) == 1
    layout = seen.arrange("ada", home("10:03", kitchen="off"))
    told = "Current time: 10:03\nDevices:\nentity_id,name,state\nlight.kitchen,Kitchen lamp,off"
    assert layout.block == f"{INTRODUCTION}\n{told}"
    assert "entity_id,name,state\nlight.attic,Attic lamp,off" in layout.stable


def test_indented_value_that_changes_moves_with_the_item_that_it_belongs_to() -> None:
    seen = SeenPrompts()
    seen.arrange("ada", home())
    layout = seen.arrange("ada", home(hall="23"))
    assert layout.block.endswith("Rooms:\n- name: Hall\n  temperature: 23")


def test_row_that_changed_once_stays_behind_so_that_the_front_no_longer_changes() -> None:
    seen = SeenPrompts()
    states = ["on", "off", "off", "on", "on", "off"]
    layouts = [seen.arrange("ada", home(f"10:0{i}", kitchen=state)) for i, state in enumerate(states)]
    assert len({layout.stable for layout in layouts[1:]}) == 1
    assert all(f"lamp,{state}" in layout.block for state, layout in list(zip(states, layouts, strict=True))[1:])


def test_what_one_user_sends_teaches_nothing_about_another_ones() -> None:
    seen = SeenPrompts()
    seen.arrange("ada", home())
    assert len(seen.arrange("bob", home(kitchen="off")).moved) == 1
    assert len(seen.arrange("ada", home(kitchen="off")).moved) == 2


def test_other_instructions_are_not_taken_for_a_new_version() -> None:
    seen = SeenPrompts()
    other = RULES.replace("Rule", "Law").replace("house", "boat") + "\nlight.kitchen,Kitchen lamp,off"
    seen.arrange("ada", home())
    assert seen.arrange("ada", other).moved == ()


def test_oldest_texts_are_forgotten_first() -> None:
    seen = SeenPrompts(max_texts=2)
    texts = [RULES.replace("house", place).replace("Rule", place) for place in ("boat", "farm", "mill")]
    seen.arrange("ada", texts[0] + "\nDoor: open")
    for text in texts[1:]:
        seen.arrange("ada", text)
    assert seen.arrange("ada", texts[0] + "\nDoor: shut").moved == ()
    assert len(seen.arrange("ada", texts[2] + "\nDoor: shut").moved) == 0
    assert len(seen.arrange("ada", texts[2] + "\nDoor: open").moved) == 1


@pytest.mark.parametrize(
    "block",
    [
        "```\nDoor: {}\n```",
        '{{\n"Door": "{}"\n}}',
        '{{"Door": "{}"}}',
        "<page>\nDoor: {}\n</page>",
        "> Door: {}",
        '"""\nDoor: {}\n"""',
        "1. Door: {}\n2. Window: shut",
        "a sentence that goes on and says that the\nDoor is {} and more\nof it follows here",
    ],
)
def test_line_of_quoted_code_or_running_text_never_leaves_it(block: str) -> None:
    seen = SeenPrompts()
    seen.arrange("ada", f"{RULES}\n\n{block.format('open')}\n\nBe brief.")
    assert seen.arrange("ada", f"{RULES}\n\n{block.format('shut')}\n\nBe brief.").moved == ()


def test_two_rows_with_one_key_stay_since_nobody_could_tell_them_apart() -> None:
    seen = SeenPrompts()
    seen.arrange("ada", f"{RULES}\nLamp: on\nLamp: off")
    assert seen.arrange("ada", f"{RULES}\nLamp: on\nLamp: on").moved == ()


def test_moved_lines_stand_behind_the_newest_question_and_nowhere_else() -> None:
    messages = [
        Message(role="system", content=home()),
        Message(role="user", content="Is it late?"),
        Message(role="assistant", content="No."),
        Message(role="user", content="And now?"),
    ]
    turns = compose(messages, {}, [], arrange(home()))
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[1]["content"] == "Is it late?"
    assert turns[3]["content"] == f"And now?\n\n{INTRODUCTION}\nCurrent time: 10:02"
    turns = compose(messages, {}, ["It is winter."], arrange(home()))
    assert turns[3]["content"].startswith(
        f"Context:\n{INTRODUCTION}\nCurrent time: 10:02\n\n- It is winter.\n\nQuestion"
    )


LINES = st.one_of(
    st.sampled_from(
        ["", "Current time: 10:02", "Lamp: on", "light.hall,on", "- a: 1", "  b = 2", "# Title", "Label:", "1. Step",
         "```", "{", "}", "| k | v |", "|---|---|", "| a | 1 |", "It rains today.", "id,state", "<x>", "</x>", "so on"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12),
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=30).map(lambda lines: "\n".join([*lines, RULES]))


def changing_of(text: str, picked: set[int]) -> set[tuple[str, ...]]:
    return {row.identity for i, row in enumerate(read_rows(text)) if row.identity is not None and i in picked}


@given(text=TEXTS, picked=st.sets(st.integers(0, 30)))
def test_every_line_is_in_one_part_and_in_its_order(text: str, picked: set[int]) -> None:
    layout = arrange(text, changing_of(text, picked))
    lines, stable, moved = text.split("\n"), layout.stable.split("\n"), [row.text for row in layout.moved]
    assert Counter(stable) + Counter(moved) == Counter(lines)
    assert is_subsequence(stable, lines)
    assert is_subsequence(moved, lines)


@given(text=TEXTS, picked=st.sets(st.integers(0, 30)))
def test_what_stays_is_laid_out_already(text: str, picked: set[int]) -> None:
    changing = changing_of(text, picked)
    stable = arrange(text, changing).stable
    assert arrange(stable, changing) == Layout(stable)


@given(
    states=st.lists(
        st.tuples(st.sampled_from(["on", "off"]), st.sampled_from(["21", "22", "23"])), min_size=2, max_size=8
    )
)
def test_front_changes_only_when_a_line_changes_for_the_first_time(states: list[tuple[str, str]]) -> None:
    seen, before, known = SeenPrompts(), None, 1
    for minute, (kitchen, hall) in enumerate(states):
        layout = seen.arrange("ada", home(f"10:{minute:02}", kitchen=kitchen, hall=hall))
        assert before is None or layout.stable == before or len(layout.moved) > known
        before, known = layout.stable, len(layout.moved)


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(line in rest for line in part)
