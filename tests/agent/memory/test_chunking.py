"""Chunks of documents."""

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.memory.chunking import MAX_CHUNK_CHARS, chunk, weight

prose = st.text(st.sampled_from("aB1é漢. !\n#-`|"), max_size=4000)


@given(prose)
def test_chunk_loses_only_white_space_and_fits_the_model(text: str) -> None:
    chunks = chunk(text)
    assert "".join("".join(chunks).split()) == "".join(text.split())
    assert all(piece.strip() == piece != "" and weight(piece) <= MAX_CHUNK_CHARS for piece in chunks)


def test_chunk_ends_at_a_sentence_where_one_fits() -> None:
    chunks = chunk("This sentence has some forty characters. " * 60)
    assert len(chunks) > 3
    assert all(piece.endswith("characters.") for piece in chunks)


def test_chunk_cuts_a_long_line_between_words() -> None:
    assert {word for piece in chunk("word " * 1000) for word in piece.split()} == {"word"}


def test_chunk_blank_text_is_nothing() -> None:
    assert chunk("") == chunk(" \n\t ") == []
