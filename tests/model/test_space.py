"""The quota on a real folder, with real locks, and disks that are full."""

import asyncio
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import DownloadError, ModelFileError
from edgeagent.model import files, locks
from edgeagent.model.quota import Quota
from edgeagent.model.store import ModelStore
from tests.model.hub import World, hub_store, on_hub, serving_hub

HOLD = "import sys, fcntl; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True); sys.stdin.read()"


def card_of(tiny: ModelCard, model_id: str, *variants: str) -> ModelCard:
    """A model whose variants are the tiny file under other names."""
    first = on_hub(tiny).variants[0]
    made = tuple(first.model_copy(update={"name": name, "file": f"{name}.gguf"}) for name in variants)
    return tiny.model_copy(update={"id": model_id, "variants": made})


@pytest.fixture
def cards(tiny_card: ModelCard) -> list[ModelCard]:
    return [card_of(tiny_card, "main", "A", "B"), card_of(tiny_card, "other", "A", "B"), card_of(tiny_card, "new", "A")]


@pytest.fixture
def world(tiny_gguf: bytes) -> World:
    return World(tiny_gguf)


@pytest.fixture
def hub(world: World) -> Iterator[str]:
    with serving_hub(world) as url:
        yield url


def full_store(folder: Path, hub: str, cards: list[ModelCard], world: World) -> ModelStore:
    """`main A`, `main B`, `other A`, `other B` are here, used in this order; a fifth file would exceed the quota."""
    store = hub_store(folder, hub, *cards)
    names = [(model, variant) for model in ("main", "other") for variant in ("A", "B")]
    for second, (model, variant) in enumerate(names):
        stored = asyncio.run(store.ensure(model, variant))
        os.utime(files.sidecar(stored.path), (second, second))
    used = store.space.look(0).used_bytes
    return hub_store(folder, hub, *cards, quota=Quota(used + len(world.content) - 1, frozenset({"main"})))


def names_here(store: ModelStore) -> set[str]:
    found = {(card.id, v.name) for card in store.registry.cards for v in card.variants if store.find(card.id, v.name)}
    return {f"{model} {variant}" for model, variant in found}


def test_pull_over_the_quota_evicts_the_longest_unused_and_says_so(
    tmp_path: Path, hub: str, cards: list[ModelCard], world: World, caplog: pytest.LogCaptureFixture
) -> None:
    store = full_store(tmp_path, hub, cards, world)
    evicted = asyncio.run(store.pull("new")).evicted
    assert [(t.model, t.variant, t.bytes) for t in evicted] == [("main", "A", len(world.content))]
    assert names_here(store) == {"main B", "other A", "other B", "new A"}
    assert [(r.__dict__["model"], r.__dict__["variant"]) for r in caplog.records] == [("main", "A")]


def test_variant_in_use_stays_however_old(tmp_path: Path, hub: str, cards: list[ModelCard], world: World) -> None:
    store = full_store(tmp_path, hub, cards, world)
    stored = store.find("main", "A")
    assert stored
    hold = store.hold(stored)
    os.utime(files.sidecar(stored.path), (0, 0))
    assert [(t.model, t.variant) for t in asyncio.run(store.pull("new")).evicted] == [("main", "B")]
    hold.close()


def test_last_variant_of_a_needed_model_stays(tmp_path: Path, hub: str, cards: list[ModelCard], world: World) -> None:
    store = full_store(tmp_path, hub, cards, world)
    asyncio.run(store.remove("main", "B"))
    quota = Quota(store.space.look(0).used_bytes + len(world.content) - 1, frozenset({"main"}))
    evicted = asyncio.run(hub_store(tmp_path, hub, *cards, quota=quota).pull("new")).evicted
    assert [(t.model, t.variant) for t in evicted] == [("other", "A")]


def test_use_makes_a_variant_young(tmp_path: Path, hub: str, cards: list[ModelCard], world: World) -> None:
    store = full_store(tmp_path, hub, cards, world)
    stored = store.find("main", "A")
    assert stored
    store.hold(stored).close()
    assert [(t.model, t.variant) for t in asyncio.run(store.pull("new")).evicted] == [("main", "B")]


def test_variant_used_by_another_process_stays_until_that_ends(
    tmp_path: Path, hub: str, cards: list[ModelCard], world: World
) -> None:
    store = full_store(tmp_path, hub, cards, world)
    path = store.path(cards[0], cards[0].variants[0])
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=-1, stdout=-1) as user:
        assert user.stdout
        user.stdout.readline()
        assert [t.variant for t in store.space.look(len(world.content)).evictions or ()] == ["B"]
        user.kill()
    assert [t.variant for t in store.space.look(len(world.content)).evictions or ()] == ["A"]


