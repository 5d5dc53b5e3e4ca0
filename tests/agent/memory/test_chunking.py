"""Chunks of documents."""

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.memory.chunking import MAX_CHUNK_CHARS, pieces, weight


def chunk(text: str) -> list[str]:
    return [piece.stored for piece in pieces(text)]


prose = st.text(st.sampled_from("aB1é漢. !\n#-`|"), max_size=4000)


def test_chunk_ends_at_a_sentence_where_one_fits() -> None:
    chunks = chunk("This sentence has some forty characters. " * 60)
    assert len(chunks) > 3
    assert all(piece.endswith("characters.") for piece in chunks)


def test_chunk_cuts_a_long_line_between_words() -> None:
    assert {word for piece in chunk("word " * 1000) for word in piece.split()} == {"word"}


def test_chunk_blank_text_is_nothing() -> None:
    assert chunk("") == chunk(" \n\t ") == []


@given(prose)
def test_pieces_lose_only_white_space_and_fit_the_model(text: str) -> None:
    found = pieces(text)
    assert "".join("".join(piece.text.split()) for piece in found) == "".join(text.split())
    assert all(piece.text.strip() == piece.text != "" for piece in found)
    assert all(weight(piece.stored) <= MAX_CHUNK_CHARS for piece in found)


def test_parts_of_a_section_repeat_the_headings_above_them() -> None:
    body = "Use citric acid, and rinse the boiler twice. " * 30
    found = pieces(f"# Pump\n\n## Care\n\n{body}\n\n## Parts\n\nA seal.\n")
    assert found[0].text.startswith("# Pump\n\n## Care\n\nUse citric acid")
    assert found[0].path == ""
    assert {piece.path for piece in found[1:-1]} == {"Pump > Care"}
    assert (found[-1].text, found[-1].path) == ("## Parts\n\nA seal.", "Pump")
    assert found[-1].stored == "Pump\n## Parts\n\nA seal."


def test_a_log_becomes_turns_with_speaker_and_time() -> None:
    log = "[2024-03-01 12:03] Ann: Hi!\nHow are you?\n[2024-03-01 12:04] Bob: Fine.\n[2024-03-01 12:05] Ann: Good.\n"
    found = pieces(log)
    assert [piece.text for piece in found] == ["Ann: Hi!\nHow are you?", "Bob: Fine.", "Ann: Good."]
    assert all(piece.is_turn for piece in found)
    assert [piece.said_at for piece in found] == [1709294580.0, 1709294640.0, 1709294700.0]
    assert [piece.said_at for piece in pieces("Ann: Hi.\nBob: Hi.\nAnn: Bye.\n")] == [None] * 3
