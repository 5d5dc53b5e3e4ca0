"""Pieces of bytes to text: stop strings wherever they fall, the same whatever the pieces are."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.textstream import TextStream

texts = st.text(st.sampled_from("abé🙂\n"), max_size=24)
stops = st.lists(st.text(st.sampled_from("abé🙂"), min_size=1, max_size=4), max_size=4)


def reference(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the stop string that is complete first; the longest of those that end there."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@given(texts, stops, st.lists(st.integers(0, 100), max_size=12))
def test_text_is_the_same_however_it_is_cut_into_pieces(text: str, stops: list[str], cuts: list[int]) -> None:
    raw = text.encode()
    places = [0, *sorted(cut for cut in cuts if cut <= len(raw)), len(raw)]
    stream = TextStream(stops)
    shown = "".join(stream.feed(raw[a:b]) for a, b in pairwise(places)) + stream.flush()
    assert (shown, stream.is_stopped) == reference(text, stops)
    assert stream.shown == shown


@given(texts, stops)
def test_nothing_is_shown_that_may_become_a_stop_string(text: str, stops: list[str]) -> None:
    stream, shown = TextStream(stops), ""
    for byte in text.encode():
        shown += stream.feed(bytes([byte]))
        assert reference(text, stops)[0].startswith(shown)


def test_part_of_a_character_is_replaced_or_dropped() -> None:
    kept, dropped = TextStream(), TextStream()
    assert kept.feed("é".encode()[:1]) == dropped.feed("é".encode()[:1]) == ""
    dropped.drop_part()
    assert (kept.flush(), dropped.flush()) == ("�", "")
