"""`edgeagent perceive` as a command."""

import json
from pathlib import Path

import pytest

from edgeagent.resource.capability.trial import ABSENT, engine_builds
from tests.conftest import Cli
from tests.recordings import photograph, say, silence, write_wav

needs_litert = pytest.mark.skipif(engine_builds()["litert"] == ABSENT, reason="LiteRT is not installed here")


@pytest.fixture
def env(models_dir: Path) -> dict[str, str]:
    return {"EDGEAGENT__MODELS__DIR": str(models_dir)}


@needs_litert
def test_wav_prints_typed_events_in_one_document(edgeagent: Cli, env: dict[str, str], tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", [silence(1.5), say("Okay Nabu"), silence(1.5)])
    done = edgeagent("perceive", "wav", str(path), "--json", env=env)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert {event["kind"] for event in facts["events"]} == {"speech", "wake_word"}
    assert facts["duration_s"] == pytest.approx(path.stat().st_size / 32000, abs=0.01)
    assert (facts["models"], facts["missing"]) == (["silero-vad", "okay-nabu-wake-word"], {})


def test_wav_of_silence_says_so_and_stops_when_asked(edgeagent: Cli, env: dict[str, str], tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", [silence(5)])
    done = edgeagent("perceive", "wav", str(path), "--seconds", "2", env=env)
    assert (done.returncode, done.stdout) == (0, "nothing heard in 2.0 s\n")


@needs_litert
def test_image_prints_the_face(edgeagent: Cli, env: dict[str, str], models_dir: Path) -> None:
    path = photograph(models_dir / "test-images")
    done = edgeagent("perceive", "image", str(path), env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path}: face at 0.3")
    facts = json.loads(edgeagent("perceive", "image", str(path.parent), "--json", env=env).stdout)
    assert facts["images"] == [str(path)]
    [face] = facts["events"]
    assert (face["kind"], face["source"]) == ("face", str(path))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("wav", "/nowhere.wav"), 1, "error: cannot read /nowhere.wav"),
        (("wav", "/etc/hostname"), 1, "no WAV file of plain samples"),
        (("wav", "alsa:default"), 2, "a device never ends; say --seconds S"),
        (("image", "/nowhere.png"), 1, "error: cannot read /nowhere.png"),
    ],
)
def test_what_cannot_be_perceived_is_one_line(
    edgeagent: Cli, env: dict[str, str], arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = edgeagent("perceive", *arguments, env=env)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "program"),
    [(("wav", "alsa:", "--seconds", "1"), "arecord"), (("image", "v4l2:/dev/video0"), "v4l2-ctl")],
)
def test_device_without_its_program_is_a_clear_error(
    edgeagent: Cli, env: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], program: str
) -> None:
    done = edgeagent("perceive", *arguments, env=env | {"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert f"error: cannot start {program} (No such file or directory); install it" in done.stderr


def test_device_is_read_through_its_program(edgeagent: Cli, env: dict[str, str], tmp_path: Path) -> None:
    """A program in arecord's place that gives a raw file, as the real one would give a microphone's samples."""
    raw = tmp_path / "raw"
    raw.write_bytes(silence(0.5) + say("Good morning everybody.") + silence(0.5))
    stand_in = tmp_path / "arecord"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexec /bin/cat {raw}\n')
    stand_in.chmod(0o755)
    done = edgeagent("perceive", "wav", "alsa:hw:1", "--seconds", "60", "--json", env=env | {"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "speech" in {event["kind"] for event in json.loads(done.stdout)["events"]}
    assert (tmp_path / "asked").read_text().startswith("-q -D hw:1 -t raw -f S16_LE -r 16000 -c 1")
