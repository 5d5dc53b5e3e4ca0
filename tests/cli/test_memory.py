"""`edgeagent memory` from its arguments to its output, on a real database with the real model."""

import contextlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result

from edgeagent import parts
from edgeagent.agent.memory import portable
from edgeagent.agent.memory.memory import Memory
from edgeagent.cli.memory import memory
from edgeagent.core.errors import ConfigError, EdgeAgentError, NotFoundError, RequestError
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.settings import Settings

JsonObject = dict[str, object]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> Path:
    """A state folder of its own, and the kept model files instead of a model folder of its own."""

    async def locate() -> Encoder:
        return encoder

    @asynccontextmanager
    async def open_memory(settings: Settings) -> AsyncIterator[Memory]:
        embedder = OnnxEmbedder(locate, 384)
        opened = await Memory.open(parts.memory_path(settings), embedder, lambda: 1.7e9)
        try:
            yield opened
        finally:
            await opened.close()
            await embedder.close()

    monkeypatch.setattr(parts, "open_memory", open_memory)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDGEAGENT_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("EDGEAGENT_CONFIG", raising=False)
    return tmp_path / "state"


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(memory, arguments, input=stdin)


def facts(*arguments: str) -> JsonObject:
    """The one JSON document on stdout of a command that succeeded."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


def failure(*arguments: str, stdin: bytes | None = None) -> EdgeAgentError:
    """The error of a command that failed on purpose; `main` prints it as one line."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert isinstance(result.exception, EdgeAgentError), result.exception
    return result.exception


def test_add_search_list_forget_tell_one_story() -> None:
    id_ = facts("add", "I am allergic to peanuts.")["id"]
    assert facts("add", "I am allergic to peanuts.")["id"] == id_
    facts("add", "The boiler is in the cellar.")
    hits = facts("search", "What may I not eat?", "-k", "1")["hits"]
    assert isinstance(hits, list)
    assert [(hit["id"], hit["text"]) for hit in hits] == [(id_, "I am allergic to peanuts.")]
    assert 0 < hits[0]["score"] <= 1
    memories = facts("list")["memories"]
    assert isinstance(memories, list)
    assert len(memories) == 2
    assert facts("forget", str(id_)) == {"user": "default", "forgotten": id_, "summaries": []}
    assert facts("stats")["memories"] == 1


def test_user_option_keeps_namespaces_apart() -> None:
    facts("add", "Ann likes tea.", "--user", "ann")
    assert facts("list", "--user", "bob")["memories"] == []
    assert facts("search", "tea", "--user", "bob")["hits"] == []
    assert facts("stats", "--user", "ann")["memories"] == 1


def test_add_file_and_standard_input_become_documents(tmp_path: Path) -> None:
    manual = tmp_path / "manual.txt"
    manual.write_text("Valve four opens to the left. " * 60)
    ids = facts("add", "--file", str(manual))["ids"]
    assert isinstance(ids, list)
    assert run("add", "--file", "-", stdin="Valve five opens to the right.").exit_code == 0
    assert facts("stats")["memories"] == len(ids) + 1
    assert facts("stats")["documents"] == 2


def test_export_and_import_move_memories_to_another_user(tmp_path: Path) -> None:
    backup = str(tmp_path / "backup.jsonl")
    facts("add", "Ann likes tea.", "--user", "ann")
    assert facts("export", backup, "--user", "ann")["exported"] == 1
    assert facts("import", backup, "--user", "bob")["imported"] == 1
    assert facts("import", backup, "--user", "bob") == {"user": "bob", "imported": 0, "known": 1}
    shown = run("export", "-", "--user", "bob")
    assert '"Ann likes tea."' in shown.stdout


def test_people_read_lines() -> None:
    added = run("add", "The boiler is in the cellar.").stdout
    id_ = added.removeprefix("remembered as ").strip()
    assert re.fullmatch(rf"{id_}  2023-11-1[45]  The boiler is in the cellar\.\n", run("list").stdout)
    assert id_ in run("search", "boiler").stdout
    assert "memories: 1" in run("stats").stdout
    assert run("forget", id_).stdout == f"forgot {id_}\n"
    assert run("list").stdout == "no memories\n"


def test_bad_input_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(failure("forget", "nothing"), NotFoundError)
    assert "is empty" in str(failure("add", " "))
    assert "no user name" in str(failure("list", "--user", "a b"))
    assert "cannot read" in str(failure("add", "--file", str(tmp_path / "absent.txt")))
    assert "not UTF-8" in str(failure("add", "--file", "-", stdin=b"\xff\xfe"))
    assert "cannot write" in str(failure("export", str(tmp_path / "absent" / "backup")))
    assert isinstance(failure("import", "-", stdin=b"hello"), RequestError)
    monkeypatch.setenv("EDGEAGENT__MEMORY__ENABLED", "false")
    assert isinstance(failure("list"), ConfigError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["add"],
        ["add", "text", "--file", "f"],
        ["search"],
        ["export", "-", "--json"],
        ["skill", "x", "--step", "y"],
        ["experience", "x", "--did", "y"],
        ["judge", "id", "fine"],
    ],
)
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_fact_tells_what_held_when_and_recall_only_what_holds() -> None:
    facts("fact", "Clara", "lives in", "Lisbon", "--source", "a letter")
    facts("fact", "Clara", "lives in", "Porto")
    known = facts("fact", "clara", "lives in")["facts"]
    assert isinstance(known, list)
    assert [(item["record"]["body"], item["record"]["valid_until"]) for item in known] == [
        ("Lisbon", 1.7e9),
        ("Porto", None),
    ]
    hits = facts("search", "Where does Clara live?")["hits"]
    assert isinstance(hits, list)
    assert [hit["text"] for hit in hits] == ["Clara lives in Porto"]
    assert re.search(r"2023-11-1[45] to now +Porto", run("fact", "Clara", "lives in").stdout)
    assert run("fact", "Clara", "works as").stdout == "nothing is known\n"


