"""Two peers behind one shared subscription against one: tokens a second, and what is lost when one is killed.

Peers are processes with a CPU quota of their own on a real broker; devices are in this process, each with a connection
of its own, and ask for one answer after the other (plan `remote`, the peer's template). Rounds with one peer and with
two alternate. Then one of two gets SIGKILL under load: every answer must be whole, with the words that it has
undisturbed, and no token of it taken twice.
"""

import asyncio
import contextlib
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

import harness
import quota

from edgeagent.broker import background
from edgeagent.core.errors import PeerError
from edgeagent.core.generation import Generation, Sampling
from edgeagent.execution.executors import PeerModel, RemoteExecutor, Traffic
from edgeagent.execution.peers import Peers
from edgeagent.execution.transport.mqtt import MqttTransport, parse_address
from edgeagent.wire.topics import Topics

PEERS = ("garage", "attic")
QUOTA_CORES, PERIOD_S = 0.2, 0.02
NUM_DEVICES = 6
VARIANT = "Q4_1"
NUM_TOKENS = 16
TRIES = 3
FILLER = "Notes: the house is old, the cellar is dry, the roof was mended last year, and the garden is large. "
QUESTIONS = tuple(
    f"{FILLER * (i % 4)}\nWrite two sentences about {topic}."
    for i, topic in enumerate(("the sea", "bread", "the moon", "old bridges", "winter", "bees", "maps", "tea"))
)


@dataclass(slots=True)
class Results:
    """Of one round."""

    answers: int = 0
    token_times: list[float] = field(default_factory=list)
    lost: int = 0
    different: int = 0
    twice: int = 0
    handovers: int = 0
    by_peer: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fleet:
    url: str
    topics: Topics
    programs: dict[str, harness.Program]


class Device:
    """Asks one question after the other."""

    def __init__(self, peers: Peers, target: PeerModel, expected: dict[str, list[int]], results: Results) -> None:
        self._peers, self._target, self._expected, self.results = peers, target, expected, results

    async def ask(self, question: str) -> None:
        results = self.results
        tokens = await self._answered(question)
        results.answers += tokens is not None
        results.lost += tokens is None
        if tokens is not None:
            results.different += tokens != self._expected.setdefault(question, tokens)

    async def _answered(self, question: str) -> list[int] | None:
        """As the daemon does it: another peer goes on where one is lost. None: no peer was left."""
        traffic, turns = Traffic(), [{"role": "user", "content": question}]
        journal = Generation("b", self._target.variant_sha256, (), Sampling(temperature=0.8, seed=7), NUM_TOKENS)
        for _ in range(TRIES):
            executor = RemoteExecutor(self._peers, self._target, traffic, turns)
            try:
                async with contextlib.aclosing(executor.extend(journal)) as steps:
                    async for step in steps:
                        self.results.twice += step.position != len(journal.output)
                        self.results.token_times.append(time.monotonic())
                        journal = journal.extended(step.token)
            except PeerError as error:
                harness.progress(f"  {executor.name} after {len(journal.output)} tokens: {error}")
                self.results.handovers += 1
                await asyncio.sleep(0 if executor.has_other(len(journal.output)) else 0.5)
            else:
                by_peer = self.results.by_peer
                by_peer[executor.name] = by_peer.get(executor.name, 0) + 1
                return list(journal.output)
        return None


@contextlib.asynccontextmanager
async def connected(fleet: Fleet, name: str, num_peers: int) -> AsyncIterator[Peers]:
    transport = await MqttTransport.connect(parse_address(fleet.url), f"bench-{name}-{secrets.token_hex(3)}")
    try:
        peers = Peers(transport, fleet.topics, name)
        async with background(peers.run(), name):
            while len(peers.views()) != num_peers:  # noqa: ASYNC110  (a bench)
                await asyncio.sleep(0.02)
            yield peers
    finally:
        await transport.close()


