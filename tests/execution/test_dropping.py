"""A flood of payloads that are dropped is a line a minute."""

import logging

import pytest

from edgeagent.execution.dropping import EACH_S, Dropping


def test_flood_is_one_line_and_the_next_tells_how_many_there_were(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 5.0
    dropping = Dropping(logging.getLogger("test"), "a frame", lambda: now_s)
    for number in range(1000):
        dropping.note(f"reason {number}")
    now_s += EACH_S
    dropping.note("the last")
    assert [record.getMessage() for record in caplog.records] == [
        "dropped a frame: reason 0",
        "dropped a frame: the last (999 more since the last such line)",
    ]
