"""A process that fills a store until it is killed: `writer.py FOLDER SEED`; tells on stdout what it has persisted."""

import asyncio
import random
import sys
import time
from pathlib import Path

from edgeagent.execution.kvstore.store import KvLimits, KvStore
from tests.execution.kvstore.rows import add

KEY = "build"
PLANES = (4080, 2040, 4080, 2040)
"""As many bytes a cell as a small model has, so that a kill often hits a write."""


def main() -> None:
    chance = random.Random(int(sys.argv[2]))
    store = KvStore(Path(sys.argv[1]), KvLimits(2**26, 2**30), time.time)
    path: list[int] = []
    while True:
        if chance.random() < 0.2:
            path = path[: chance.randrange(len(path) + 1)]
        first = store.covered(KEY, path)
        path += [chance.randrange(5) for _ in range(chance.randrange(1, 60))]
        if store.covered(KEY, path) < len(path):
            add(store, KEY, path, first, PLANES)
        asyncio.run(store.persist())
        sys.stdout.write(" ".join(map(str, path)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