async def work(
    fleet: Fleet, num_peers: int, window_s: float, expected: dict[str, list[int]], kill_at_s: float | None = None
) -> tuple[Results, float]:
    """All devices for so long, and until their last answers are whole; what came of it, and tokens a second so long."""
    results = Results()
    async with contextlib.AsyncExitStack() as stack:
        devices = []
        for number in range(NUM_DEVICES):
            peers = await stack.enter_async_context(connected(fleet, f"device-{number}", num_peers))
            offered = peers.views()[0].status.models[0]
            target = PeerModel(PEERS[0], offered.model, str(offered.variant_sha256), offered.exact_key)
            devices.append(Device(peers, target, expected, results))
        began_s = time.monotonic()

        async def ask(number: int, device: Device) -> None:
            count = number
            while time.monotonic() < began_s + window_s:
                await device.ask(QUESTIONS[count % len(QUESTIONS)])
                count += 1

        async with asyncio.TaskGroup() as group:
            for number, device in enumerate(devices):
                group.create_task(ask(number, device))
            if kill_at_s is not None:
                await asyncio.sleep(kill_at_s)
                kill(fleet.programs[PEERS[1]])
    # Behind the window one peer may be idle while the other ends its last answers.
    return results, sum(at < began_s + window_s for at in results.token_times) / window_s


def kill(program: harness.Program) -> None:
    """The peer and its engine, at once: on one machine only a power cut does both."""
    for worker in program.workers():
        worker.send_signal(signal.SIGKILL)
    program.kill()


@contextlib.contextmanager
def standing() -> Iterator[Fleet]:
    """Broker and peers, each held to its quota with all that it starts."""
    env = harness.state_env() | harness.COLD | {"EDGEAGENT__ENGINE__THREADS": "1", "EDGEAGENT__ENGINE__QUEUE": "64"}
    env["EDGEAGENT__PEER__MODELS"] = json.dumps([f"{harness.CHAT_MODEL}/{VARIANT}"])  # whatever each finds fastest
    prefix = f"bench/{secrets.token_hex(4)}"
    with harness.broker() as (_, url), contextlib.ExitStack() as stack:
        programs = {}
        for name in PEERS:
            own = {"EDGEAGENT__MQTT__URL": url, "EDGEAGENT__MQTT__PREFIX": prefix, "EDGEAGENT__MQTT__DEVICE_ID": name}
            programs[name] = harness.edgeagent(["peer"], env | harness.UNGOVERNED | own, "peer ready")
        for program in programs.values():
            stack.callback(program.kill)
        yield Fleet(url, Topics(prefix), programs)


@contextlib.contextmanager
def up(fleet: Fleet, names: Sequence[str]) -> Iterator[None]:
    """These peers and no others, each in a group of its own."""
    for name, program in fleet.programs.items():
        if name not in names:
            program.kill()
    with contextlib.ExitStack() as stack:
        for name in names:
            program = fleet.programs[name]
            program.start()
            assert program.process is not None
            pids = [program.process.pid, *(worker.pid for worker in program.workers())]
            stack.enter_context(quota.limited(pids, QUOTA_CORES, PERIOD_S, f"-{name}"))
        yield


def round_(
    fleet: Fleet, names: Sequence[str], window_s: float, expected: dict[str, list[int]]
) -> tuple[Results, float]:
    with up(fleet, names):
        time.sleep(6)  # a status that says `offline`, and a session that expires
        found = asyncio.run(work(fleet, len(names), window_s, expected))
    harness.progress(f"{len(names)} peers: {found[1]:.2f} tokens a second, {found[0].by_peer}")
    return found


def main() -> None:
    options = harness.options(__doc__)
    started = time.monotonic()
    window_s, pairs = (30.0, 1) if options.quick else (45.0, 3)
    expected: dict[str, list[int]] = {}
    ratios, rates, struck = [], [], list[Results]()
    with standing() as fleet:
        for _ in range(pairs):
            (_, one), (_, two) = (round_(fleet, PEERS[:n], window_s, expected) for n in (1, 2))
            rates.append(one)
            ratios.append(two / one)
        for _ in range(pairs):
            with up(fleet, PEERS):
                time.sleep(6)
                struck.append(asyncio.run(work(fleet, 2, window_s, expected, kill_at_s=window_s / 2))[0])
    figures = {
        "throughput_ratio": round(harness.percentile(ratios, 0.5), 3),
        "killed_lost": sum(each.lost for each in struck),
        "killed_twice": sum(each.twice for each in struck),
        "killed_different": sum(each.different for each in struck),
    }
    conditions = {
        "quota_cores_per_peer": QUOTA_CORES,
        "devices": NUM_DEVICES,
        "answer_tokens": NUM_TOKENS,
        "tokens_a_second_with_one": harness.spread(rates),
        "throughput_ratios": [round(ratio, 3) for ratio in ratios],
        "window_s": window_s,
        "killed": {
            "runs": len(struck),
            "answers": sum(each.answers for each in struck),
            "went_on_elsewhere": sum(each.handovers for each in struck),
        },
        "placement": "peers, broker and devices on one machine",
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("peers", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
