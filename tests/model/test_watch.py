"""An answer followed token by token: decided by its beginning, or at its end, always the same way."""

from edgeagent.model.cascade import EARLY_TOKENS, Fit, Target, calibrate
from edgeagent.model.watch import Watch
from tests.model.answers import outcomes, tokens


def test_answer_without_tokens_never_stands() -> None:
    fitted = calibrate(outcomes(), Target())
    watch = Watch(fitted)
    assert watch.end(is_cut=False) is False
    assert watch.confidence == 0


def followed(fitted: Fit, sureness: float, count: int) -> tuple[bool | None, Watch]:
    """What is known when one token more has come than the early rule looks at."""
    watch, verdict = Watch(fitted), None
    for token in tokens(sureness, count):
        verdict = watch.add([token])
        if verdict is not None:
            break
    return verdict, watch


def test_long_answers_are_decided_early_either_way_and_short_ones_at_their_end() -> None:
    fitted = calibrate(outcomes(200, length=EARLY_TOKENS + 6), Target())
    assert fitted.early is not None
    sure, watch = followed(fitted, 1.0, EARLY_TOKENS + 6)
    assert (sure, watch.decided_at) == (True, EARLY_TOKENS + 1)
    unsure, watch = followed(fitted, -1.0, EARLY_TOKENS + 6)
    assert (unsure, watch.decided_at) == (False, EARLY_TOKENS + 1)
    open_, watch = followed(fitted, 1.0, EARLY_TOKENS)
    assert (open_, watch.decided_at) == (None, None)
    assert watch.end(is_cut=False) is True


def test_answers_too_short_to_learn_from_give_no_early_rule() -> None:
    assert calibrate(outcomes(length=EARLY_TOKENS), Target()).early is None


def test_tokens_that_come_at_once_are_judged_by_the_same_beginning() -> None:
    fitted = calibrate(outcomes(200, length=EARLY_TOKENS + 6), Target())
    _, one_by_one = followed(fitted, 1.0, EARLY_TOKENS + 6)
    at_once = Watch(fitted)
    assert at_once.add(tokens(1.0, EARLY_TOKENS + 6)) is True
    assert at_once.confidence == one_by_one.confidence
