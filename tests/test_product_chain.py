"""A device and two peers, one behind the other, as processes of one fleet."""

import time
from pathlib import Path

import pytest

from tests.conftest import Mosquitto, free_port
from tests.members import Members
from tests.test_product import Daemon, Json, Program, environment, running, words
from tests.test_product_served import fetch

QUESTION = "Tell me about the sea. " * 240
MAX_TOKENS = 8
PLANNED_S = 240.0


def ask(daemon: Daemon, plan: str) -> Json:
    """A long prompt and a short answer, sampled with a seed."""
    body = {
        "messages": [{"role": "user", "content": QUESTION}], "max_tokens": MAX_TOKENS, "temperature": 0.8, "seed": 7,
        "edgeagent": {"plan": plan, "memory": False, "reduce": "L0"},
    }  # fmt: skip
    answer: Json = fetch(f"{daemon.url}/v1/chat/completions", body)
    return answer


def chains(daemon: Daemon) -> list[Json]:
    """What the planner would do with both peers for such a prompt."""
    decision = fetch(f"{daemon.url}/api/edge/plan", {"prompt_tokens": 1500, "max_tokens": MAX_TOKENS})
    return [row for row in decision["candidates"] if len(row["stages"]) == 3]


@pytest.mark.long
def test_three_machines_answer_with_the_words_of_one(
    ready_env: dict[str, str], tmp_path: Path, mosquitto: Mosquitto
) -> None:
    members, port = Members(tmp_path / "members"), free_port()
    keys = {
        "shelf": members.enroll("shelf", "device"),
        "garage": members.enroll("garage", "peer", "device"),
        "attic": members.enroll("attic", "peer"),
    }
    shared = {
        "EDGEAGENT__MQTT__URL": mosquitto.url,
        "EDGEAGENT__MQTT__PREFIX": f"test/{port}",
        "EDGEAGENT__HTTP__PORT": str(port),
    }
    envs = {}
    for name, identity in keys.items():
        state = tmp_path / f"state-{name}"
        state.mkdir()
        (state / "profile.json").write_bytes((Path(ready_env["EDGEAGENT_STATE"]) / "profile.json").read_bytes())
        own = {"EDGEAGENT_STATE": str(state), "EDGEAGENT__MQTT__DEVICE_ID": name}
        own["EDGEAGENT__MQTT__IDENTITY"] = str(identity)
        envs[name] = environment(ready_env, tmp_path, **shared, **own)
    envs["garage"] |= {"EDGEAGENT__PEER__RELAY": "true"}
    attic = Program(("peer",), envs["attic"], tmp_path / "attic.log", "peer ready")
    garage = Program(("peer",), envs["garage"], tmp_path / "garage.log", "peer ready")
    program = Program(("serve",), envs["shelf"], tmp_path / "daemon.log", "daemon ready")
    with running(attic), running(garage), running(program):
        daemon = Daemon(program, port)
        ask(daemon, "local")
        deadline = time.monotonic() + PLANNED_S
        while not chains(daemon):
            assert time.monotonic() < deadline, [log.read_text()[-2000:] for log in tmp_path.glob("*.log")]
            time.sleep(1)
        expected, got = ask(daemon, "remote"), ask(daemon, "split-decode")
        report = got["edgeagent"]
        assert words(got) == words(expected) == words(ask(daemon, "local"))
        assert [held["peer"] for held in report["stages"]] == [None, "garage", "attic"]
        assert report["handover"] == []
