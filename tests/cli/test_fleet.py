"""`edgeagent fleet` as two people use it: an operator and the owner of a device."""

import contextlib
import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeagent.cli.fleet import fleet
from edgeagent.core.errors import EdgeAgentError, NotFoundError, TrustError
from edgeagent.execution.durable import Collection, Kept

Json = dict[str, "object"]


class Machine:
    """A state folder, and the command run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str) -> str:
        env = {"EDGEAGENT_STATE": str(self.folder), "HOME": str(self.folder)}
        done = CliRunner(env=env).invoke(fleet, arguments)
        if isinstance(done.exception, EdgeAgentError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    def facts(self, *arguments: str) -> Json:
        found: Json = json.loads(self.run(*arguments, "--json"))
        return found


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.chdir(tmp_path)
    made = Machine(tmp_path / "operator")
    made.run("init")
    return made


@pytest.fixture
def kitchen(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "kitchen")


def test_device_is_enrolled_by_its_request_and_no_private_key_moves(operator: Machine, kitchen: Machine) -> None:
    asked = kitchen.facts("request", "--out", "kitchen.request.json")
    enrolled = operator.facts("enroll", "kitchen", "--request", "kitchen.request.json", "--plans", "prefill,remote")
    assert (enrolled["id"], enrolled["bundle_is_secret"]) == (asked["id"], False)
    secret = json.loads((kitchen.folder / "trust/identity.json").read_text())
    for carried in ("kitchen.request.json", "kitchen.device.bundle.json"):
        assert secret["signing_seed"] not in Path(carried).read_text()
        assert secret["sealing_seed"] not in Path(carried).read_text()
    joined = kitchen.facts("join", "kitchen.device.bundle.json", "--fleet", str(enrolled["fleet"]).upper())
    assert (joined["name"], joined["plans"]) == ("kitchen", ["prefill", "remote"])
    assert (kitchen.folder / "device_id").read_text() == "kitchen"
    status = kitchen.facts("status")
    assert status["id"] == asked["id"]
    assert status["fleet"] is None
    assert "kitchen (device) valid" in kitchen.run("status")


def test_request_on_standard_output_is_a_request(operator: Machine, kitchen: Machine) -> None:
    Path("request.json").write_text(kitchen.run("request"))
    assert operator.facts("enroll", "kitchen", "--request", "request.json", "--role", "peer")["role"] == "peer"


def test_name_alone_makes_a_secret_bundle(operator: Machine, kitchen: Machine) -> None:
    assert operator.facts("enroll", "kitchen", "--days", "2")["bundle_is_secret"] is True
    bundle = Path("kitchen.device.bundle.json")
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    assert "delete" in kitchen.run("join", str(bundle))
    with pytest.raises(TrustError, match="exists already"):
        operator.run("enroll", "kitchen")


def test_revocation_reaches_a_machine_in_a_file(operator: Machine, kitchen: Machine) -> None:
    operator.run("enroll", "kitchen")
    kitchen.run("join", "kitchen.device.bundle.json")
    revoked = operator.facts("revoke", "kitchen", "--out", "list.json")
    assert kitchen.facts("join", "list.json")["number"] == revoked["number"]
    assert "kitchen (device) revoked" in kitchen.run("status")
    assert "kitchen (device) revoked" in operator.run("status")
    with pytest.raises(NotFoundError):
        operator.run("revoke", "kitchen")


def test_operator_that_is_a_member_knows_its_own_revocations(operator: Machine) -> None:
    operator.run("enroll", "garage", "--role", "peer")
    operator.run("join", "garage.peer.bundle.json")
    operator.run("revoke", "garage")
    assert operator.run("status").count("garage (peer) revoked") == 2


def test_bundle_of_an_unexpected_fleet_or_for_another_name_is_refused(
    operator: Machine, kitchen: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.run("enroll", "kitchen")
    with pytest.raises(TrustError, match="not of the one you named"):
        kitchen.run("join", "kitchen.device.bundle.json", "--fleet", "a" * 26)
    monkeypatch.setenv("EDGEAGENT__MQTT__DEVICE_ID", "pantry")
    with pytest.raises(TrustError, match=r"mqtt\.device_id is 'pantry'"):
        kitchen.run("join", "kitchen.device.bundle.json")
    assert kitchen.facts("status") == {"id": None, "membership": None, "fleet": None}


@pytest.mark.parametrize("text", ["", "{}", '{"format": "edgeagent bundle 2"}', "[" * 100_000])
def test_file_that_is_no_bundle_is_refused(kitchen: Machine, tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(TrustError, match="damaged or of another version"):
        kitchen.run("join", str(tmp_path / "file"))


def test_commands_of_an_operator_need_a_fleet(kitchen: Machine) -> None:
    for arguments in (["enroll", "kitchen"], ["revoke", "kitchen"]):
        with pytest.raises(TrustError, match="fleet init"):
            kitchen.run(*arguments)


@pytest.mark.parametrize(
    "arguments", [["a/b"], ["a", "--plans", "teleport"], ["a", "--days", "0"], ["a", "--role", "x"]]
)
def test_bad_usage_is_told(operator: Machine, arguments: list[str]) -> None:
    env = {"EDGEAGENT_STATE": str(operator.folder)}
    assert CliRunner(env=env).invoke(fleet, ["enroll", *arguments]).exit_code == 2


def test_what_a_device_recorded_is_shown_as_its_own_whatever_it_says(tmp_path: Path) -> None:
    peer = Machine(tmp_path / "peer")
    collection = Collection(peer.folder / "collected.sqlite")
    bodies: list[object] = ["text", {"at": 1e300}, {"at": "now", "device": "attic", "plan": "\x1b[2J"}, {"at": 0}]
    for number, body in enumerate(bodies):
        collection.add("kitchen", Kept(f"{number:032x}", json.dumps(body)))
    collection.close()
    lines = peer.run("records").splitlines()
    assert [line.split("  ")[1] for line in lines] == ["kitchen"] * len(bodies)
    assert lines[1].startswith('?  kitchen  plan="\\u001b[2J" model=None')
    shown = peer.facts("records")["records"]
    assert isinstance(shown, list)
    assert {each["device"] for each in shown} == {"kitchen"}


def test_records_that_were_shown_and_acknowledged_are_read(tmp_path: Path) -> None:
    peer = Machine(tmp_path / "peer")
    with contextlib.closing(Collection(peer.folder / "collected.sqlite")) as collection:
        for number in range(5):
            collection.add("kitchen", Kept(f"{number:032x}", json.dumps({"plan": str(number)})))
    first = peer.facts("records", "--unread", "--acknowledge", "-n", "2")
    assert [each["plan"] for each in first["records"]] == ["0", "1"]  # type: ignore[attr-defined]
    rest = peer.facts("records", "--unread")
    assert [each["plan"] for each in rest["records"]] == ["2", "3", "4"]  # type: ignore[attr-defined]
    assert rest["collected"] == peer.facts("records")["collected"]
    assert (rest["collected"]["num_records"], rest["collected"]["num_unread"]) == (5, 3)  # type: ignore[index]
