"""What a client sees of the layout of its prompts, and of a conversation that outgrows the context."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.test_product import Daemon, Json, Program, environment, running

CONTEXT = 512

RULES = "\n".join(f"Rule {word}: treat every {word} as the owner of the house would." for word in "abcdefghijkl")


@pytest.fixture
def daemon(ready_env: dict[str, str], tmp_path: Path) -> Iterator[Daemon]:
    """One with a small context."""
    port = free_port()
    settings = {"EDGEAGENT__HTTP__PORT": str(port), "EDGEAGENT__MODELS__CONTEXT_TOKENS": str(CONTEXT)}
    env = environment(ready_env, tmp_path, **settings)
    with running(Program(("serve",), env, tmp_path / "daemon.log", "daemon ready")) as program:
        yield Daemon(program, port)


def home(minute: int, lamp: str = "on") -> str:
    devices = f"Devices:\nlight.kitchen,Kitchen lamp,{lamp}\nlight.attic,Attic lamp,off"
    return f"Current time: 10:{minute:02}\nYou look after a house.\n{RULES}\n\n{devices}"


def ask(daemon: Daemon, messages: list[Json], **extension: object) -> Json:
    body = {"messages": messages, "max_tokens": 4, "edgeagent": {"plan": "local", **extension}}
    request = urllib.request.Request(
        f"{daemon.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        answer: Json = json.load(reply)
    report: Json = answer["edgeagent"]
    return report


def asked(system: str, question: str = "Is the attic lamp on?") -> list[Json]:
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def test_clock_no_longer_spoils_the_cache_and_the_report_says_what_moved(daemon: Daemon) -> None:
    given = [ask(daemon, asked(home(minute)), layout="as_given", memory=False) for minute in (1, 2)]
    stable = [ask(daemon, asked(home(minute)), memory=False) for minute in (3, 4)]
    assert [report["reduction"]["layout"] for report in given] == [None, None]
    assert [report["reduction"]["layout"]["lines"] for report in stable] == [1, 1]
    assert stable[1]["reduction"]["layout"]["tokens"] > 4
    assert stable[1]["reused_tokens"] >= 192 > 64 > given[1]["reused_tokens"]
    assert stable[1]["reduction"]["tokens_kept"] == stable[1]["reduction"]["tokens_in"]


def test_row_that_changed_is_told_last_from_then_on(daemon: Daemon) -> None:
    lines = [
        ask(daemon, asked(home(minute, lamp)), memory=False)["reduction"]["layout"]["lines"]
        for minute, lamp in enumerate(("on", "off", "off"))
    ]
    assert lines == [1, 2, 2]


def test_conversation_that_outgrows_the_context_is_shortened_only_where_it_may_be(daemon: Daemon) -> None:
    turns: list[Json] = [
        {"role": role, "content": f"Message {n}. {RULES[:150]}"} for n in range(8) for role in ("user", "assistant")
    ]
    messages = [*turns, {"role": "user", "content": "Are you there?"}]
    reduction = ask(daemon, messages, memory=False)["reduction"]
    [gone] = reduction["dropped"]
    assert gone["source"] == "conversation"
    assert reduction["tokens_in"] - gone["tokens"] == reduction["tokens_kept"] < CONTEXT
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(daemon, messages, memory=False, reduce="L0")
    body = json.load(refused.value)
    refused.value.close()
    assert (refused.value.code, body["error"]["code"]) == (400, "context_length_exceeded")
