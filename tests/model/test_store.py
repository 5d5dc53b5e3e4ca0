"""The store: nothing unverified is offered, nothing half-done is left, one process fetches at a time."""

import asyncio
import os
import struct
from pathlib import Path

import pytest

from edgeagent.core.cards import Architecture, ModelCard, ModelFile, PrunedSource
from edgeagent.core.errors import DownloadError, ModelFileError, ModelNotFoundError
from edgeagent.model import files
from edgeagent.model.fetch import Facts, Job
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore, StoredVariant


class BytesFetcher:
    """Writes given bytes in two halves, and counts how often it was asked."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.num_fetches = 0
        self.has_begun = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    async def describe(self, file: ModelFile) -> Facts:
        return Facts(file.bytes, file.sha256)

    async def fetch(self, job: Job) -> None:
        self.num_fetches += 1
        half = len(self.content) // 2
        job.target.write_bytes(self.content[:half])
        self.has_begun.set()
        await self.may_finish.wait()
        job.target.write_bytes(self.content)


def make_store(folder: Path, card: ModelCard, content: bytes = b"") -> tuple[ModelStore, BytesFetcher]:
    fetcher = BytesFetcher(content)
    return ModelStore(folder, Registry([card]), fetcher), fetcher


def test_missing_file_is_fetched_once_and_found_offline(tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes) -> None:
    store, fetcher = make_store(tmp_path, tiny_card, tiny_gguf)
    assert store.find("tiny") is None
    stored = asyncio.run(store.ensure("tiny"))
    assert stored.path.read_bytes() == tiny_gguf
    assert (stored.sha256, stored.bytes) == (tiny_card.variants[0].sha256, len(tiny_gguf))
    assert asyncio.run(store.ensure("tiny")) == stored == make_store(tmp_path, tiny_card)[0].find("tiny")
    assert fetcher.num_fetches == 1


def test_fetched_file_with_another_hash_is_refused_and_removed(
    tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes
) -> None:
    store, _ = make_store(tmp_path, tiny_card, tiny_gguf[:-1] + b"\x01")
    with pytest.raises(ModelFileError, match="has sha256"):
        asyncio.run(store.ensure("tiny"))
    assert store.find("tiny") is None
    assert not store.partial(tiny_card, tiny_card.variants[0]).exists()


def test_truncated_file_is_refused_and_set_aside(tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes) -> None:
    store, _ = make_store(tmp_path, tiny_card)
    path = place(store, tiny_card, tiny_gguf[:-100])
    with pytest.raises(ModelFileError, match=r"its card says .*moved to tiny\.gguf\.bad"):
        store.find("tiny")
    assert files.quarantine(path).exists()
    assert store.find("tiny") is None


def place(store: ModelStore, card: ModelCard, content: bytes) -> Path:
    path = store.path(card, card.variants[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_file_copied_by_hand_is_verified_and_used(tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes) -> None:
    store, _ = make_store(tmp_path, tiny_card)
    path = place(store, tiny_card, tiny_gguf)
    found = store.find("tiny")
    assert found is not None
    assert found.path == path


def test_file_changed_after_verification_is_refused(tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes) -> None:
    store, _ = make_store(tmp_path, tiny_card)
    path = place(store, tiny_card, tiny_gguf)
    assert store.find("tiny")
    path.write_bytes(tiny_gguf[:-1] + b"\x01")
    os.utime(path, ns=(0, 0))
    with pytest.raises(ModelFileError, match="has sha256"):
        store.find("tiny")


def test_touched_file_is_verified_again_and_kept(tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes) -> None:
    store, _ = make_store(tmp_path, tiny_card)
    path = place(store, tiny_card, tiny_gguf)
    assert store.find("tiny")
    os.utime(path, ns=(0, 0))
    assert store.find("tiny")
    record = files.recall(path)
    assert record is not None
    assert record.mtime_ns == 0


def test_broken_sidecar_leads_to_a_new_verification(tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes) -> None:
    store, _ = make_store(tmp_path, tiny_card)
    path = place(store, tiny_card, tiny_gguf)
    files.sidecar(path).write_text("{")
    assert store.find("tiny")


def test_file_of_another_shape_is_refused(tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes) -> None:
    assert tiny_card.architecture is not None
    other = tiny_card.model_copy(update={"architecture": tiny_card.architecture.model_copy(update={"layers": 2})})
    store, _ = make_store(tmp_path, other)
    place(store, other, tiny_gguf)
    with pytest.raises(ModelFileError, match="layers is 1, its card says 2"):
        store.find("tiny")


def test_cancelled_fetch_leaves_nothing_usable_and_frees_the_lock(
    tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes
) -> None:
    async def scenario() -> None:
        store, fetcher = make_store(tmp_path, tiny_card, tiny_gguf)
        fetcher.may_finish.clear()
        task = asyncio.create_task(store.ensure("tiny"))
        await fetcher.has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.find("tiny") is None
        fetcher.may_finish.set()
        assert (await store.ensure("tiny")).path.read_bytes() == tiny_gguf

    asyncio.run(scenario())


def test_two_stores_over_one_folder_fetch_once(tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes) -> None:
    async def scenario() -> int:
        stores = [make_store(tmp_path, tiny_card, tiny_gguf) for _ in range(2)]
        results: list[StoredVariant] = await asyncio.gather(*(store.ensure("tiny") for store, _ in stores))
        assert results[0].path == results[1].path
        return sum(fetcher.num_fetches for _, fetcher in stores)

    assert asyncio.run(scenario()) == 1


def test_variant_not_made_yet_says_how(tmp_path: Path, tiny_card: ModelCard) -> None:
    store, _ = make_store(tmp_path, tiny_card)
    with pytest.raises(ModelNotFoundError, match="edgeagent models quantize tiny Q8_0"):
        asyncio.run(store.ensure("tiny", "Q8_0"))


def test_full_disk_is_refused_before_fetching(tmp_path: Path, tiny_card: ModelCard) -> None:
    vast = tiny_card.variants[0].model_copy(update={"bytes": 2**60})
    store, fetcher = make_store(tmp_path, tiny_card.model_copy(update={"variants": (vast,)}))
    with pytest.raises(DownloadError, match="MB are needed"):
        asyncio.run(store.ensure("tiny"))
    assert fetcher.num_fetches == 0


def test_removed_model_is_gone(tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes) -> None:
    store, _ = make_store(tmp_path, tiny_card, tiny_gguf)
    asyncio.run(store.ensure("tiny"))
    assert asyncio.run(store.remove("tiny")) >= len(tiny_gguf)
    assert store.find("tiny") is None


def test_unwritable_folder_is_one_clear_error(tmp_path: Path, tiny_card: ModelCard) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    store, _ = make_store(blocked, tiny_card)
    with pytest.raises(ModelFileError, match="cannot write"):
        asyncio.run(store.ensure("tiny"))


def gguf_with(tiny: bytes, *numbers: tuple[str, int]) -> bytes:
    """The tiny file with further metadata, as further layers would have."""
    extra = b"".join(struct.pack("<Q", len(k)) + k.encode() + struct.pack("<II", 4, v) for k, v in numbers)
    padding = -(len(extra) + 8 + 1 + 4 + 1) % 32
    extra += struct.pack("<Q", 1 + padding) + b"p" * (1 + padding) + struct.pack("<IB", 7, 1)
    count = struct.unpack_from("<Q", tiny, 16)[0] + len(numbers) + 1
    return tiny[:16] + struct.pack("<Q", count) + extra + tiny[24:]


def shaped(card: ModelCard, **update: object) -> ModelCard:
    """The card without a hash, with another architecture, and fewer layers in its first variant if so told."""
    assert card.architecture
    architecture = Architecture.model_validate(card.architecture.model_dump() | {"ffn": 64} | update)
    variant = card.variants[0].model_copy(update={"bytes": None, "sha256": None})
    return card.model_copy(update={"architecture": architecture, "variants": (variant,)})


FFN = ("llama.feed_forward_length", 64)
EXPERTS = {"experts": {"count": 4, "used": 2, "ffn": 16}}
MIXTURE = (("llama.expert_count", 4), ("llama.expert_used_count", 2), ("llama.expert_feed_forward_length", 16))


@pytest.mark.parametrize(
    ("numbers", "update"),
    [
        ((), {}),
        ((FFN,), {}),
        ((("llama.attention.sliding_window", 16),), {"sliding_window": 16}),
        ((("llama.attention.sliding_window", 16),), {}),
        ((("llama.expert_count", 0),), {}),
        (MIXTURE, EXPERTS),
        ((*MIXTURE[:2], FFN), EXPERTS | {"ffn": 128}),
    ],
)
def test_file_that_fits_its_card_in_all_that_both_state_is_used(
    tmp_path: Path,
    tiny_card: ModelCard,
    tiny_gguf: bytes,
    numbers: tuple[tuple[str, int], ...],
    update: dict[str, object],
) -> None:
    store, _ = make_store(tmp_path, card := shaped(tiny_card, **update))
    place(store, card, gguf_with(tiny_gguf, *numbers))
    assert store.find("tiny")


@pytest.mark.parametrize(
    ("numbers", "update", "reason"),
    [
        ((("llama.feed_forward_length", 65),), {}, "ffn is 65, its card says 64"),
        ((("llama.attention.sliding_window", 8),), {"sliding_window": 16}, "sliding_window is 8"),
        (MIXTURE, {}, "experts.count is 4, its card says None"),
        ((), EXPERTS, "experts.count is None, its card says 4"),
        ((("llama.expert_count", 4), ("llama.expert_used_count", 1)), EXPERTS, "experts.used is 1"),
        ((*MIXTURE[:2], ("llama.expert_feed_forward_length", 8)), EXPERTS, "experts.ffn is 8"),
    ],
)
def test_file_of_another_feed_forward_window_or_mixture_is_refused(
    tmp_path: Path,
    tiny_card: ModelCard,
    tiny_gguf: bytes,
    numbers: tuple[tuple[str, int], ...],
    update: dict[str, object],
    reason: str,
) -> None:
    store, _ = make_store(tmp_path, card := shaped(tiny_card, **update))
    place(store, card, gguf_with(tiny_gguf, *numbers))
    with pytest.raises(ModelFileError, match=reason):
        store.find("tiny")


def test_variant_with_fewer_layers_than_its_card_is_used(
    tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes
) -> None:
    card = shaped(tiny_card, layers=2)
    pruned = card.variants[0].model_copy(
        update={"layers": 1, "source": PrunedSource(kind="pruned", variant="F32", dropped=(1,))}
    )
    store, _ = make_store(tmp_path, card := card.model_copy(update={"variants": (pruned,)}))
    place(store, card, tiny_gguf)
    assert store.find("tiny")


def test_pruned_variant_not_made_yet_says_how(tmp_path: Path, tiny_card: ModelCard) -> None:
    pruned = tiny_card.variants[1].model_copy(
        update={"source": PrunedSource(kind="pruned", variant="F32", dropped=(1,))}
    )
    store, _ = make_store(tmp_path, tiny_card.model_copy(update={"variants": (pruned,)}))
    with pytest.raises(ModelNotFoundError, match="edgeagent models prune tiny"):
        asyncio.run(store.ensure("tiny"))
    with pytest.raises(ModelNotFoundError, match="edgeagent models prune tiny"):
        asyncio.run(store.preview("tiny"))


def test_pull_sweeps_what_a_killed_one_left_beside_the_whole_file(
    tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes
) -> None:
    store, _ = make_store(tmp_path, tiny_card, tiny_gguf)
    path = asyncio.run(store.ensure("tiny")).path
    partial = store.partial(tiny_card, tiny_card.variants[0])
    (partial.parent / "scratch").mkdir(parents=True)
    for left in (files.validator(partial), files.unfinished_sidecar(path), partial.parent / "lock"):
        left.touch()
    asyncio.run(store.ensure("tiny"))
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.gguf", "tiny.gguf.json"]
