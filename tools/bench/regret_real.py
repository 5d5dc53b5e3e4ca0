"""Cases of bench `regret` run for real, with daemon, peer and broker as processes: how far is the replay off?"""

import contextlib
import itertools
import math
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import bad_link
import harness
import psutil
import quota
from regret_measure import BESIDE_TOKENS, OWN, PERIOD_S, pin
from regret_world import Case, World

from edgeagent.core.plan import Candidate
from tools.chaos_link import PERFECT, Shape

LINKS = ((3.0, 0.05), (12.0, 0.05), (50.0, 0.02))
PLANS = ("local", "remote", "prefill", "split-prefill", "split-decode")
SENTENCES = {200: 13, 500: 35}
OUTPUT_TOKENS = 24
DRAIN_S = 0.5
SENTENCE = "The keeper of the old lighthouse wrote down the weather every evening. "


@dataclass(frozen=True, slots=True)
class Wanted:
    """One real run."""

    share: float
    mbit_s: float
    rtt_s: float
    sentences: int
    plan: str
    num_beside: int


def wanted(*, is_quick: bool) -> list[Wanted]:
    """Every plan on every link, prompt and load in turns: 20, or 5."""
    shares = itertools.cycle((1.0, 0.4))
    links = itertools.cycle(LINKS)
    sizes = itertools.cycle(SENTENCES.values())
    count = len(PLANS) if is_quick else 4 * len(PLANS)
    return [
        Wanted(next(shares), *next(links), next(sizes), PLANS[number % len(PLANS)], number // len(PLANS) % 2)
        for number in range(count)
    ]


@dataclass(slots=True)
class Real:
    """A daemon at the end of a link, and a peer."""

    client: harness.Client
    link: bad_link.BadLink
    pids: list[int]
    number: int = 0

    def run(self, want: Wanted) -> harness.Json:
        """The answer's report, with `prompt_tokens` and `output_tokens`."""
        self.link.set(PERFECT)
        time.sleep(DRAIN_S)
        harness.wait_for_peer(self.client)
        self.link.set(Shape(want.mbit_s, want.mbit_s, want.rtt_s))
        if want.plan != "local":
            self._ask("prefill", SENTENCES[200])  # both ends know the link then, and have cut what is split
            self._ask(want.plan, 3)
        with self._held(want.share):
            answer = self._ask(want.plan, want.sentences)
        report, usage = answer.report, answer.usage
        return report | {"prompt_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}

    def _ask(self, plan: str, sentences: int) -> harness.Streamed:
        self.number += 1
        text = f"{self.number}. {SENTENCE * sentences}Write a long story about it."
        body: harness.Json = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": OUTPUT_TOKENS,
            "temperature": 0.0,
            "edgeagent": {"plan": plan, "memory": False, "reduce": "L0"},
        }
        return harness.stream(f"http://127.0.0.1:{self.client.port}", body)

    @contextlib.contextmanager
    def _held(self, share: float) -> Iterator[None]:
        if share >= 1 or not quota.is_available():
            yield
            return
        with quota.limited(self.pids, share, PERIOD_S):
            yield


def compare(world: World, *, is_quick: bool) -> harness.Json:
    """How far the replay is from what was measured: medians of the errors, and each run."""
    runs: list[harness.Json] = []
    with _real() as (real, other):
        for want in wanted(is_quick=is_quick):
            if want.share < 1 and not quota.is_available():
                continue
            with _answering_beside(other, want.num_beside):
                try:
                    report = real.run(want)
                except RuntimeError as error:
                    harness.progress(f"not counted: {want}: {error}")
                    continue
            if report["plan"] == want.plan and not report["handover"]:
                runs.append(_compared(world, want, report))
                harness.progress(f"real: {runs[-1]}")
    totals = [abs(run["replayed_total_s"] / run["total_s"] - 1) for run in runs]
    ttfts = [abs(run["replayed_ttft_s"] / run["ttft_s"] - 1) for run in runs]
    return {
        "runs": len(runs),
        "total_error_median": round(statistics.median(totals), 4),
        "total_error_max": round(max(totals), 4),
        "ttft_error_median": round(statistics.median(ttfts), 4),
        "ttft_error_max": round(max(ttfts), 4),
        "each": runs,
    }


def _compared(world: World, want: Wanted, report: harness.Json) -> harness.Json:
    case = Case(want.share, want.mbit_s, want.rtt_s, report["prompt_tokens"], report["output_tokens"], want.num_beside)
    chosen = Candidate.model_validate(report["decision"]["chosen"])
    ran, measured = world.run(case, chosen), report["measured"]
    total_s = measured["ttft_s"] + (measured["tpot_s"] or 0.0) * (report["output_tokens"] - 1)
    return {
        "plan": want.plan,
        "k": report["k"],
        "share": want.share,
        "link": f"{want.mbit_s:g} Mbit/s, {1000 * want.rtt_s:g} ms",
        "beside": want.num_beside,
        "prompt_tokens": report["prompt_tokens"],
        "ttft_s": round(measured["ttft_s"], 3),
        "replayed_ttft_s": round(ran.ttft_s or math.nan, 3),
        "total_s": round(total_s, 3),
        "replayed_total_s": round(ran.total_s or math.nan, 3),
    }


@contextlib.contextmanager
def _real() -> Iterator[tuple[Real, harness.Client]]:
    """The device under test behind a link, on one core; the peer on the other, without.

    So is another device, on the first core: what it does for tokens that come is not the peer's work.
    """
    cores, env = harness.cores(), harness.state_env() | harness.UNGOVERNED | OWN
    ports = harness.free_port(), harness.free_port()
    with harness.broker() as (_, url), bad_link.bad_link(int(url.rpartition(":")[2])) as link:
        there = env | {"EDGEAGENT__MQTT__URL": url, "EDGEAGENT__MQTT__DEVICE_ID": "bench-peer"}
        here, beside = (
            env | {"EDGEAGENT__MQTT__URL": at, "EDGEAGENT__MQTT__DEVICE_ID": name, "EDGEAGENT__HTTP__PORT": str(port)}
            for at, name, port in zip((link.url, url), ("bench-edge", "bench-other"), ports, strict=True)
        )
        peer = harness.edgeagent(["peer"], there, "peer ready")
        edge, other = (harness.edgeagent(["serve"], each, "daemon ready") for each in (here, beside))
        with harness.running(peer), harness.running(edge), harness.running(other):
            clients = [harness.Client(port) for port in ports]
            for client in clients:
                harness.wait_for_peer(client)
                client.ask("Say yes.", "local", max_tokens=2)
            pin(_pids(peer), cores[-1])
            for program in (edge, other):
                pin(_pids(program), cores[0])
            yield Real(clients[0], link, _pids(edge)), clients[1]


def _pids(program: harness.Program) -> list[int]:
    assert program.process is not None
    parent = psutil.Process(program.process.pid)
    return [parent.pid, *(child.pid for child in parent.children(recursive=True))]


@contextlib.contextmanager
def _answering_beside(other: harness.Client, num_beside: int) -> Iterator[None]:
    """The other device has the peer write one answer after the other."""
    over = threading.Event()

    def ask() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            other.ask(f"{number}. Tell me a long story about the sea.", "remote", max_tokens=BESIDE_TOKENS)

    threads = [threading.Thread(target=ask, name="beside", daemon=True) for _ in range(num_beside)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1.0 if threads else 0.0)
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
