"""The hub: asked first, pinned, refused when it changes its mind; its token stays with it."""

import asyncio
import json
from pathlib import Path

import pytest

from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import DownloadError, ModelFileError
from edgeagent.model import files
from edgeagent.model.fetch_http import Credential
from edgeagent.model.store import ModelStore, StoredVariant
from tests.model.hub import REPO, World, hub_store, on_hub, serving_hub

TOKEN = "hf_secret_token"


@pytest.fixture
def world(tiny_gguf: bytes) -> World:
    return World(tiny_gguf)


def pull(store: ModelStore, *, repin: bool = False) -> StoredVariant:
    return asyncio.run(store.pull("tiny", repin=repin)).stored


def test_file_is_fetched_at_the_commit_and_with_the_hash_the_hub_named(
    tmp_path: Path, world: World, tiny_card: ModelCard
) -> None:
    with serving_hub(world) as hub:
        stored = pull(hub_store(tmp_path, hub, on_hub(tiny_card)))
    assert stored.path.read_bytes() == world.content
    record = files.recall(stored.path)
    assert record
    assert record.sha256 == world.sha256
    assert record.origin == files.Origin(repo=REPO, revision="main", path="tiny.gguf", commit=world.commit)
    assert [(r.method, r.path) for r in world.requests if r.server == "hub"] == [
        ("HEAD", f"/{REPO}/resolve/main/tiny.gguf"),
        ("GET", f"/{REPO}/resolve/{world.commit}/tiny.gguf"),
    ]
    assert sorted(p.name for p in stored.path.parent.iterdir()) == ["tiny.gguf", "tiny.gguf.json"]


def test_token_goes_to_the_hub_alone(tmp_path: Path, world: World, tiny_card: ModelCard) -> None:
    world.token = TOKEN
    with serving_hub(world) as hub:
        stored = pull(hub_store(tmp_path, hub, on_hub(tiny_card), token=TOKEN))
    sent = [(request.server, request.headers.get("authorization")) for request in world.requests]
    assert sent == [("hub", f"Bearer {TOKEN}"), ("hub", f"Bearer {TOKEN}"), ("cdn", None)]
    assert TOKEN not in files.sidecar(stored.path).read_text()


def test_token_is_in_no_representation() -> None:
    assert TOKEN not in repr(Credential("https://hub.invalid", TOKEN))


@pytest.mark.parametrize(
    ("url", "is_sent"),
    [
        ("https://hub.invalid/a/b", True),
        ("https://hub.invalid:443/a", True),
        ("https://hub.invalid:444/a", False),
        ("http://hub.invalid/a", False),
        ("https://cdn.hub.invalid/a", False),
        ("https://hub.invalid.evil/a", False),
        ("https://hub.invalid@evil/a", False),
    ],
)
def test_token_is_sent_to_its_origin_alone(url: str, is_sent: bool) -> None:
    assert bool(Credential("https://hub.invalid/base", TOKEN).headers(url)) is is_sent


@pytest.mark.parametrize(("token", "reason"), [("", "no token is set"), ("hf_old", "may not read it")])
def test_gated_repository_says_to_accept_its_licence_and_set_a_token(
    tmp_path: Path, world: World, tiny_card: ModelCard, token: str, reason: str
) -> None:
    world.token = TOKEN
    with serving_hub(world) as hub, pytest.raises(DownloadError) as refused:
        pull(hub_store(tmp_path, hub, on_hub(tiny_card), token=token))
    message = str(refused.value)
    assert reason in message
    assert f"accept its licence at {hub}/{REPO}" in message
    assert "HF_TOKEN" in message
    assert not token or token not in message


@pytest.mark.parametrize(
    ("source", "reason"),
    [({"path": "other.gguf"}, "no file other.gguf"), ({"revision": "v9"}, "no revision v9")],
)
def test_what_the_repository_does_not_have_is_named(
    tmp_path: Path, world: World, tiny_card: ModelCard, source: dict[str, str], reason: str
) -> None:
    with serving_hub(world) as hub, pytest.raises(DownloadError, match=f"{REPO} has {reason}"):
        pull(hub_store(tmp_path, hub, on_hub(tiny_card, **source)))


