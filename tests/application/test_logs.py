"""What log lines look like, and what never gets into them."""

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.application import logs
from edgeagent.core.errors import ConfigError

LOG = logging.getLogger("edgeagent.execution.supervisor")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, package = logging.getLogger(), logging.getLogger("edgeagent")
    before = list(root.handlers), root.level, package.level
    yield
    root.handlers[:], root.level, package.level = before


@pytest.fixture
def lines() -> Callable[..., list[str]]:
    """Configure logging, do something, and get the lines it wrote."""

    def write(act: Callable[[], None], level: str = "info", format_name: str = "text") -> list[str]:
        stream = io.StringIO()
        logs.configure(level, format_name, stream)
        act()
        return stream.getvalue().splitlines()

    return write


Lines = Callable[..., list[str]]


def test_text_line_is_key_value_with_quotes_only_where_needed(lines: Lines) -> None:
    facts = {"engine": "llama", "pid": 41, "took_s": 0.123456789, "path": "/a b", "ok": True}
    (line,) = lines(lambda: LOG.info("worker started", extra=facts))
    assert line.startswith("time=20")
    assert line.endswith(
        'Z level=info logger=edgeagent.execution.supervisor event="worker started"'
        ' engine=llama pid=41 took_s=0.123457 path="/a b" ok=true'
    )


def test_json_line_carries_the_same_facts(lines: Lines) -> None:
    (line,) = lines(lambda: LOG.warning("peer lost", extra={"peer": "garage", "waited_s": 2.0}), format_name="json")
    document = json.loads(line)
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "warning",
        "logger": "edgeagent.execution.supervisor",
        "event": "peer lost",
        "peer": "garage",
        "waited_s": 2.0,
    }


@pytest.mark.parametrize("format_name", ["text", "json"])
@given(value=st.text())
def test_value_of_any_text_stays_on_its_line(format_name: str, value: str) -> None:
    stream = io.StringIO()
    logs.configure("info", format_name, stream)
    LOG.info("received", extra={"topic": value})
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("key", sorted(logs.PRIVATE_KEYS))
def test_private_fact_is_absent_at_info_and_there_at_debug(key: str, lines: Lines) -> None:
    shown = lines(lambda: LOG.info("asked", extra={key: "my diary"}), level="debug")
    debugged = lines(lambda: LOG.debug("asked", extra={key: "my diary"}), level="debug")
    assert "my diary" not in shown[0]
    assert "my diary" in debugged[0]


def test_exception_is_one_line_with_its_traceback(lines: Lines) -> None:
    def fail() -> None:
        try:
            raise ValueError("odd\nframe")
        except ValueError:
            LOG.exception("frame refused")

    (line,) = lines(fail)
    assert "exception=ValueError" in line
    assert "Traceback" in line


def test_other_libraries_are_heard_from_warning_on(lines: Lines) -> None:
    def speak() -> None:
        other = logging.getLogger("somelibrary")
        other.info("chatter")
        other.warning("trouble")

    assert [line.split("event=")[1] for line in lines(speak, level="debug")] == ["trouble"]


def test_configuring_twice_does_not_write_lines_twice(lines: Lines) -> None:
    lines(lambda: None)
    assert len(lines(lambda: LOG.info("once"))) == 1


def test_environment_chooses_the_format_over_the_settings() -> None:
    assert logs.chosen_format("text", {"EDGEAGENT_LOG": "json"}) == "json"
    assert logs.chosen_format("json", {}) == "json"
    with pytest.raises(ConfigError, match="EDGEAGENT_LOG is 'xml'; set it to text or json"):
        logs.chosen_format("text", {"EDGEAGENT_LOG": "xml"})
