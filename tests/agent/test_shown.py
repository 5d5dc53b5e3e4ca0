from edgeagent.agent.shown import ShownTokens
from edgeagent.agent.textstream import TextStream
from edgeagent.core.generation import TokenStep


def shown_of(pieces: list[bytes], stops: list[str], logprob: float | None = -0.5) -> tuple[str, list[bytes], int]:
    stream, tokens, text, told = TextStream(stops), ShownTokens(), "", list[bytes]()
    for position, piece in enumerate(pieces):
        tokens.add(TokenStep(position, position, piece, logprob=logprob), len(stream.text))
        if new := stream.feed(piece):
            text += new
            told += [step.piece for step in tokens.take(len(stream.shown))]
    text += stream.flush()
    return text, told + [step.piece for step in tokens.take(len(stream.shown))], tokens.num_lacking


def test_tokens_of_a_stop_string_are_not_told() -> None:
    assert shown_of([b"on", b"e E", b"N", b"D"], ["END"]) == ("one ", [b"on", b"e E"], 0)


def test_tokens_held_back_come_with_their_text() -> None:
    assert shown_of([b"one", b" E", b"N", b" more"], ["END"]) == ("one EN more", [b"one", b" E", b"N", b" more"], 0)


def test_token_of_half_a_character_comes_with_the_character() -> None:
    assert shown_of([b"\xc3", b"\xa9", b"!"], []) == ("é!", [b"\xc3", b"\xa9", b"!"], 0)


def test_token_without_a_logprob_is_counted_instead() -> None:
    assert shown_of([b"a", b"b"], [], logprob=None) == ("ab", [], 2)