def test_renamed_repository_is_followed_inside_the_hub(tmp_path: Path, world: World, tiny_card: ModelCard) -> None:
    world.renamed_from, world.token = "maker/old-GGUF", TOKEN
    with serving_hub(world) as hub:
        pull(hub_store(tmp_path, hub, on_hub(tiny_card, repo="maker/old-GGUF"), token=TOKEN))
    assert world.num_sent == len(world.content)


def test_hub_that_fails_for_a_moment_is_asked_again(tmp_path: Path, world: World, tiny_card: ModelCard) -> None:
    world.num_failures = 2
    with serving_hub(world) as hub:
        assert pull(hub_store(tmp_path, hub, on_hub(tiny_card)))


def test_hub_out_of_reach_is_said_with_the_way_out(tmp_path: Path, tiny_card: ModelCard) -> None:
    with pytest.raises(DownloadError, match=f"cannot ask http://127.0.0.1:9 about {REPO} .*or set models.hub_url"):
        pull(hub_store(tmp_path, "http://127.0.0.1:9", on_hub(tiny_card)))


@pytest.mark.parametrize(("key", "value"), [("sha256", "0" * 64), ("bytes", 5)])
def test_file_that_is_not_the_cards_is_refused_before_the_download(
    tmp_path: Path, world: World, tiny_card: ModelCard, key: str, value: object
) -> None:
    card = on_hub(tiny_card)
    card = card.model_copy(update={"variants": (card.variants[0].model_copy(update={key: value}),)})
    with serving_hub(world) as hub, pytest.raises(DownloadError, match=f"than its card: {key}"):
        pull(hub_store(tmp_path, hub, card))
    assert world.num_sent == 0


def other_version(content: bytes) -> bytes:
    return content[:-1] + b"\x01"


@pytest.mark.parametrize("loss", ["removed", "damaged"])
def test_file_that_changed_under_its_revision_is_refused_until_accepted(
    tmp_path: Path, world: World, tiny_card: ModelCard, loss: str
) -> None:
    with serving_hub(world) as hub:
        store = hub_store(tmp_path, hub, on_hub(tiny_card))
        path = pull(store).path
        if loss == "removed":
            asyncio.run(store.remove("tiny"))
        else:
            path.write_bytes(b"GGUF")
            with pytest.raises(ModelFileError, match="moved to"):
                store.find("tiny")
        world.content, world.commit = other_version(world.content), "c" * 40
        sent = world.num_sent
        with pytest.raises(ModelFileError, match=r"main has changed: sha256 .*; if you trust .* pull it with --repin"):
            pull(store)
        assert world.num_sent == sent
        assert pull(store, repin=True).sha256 == world.sha256


def test_same_content_at_another_commit_is_accepted(tmp_path: Path, world: World, tiny_card: ModelCard) -> None:
    with serving_hub(world) as hub:
        store = hub_store(tmp_path, hub, on_hub(tiny_card))
        pull(store)
        asyncio.run(store.remove("tiny"))
        world.commit = "c" * 40
        record = files.recall(pull(store).path)
    assert record
    assert record.origin
    assert record.origin.commit == "c" * 40


def test_card_that_names_another_revision_is_no_change(tmp_path: Path, world: World, tiny_card: ModelCard) -> None:
    with serving_hub(world) as hub:
        store = hub_store(tmp_path, hub, on_hub(tiny_card))
        pull(store)
        asyncio.run(store.remove("tiny"))
        world.content, world.commit = other_version(world.content), "c" * 40
        assert pull(hub_store(tmp_path, hub, on_hub(tiny_card, revision="c" * 40))).sha256 == world.sha256


def test_other_content_than_the_hub_named_is_refused_and_removed(
    tmp_path: Path, world: World, tiny_card: ModelCard
) -> None:
    world.served = other_version(world.content)
    with serving_hub(world) as hub:
        store = hub_store(tmp_path, hub, on_hub(tiny_card))
        with pytest.raises(ModelFileError, match="has sha256"):
            pull(store)
        assert list(tmp_path.iterdir()) == []
        world.served = None
        assert pull(store)


