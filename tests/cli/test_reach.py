"""What `doctor` says of records that a peer has collected."""

import contextlib
from pathlib import Path

import pytest

from edgeagent.cli.checks import Check
from edgeagent.cli.reach import check_reach
from edgeagent.core.errors import EdgeAgentError
from edgeagent.execution.durable import Collection, Keeping, Kept
from edgeagent.settings import load_settings

QUOTA = 200_000


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEAGENT_STATE", str(tmp_path))
    monkeypatch.setenv("EDGEAGENT__PEER__COLLECT", "true")
    monkeypatch.setenv("EDGEAGENT__PEER__COLLECT_BYTES", str(QUOTA))
    return tmp_path


def records_check() -> Check:
    (found,) = (check for check in check_reach(load_settings(None)) if check.name == "records")
    return found


@pytest.mark.usefixtures("state")
def test_peer_that_has_collected_nothing_is_well() -> None:
    assert (records_check().status, records_check().reason) == ("ok", "nothing was collected yet")


def test_unread_records_are_a_warning_before_they_are_refused_and_a_failure_then(state: Path) -> None:
    keeping, statuses, number = Keeping(QUOTA), [], 0
    with contextlib.closing(Collection(state / "collected.sqlite", keeping)) as collection:
        with contextlib.suppress(EdgeAgentError):
            for number in range(1000):
                statuses.append(records_check().status)
                collection.add("kitchen", Kept(f"{number:032x}", "x" * 2048))
        full = records_check()
        assert full.status == "fail"
        assert full.reason.startswith(f"{number} collected, {number} of them unread, in 10")
        assert "devices keep theirs" in full.reason
        assert "records --unread --acknowledge" in full.todo
        collection.mark_read(collection.unread(number))
        collection.add("kitchen", Kept("f" * 32, "x"))
    read = records_check()
    assert (read.status, "that were read are dropped" in read.reason) == ("ok", True)
    assert list(dict.fromkeys(statuses)) == ["ok", "warn", "fail"]


def test_file_that_is_no_database_is_a_failed_check(state: Path) -> None:
    (state / "collected.sqlite").write_text("not a database " * 100)
    assert records_check().status == "fail"