def test_skill_and_experience_can_be_called_again() -> None:
    facts("skill", "descale", "--purpose", "the pump is loud", "--step", "Drain it.", "--step", "Fill in acid.")
    assert run("skill", "Descale").stdout == "descale: the pump is loud\n1. Drain it.\n2. Fill in acid.\n"
    id_ = facts("experience", "the pump is loud", "--did", "descale it", "--outcome", "it was quiet")["id"]
    assert facts("judge", str(id_), "good")["worth"] == 1.0
    assert str(id_) in run("experience", "loud pump").stdout
    assert isinstance(failure("skill", "unknown"), NotFoundError)
    assert isinstance(failure("judge", "unknown", "bad"), NotFoundError)


def test_memory_is_corrected_tidied_and_backed_up(tmp_path: Path) -> None:
    id_ = facts("add", "The pump was descaled in June.", "--user", "ann/cook")["id"]
    facts("correct", str(id_), "The pump was descaled in May.", "--user", "ann/cook")
    facts("add", "The pump was descaled in May", "--user", "ann/cook")
    assert len(str(facts("tidy", "--dry-run", "--user", "ann/cook")["repeated"])) > 10
    assert re.fullmatch(r"forgot \w+: \w+ says it, too\n", run("tidy", "--user", "ann/cook").stdout)
    assert run("tidy", "--user", "ann/cook").stdout == "nothing to forget\n"
    copy = tmp_path / "copy.sqlite"
    assert facts("backup", str(copy))["bytes"] == copy.stat().st_size
    assert "there already" in str(failure("backup", str(copy)))
    assert facts("stats", "--user", "ann/cook")["memories"] == 1
    assert facts("stats", "--user", "ann")["memories"] == 0


def test_summary_of_a_conversation_is_listed_shown_and_forgotten(tmp_path: Path) -> None:
    about = {"key": "ab" * 16, "num_messages": 8}
    line = {"id": "x", "user": "ann", "kind": "summary", "text": "The boiler is loud.", "source": "conversation"}
    export = tmp_path / "export.jsonl"
    export.write_text(f"{portable.HEADER}\n{json.dumps(line | {'created_at': 1e9, 'conversation': about})}\n")
    facts("add", "The pump is quiet.")
    assert facts("import", str(export))["imported"] == 1
    [summary] = cast(list[JsonObject], facts("list", "--kind", "summary")["memories"])
    assert summary["conversation"] == about
    id_ = str(summary["id"])
    assert facts("show", id_)["memory"] == summary
    assert re.search(r"summary, .* sums up 8 messages\nThe boiler is loud\.\n", run("show", id_).stdout)
    assert (facts("stats")["memories"], facts("stats")["summaries"]) == (1, 1)
    [pump] = cast(list[JsonObject], facts("list", "--kind", "note")["memories"])
    assert facts("forget", str(pump["id"])) == {"user": "default", "forgotten": pump["id"], "summaries": [id_]}
    assert run("list").stdout == "no memories\n"
    assert isinstance(failure("show", id_), NotFoundError)
    assert run("list", "--kind", "thought").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "\udcff"], ["add", "x\ud800"], ["search", "\udcff"], ["show", "\udcff"], ["forget", "\udcff"],
        ["correct", "\udcff", "x"], ["judge", "\udcff", "good"], ["fact", "\udcff", "is", "x"],
        ["fact", "\udcff", "is"], ["skill", "\udcff"], ["skill", "x", "--purpose", "y", "--step", "\udcff"],
        ["experience", "\udcff"], ["experience", "x", "--did", "y", "--outcome", "\udcff"],
        ["list", "--user", "\udcff"], ["import", "\udcff"], ["backup", "/proc/\udcff"], ["export", "/proc/\udcff"],
    ],
)  # fmt: skip
def test_bytes_that_are_no_text_are_one_clear_error(arguments: list[str]) -> None:
    assert isinstance(failure(*arguments), RequestError | NotFoundError)
    assert facts("list")["memories"] == []


def test_memory_of_a_time_that_no_calendar_knows_can_be_listed(state: Path) -> None:
    id_ = facts("add", "The pump is quiet.")["id"]
    with contextlib.closing(sqlite3.connect(state / "memory.sqlite")) as connection, connection:
        connection.execute("UPDATE memories SET created_at = 1e18")  # as an earlier version stored it
    assert run("list").stdout == f"{id_}  undated     The pump is quiet.\n"
    assert "undated" in run("show", str(id_)).stdout