def test_model_that_another_process_works_on_is_not_evicted(
    tmp_path: Path, hub: str, cards: list[ModelCard], world: World
) -> None:
    store = full_store(tmp_path, hub, cards, world)

    async def scenario() -> None:
        async with store.locked(cards[0]):
            with pytest.raises(DownloadError, match="main A was to make room and is in use now"):
                await store.pull("new")

    asyncio.run(scenario())
    assert names_here(store) == {"main A", "main B", "other A", "other B"}


def test_what_fits_no_quota_is_refused_before_anything_goes_or_comes(
    tmp_path: Path, hub: str, cards: list[ModelCard], world: World
) -> None:
    full_store(tmp_path, hub, cards, world)
    sent = world.num_sent
    small = hub_store(tmp_path, hub, *cards, quota=Quota(len(world.content) // 2, frozenset({"main"})))
    preview = asyncio.run(small.preview("new"))
    assert (preview.fits_quota, preview.fits_disk) == (False, True)
    with pytest.raises(DownloadError, match=r"models.quota_bytes is 0 MB.*raise it, or remove models"):
        asyncio.run(small.pull("new"))
    assert names_here(small) == {"main A", "main B", "other A", "other B"}
    assert world.num_sent == sent


def test_preview_names_what_would_go_and_removes_nothing(
    tmp_path: Path, hub: str, cards: list[ModelCard], world: World
) -> None:
    store = full_store(tmp_path, hub, cards, world)
    preview = asyncio.run(store.preview("new"))
    assert [(t.model, t.variant) for t in preview.space.evictions or ()] == [("main", "A")]
    assert preview.fits_quota
    assert names_here(store) == {"main A", "main B", "other A", "other B"}


def test_variant_that_is_here_takes_nothing_from_a_quota_lowered_since(
    tmp_path: Path, hub: str, cards: list[ModelCard], world: World
) -> None:
    full_store(tmp_path, hub, cards, world)
    preview = asyncio.run(hub_store(tmp_path, hub, *cards, quota=Quota(1)).preview("main", "A"))
    assert (preview.missing, preview.needed_bytes, preview.space.evictions) == ((), 0, ())


def test_evicted_variant_keeps_its_pin(tmp_path: Path, hub: str, cards: list[ModelCard], world: World) -> None:
    store = full_store(tmp_path, hub, cards, world)
    asyncio.run(store.pull("new"))
    world.content = world.content[:-1] + b"\x01"
    with pytest.raises(ModelFileError, match="pull it with --repin"):
        asyncio.run(store.pull("main", "A"))


def test_hold_of_a_removed_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="pull the model again"):
        locks.Hold.take(tmp_path / "gone")


def test_lock_of_a_killed_process_is_free_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "model/.partial"
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    with locks.try_alone(folder) as is_first, locks.try_alone(folder) as is_second:
        assert (is_first, is_second) == (True, False)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here; run the tests as root, outside a container")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_disk_that_fills_up_meanwhile_is_one_error_and_the_rest_is_continued(
    small_disk: Path, hub: str, tiny_card: ModelCard, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.content += os.urandom(2 * 2**20)
    monkeypatch.setattr("edgeagent.model.space.SPARE_DISK_BYTES", -(2**30))  # another program takes it afterwards
    store = hub_store(small_disk, hub, card := on_hub(tiny_card))
    with pytest.raises(DownloadError, match=r"the disk is full, with .* of 2 MB of tiny.gguf .* it goes on from there"):
        asyncio.run(store.ensure("tiny"))
    here = store.partial(card, card.variants[0]).stat().st_size
    assert 0 < here <= 2**20
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    world.requests.clear()
    asyncio.run(store.ensure("tiny"))
    assert world.ranges() == [f"bytes={here}-"]


def test_file_that_may_not_grow_any_more_is_one_error(
    tmp_path: Path, hub: str, tiny_card: ModelCard, world: World
) -> None:
    world.content += os.urandom(2 * 2**20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(DownloadError, match=r"tiny\.gguf cannot be stored .*check the disk"):
            asyncio.run(hub_store(tmp_path, hub, on_hub(tiny_card)).ensure("tiny"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_is_refused_before_the_download(
    tmp_path: Path, hub: str, tiny_card: ModelCard, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeagent.model.space.SPARE_DISK_BYTES", 2**60)
    store = hub_store(tmp_path, hub, on_hub(tiny_card))
    assert asyncio.run(store.preview("tiny")).fits_disk is False
    with pytest.raises(DownloadError, match="MB are needed"):
        asyncio.run(store.ensure("tiny"))
    assert world.num_sent == 0
