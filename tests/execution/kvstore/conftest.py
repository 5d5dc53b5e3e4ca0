from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeagent.execution.kvstore.store import KvLimits, KvStore
from tests.execution.kvstore.rows import AMPLE, Clock, Make


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Opens stores that are closed after the test."""
    stores: list[KvStore] = []

    def made(folder: Path | None = tmp_path / "kv", limits: KvLimits = AMPLE, clock: Clock | None = None) -> KvStore:
        stores.append(KvStore(folder, limits, clock or Clock()))
        return stores[-1]

    yield made
    for store in stores:
        store.close()
