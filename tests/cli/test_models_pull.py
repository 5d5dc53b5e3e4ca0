"""`edgeagent models pull` and `rm` with a hub on loopback: told before, said after, nothing on stdout but facts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeagent.cli.config import MASK, masked
from edgeagent.cli.models import models
from edgeagent.cli.progress import ProgressLines, describe, show_progress
from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import DownloadError
from edgeagent.settings import load_settings
from tests.model.conftest import tiny_card, tiny_gguf
from tests.model.hub import World, on_hub, serving_hub
from tests.model.test_pull_killed import as_toml

__all__ = ["tiny_card", "tiny_gguf"]  # fixtures


@pytest.fixture
def world(tiny_gguf: bytes) -> World:
    return World(tiny_gguf)


@pytest.fixture
def state(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    world: World,
    tiny_card: ModelCard,
) -> Iterator[Path]:
    """A state folder, a hub, and two cards of files on it in place of the shipped ones."""
    cards = tmp_path / "models"
    cards.mkdir()
    for name in ("tiny", "second"):
        card = on_hub(tiny_card)
        (cards / f"{name}.toml").write_text(as_toml(card.model_copy(update={"id": name})))
    monkeypatch.setattr("edgeagent.settings.PACKAGE", tmp_path / "package")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDGEAGENT_STATE", str(tmp_path / "state"))
    with serving_hub(world) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub)
        yield tmp_path / "state"


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(models, list(arguments))
    if result.exception:
        raise result.exception
    return result


def document(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_dry_run_tells_all_and_changes_nothing(state: Path, world: World) -> None:
    told = document("pull", "tiny", "--dry-run")
    assert told["on_disk"] is False
    assert told["needed_bytes"] == len(world.content)
    assert (told["fits_disk"], told["fits_quota"], told["quota_bytes"], told["would_evict"]) == (True, True, None, [])
    assert told["free_bytes"] > 0
    assert told["files"] == [
        {
            "file": "tiny.gguf",
            "source": "hub",
            "bytes": len(world.content),
            "sha256": world.sha256,
            "commit": world.commit,
            "here_bytes": 0,
        }
    ]
    assert not state.exists()
    assert world.num_sent == 0
    text = run("pull", "tiny", "--dry-run").stdout
    assert text.startswith("tiny F32 would be fetched\n")
    assert f"sha256 {world.sha256}" in text
    assert "MB free, fits" in text


def test_pull_then_dry_run_says_it_is_here(state: Path, world: World) -> None:
    pulled = document("pull", "tiny")
    assert (pulled["sha256"], pulled["evicted"]) == (world.sha256, [])
    assert Path(pulled["path"]) == state / "models/tiny/tiny.gguf"
    told = document("pull", "tiny", "--dry-run")
    assert (told["on_disk"], told["files"], told["needed_bytes"]) == (True, [], 0)
    assert run("pull", "tiny", "--dry-run").stdout == "tiny F32 is here already\n"


@pytest.mark.usefixtures("state")
def test_quota_evicts_and_both_outputs_say_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT__MODELS__QUOTA_BYTES", str(2 * len(world.content)))
    document("pull", "tiny")
    gone = [{"id": "tiny", "variant": "F32", "bytes": len(world.content)}]
    assert document("pull", "second", "--dry-run")["would_evict"] == gone
    assert "would remove tiny F32" in run("pull", "second", "--dry-run").stdout
    assert document("pull", "second")["evicted"] == gone
    assert "second F32 had to go for models.quota_bytes" in run("pull", "tiny").stdout


@pytest.mark.usefixtures("state")
def test_default_model_is_not_evicted_for_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT__MODELS__DEFAULT", "tiny")
    monkeypatch.setenv("EDGEAGENT__MODELS__QUOTA_BYTES", str(2 * len(world.content)))
    document("pull", "tiny")
    told = document("pull", "second", "--dry-run")
    assert (told["fits_quota"], told["fits_disk"]) == (False, True)
    assert "does not fit" in run("pull", "second", "--dry-run").stdout
    with pytest.raises(DownloadError, match=r"models\.quota_bytes is"):
        run("pull", "second")


@pytest.mark.usefixtures("state")
def test_repin_accepts_what_changed(world: World) -> None:
    document("pull", "tiny")
    assert document("rm", "tiny")["freed_bytes"] == len(world.content)
    world.content = world.content[:-1] + b"\x01"
    assert document("pull", "tiny", "--repin")["sha256"] == world.sha256


@pytest.mark.usefixtures("state")
def test_token_of_the_environment_opens_a_gated_model(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.token = "hf_secret"
    with pytest.raises(DownloadError, match="HF_TOKEN"):
        run("pull", "tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert document("pull", "tiny")["sha256"] == world.sha256


def test_hub_variables_are_below_file_and_own_variables(tmp_path: Path) -> None:
    file = tmp_path / "edgeagent.toml"
    file.write_text('[models]\nhub_url = "https://file.invalid"\n')
    shared = {"HF_ENDPOINT": "https://shared.invalid", "HF_TOKEN": "hf_shared", "HOME": str(tmp_path)}
    alone = load_settings(environment=shared)
    assert (alone.config.models.hub_url, alone.origins["models.hub_url"]) == ("https://shared.invalid", "HF_ENDPOINT")
    assert (alone.config.models.hub_token, alone.origins["models.hub_token"]) == ("hf_shared", "HF_TOKEN")
    below = load_settings(file, shared)
    assert (below.config.models.hub_url, below.origins["models.hub_url"]) == ("https://file.invalid", str(file))
    ours = load_settings(file, shared | {"EDGEAGENT__MODELS__HUB_URL": "https://own.invalid"})
    assert ours.config.models.hub_url == "https://own.invalid"


def test_token_is_shown_nowhere() -> None:
    assert masked("models.hub_token", "hf_secret") == MASK


def test_transfer_into_a_pipe_shows_a_line_every_ten_seconds() -> None:
    now, lines = [0.0], list[str]()
    report = ProgressLines("fetching x", lambda: now[0], lines.append)
    for second in range(26):
        now[0] = float(second)
        report(50_000_000 + second * 1_000_000, 100_000_000)  # half of it was here before
    assert lines == [
        "fetching x: 60.0 of 100.0 MB, 1.0 MB/s, 0:40 left",
        "fetching x: 70.0 of 100.0 MB, 1.0 MB/s, 0:30 left",
    ]


def test_short_transfer_into_a_pipe_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("fetching x") as report:
        report(1, 2)
        report(2, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("done", "total", "bytes_s", "text"),
    [
        (12_500_000, 98_400_000, 1.2e6, "12.5 of 98.4 MB, 1.2 MB/s, 1:12 left"),
        (12_500_000, None, 1.2e6, "12.5 MB, 1.2 MB/s"),
        (1, 2_000_000, 0.0, "0.0 of 2.0 MB, 0.0 MB/s, stalled"),
    ],
)
def test_progress_tells_bytes_rate_and_time_left(done: int, total: int | None, bytes_s: float, text: str) -> None:
    assert describe(done, total, bytes_s) == text