def test_small_file_without_a_hash_at_the_hub_is_pinned_by_its_content(
    tmp_path: Path, world: World, tiny_card: ModelCard
) -> None:
    world.is_large = False
    with serving_hub(world) as hub:
        store = hub_store(tmp_path, hub, on_hub(tiny_card))
        assert pull(store).sha256 == world.sha256
        asyncio.run(store.remove("tiny"))
        world.content = other_version(world.content)
        with pytest.raises(ModelFileError, match="has sha256"):
            pull(store)


def begin(store: ModelStore, card: ModelCard, content: bytes, mark: str) -> int:
    """Half of the file, as a killed pull leaves it."""
    partial = store.partial(card, card.variants[0])
    partial.parent.mkdir(parents=True)
    partial.write_bytes(content[: len(content) // 2])
    files.validator(partial).write_text(mark)
    return len(content) // 2


def test_transfer_goes_on_by_the_hash_where_the_network_sends_no_tag(
    tmp_path: Path, world: World, tiny_card: ModelCard
) -> None:
    world.sends_etag = False
    with serving_hub(world) as hub:
        store = hub_store(tmp_path, hub, card := on_hub(tiny_card))
        half = begin(store, card, world.content, f"{world.sha256}\n")
        pull(store)
    assert world.ranges() == [f"bytes={half}-"]


def test_beginning_of_another_version_is_not_continued(tmp_path: Path, world: World, tiny_card: ModelCard) -> None:
    with serving_hub(world) as hub:
        store = hub_store(tmp_path, hub, card := on_hub(tiny_card))
        begin(store, card, b"x" * len(world.content), f'{"0" * 64}\n"other"')
        pull(store)
    assert world.ranges() == [""]


def test_network_that_ignores_the_tag_is_not_spliced(tmp_path: Path, world: World, tiny_card: ModelCard) -> None:
    world.honours_if_range = False
    with serving_hub(world) as hub:
        store = hub_store(tmp_path, hub, card := on_hub(tiny_card))
        half = begin(store, card, b"x" * len(world.content), f'{world.sha256}\n"other"')
        assert pull(store).sha256 == world.sha256
    assert world.ranges() == [f"bytes={half}-", ""]


def test_whole_file_that_was_only_not_verified_is_not_fetched_again(
    tmp_path: Path, world: World, tiny_card: ModelCard
) -> None:
    with serving_hub(world) as hub:
        store = hub_store(tmp_path, hub, card := on_hub(tiny_card))
        begin(store, card, world.content * 2, f"{world.sha256}\n")
        assert pull(store)
    assert world.ranges() == []


def test_wrong_file_is_refused_long_before_its_end(tmp_path: Path, world: World, tiny_card: ModelCard) -> None:
    assert tiny_card.architecture
    other = tiny_card.model_copy(update={"architecture": tiny_card.architecture.model_copy(update={"layers": 2})})
    world.content += bytes(64 * 2**20)
    world.bytes_s = 64 * 2**20
    with serving_hub(world) as hub, pytest.raises(ModelFileError, match="layers is 1, its card says 2"):
        pull(hub_store(tmp_path, hub, on_hub(other)))
    assert world.num_sent < 16 * 2**20
    assert list(tmp_path.iterdir()) == []


def test_preview_tells_size_hash_commit_and_what_is_here(tmp_path: Path, world: World, tiny_card: ModelCard) -> None:
    with serving_hub(world) as hub:
        store = hub_store(tmp_path, hub, card := on_hub(tiny_card))
        half = begin(store, card, world.content, f"{world.sha256}\n")
        preview = asyncio.run(store.preview("tiny"))
    (missing,) = preview.missing
    assert (missing.facts.bytes, missing.facts.sha256, missing.here_bytes) == (len(world.content), world.sha256, half)
    assert preview.needed_bytes == len(world.content) - half
    assert (preview.fits_disk, preview.fits_quota) == (True, True)
    assert world.num_sent == 0


def test_record_of_a_release_without_origins_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    files.sidecar(path).write_text(json.dumps({"sha256": "0" * 64, "bytes": 1, "mtime_ns": 2}))
    record = files.recall(path)
    assert record
    assert record.origin is None
