"""What the daemon costs while nobody asks: memory, CPU, wake-ups, and how fast it is there."""

import subprocess
import sys
import time
from pathlib import Path

import harness
import psutil

WINDOW_S, QUICK_WINDOW_S = 60.0, 10.0
VERSION_RUNS = 15
READY_RUNS = 5


def switches(pid: int) -> int:
    """Context switches of all threads so far: each wake-up is one."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        total += sum(int(line.split(":")[1]) for line in lines if "ctxt_switches" in line)
    return total


def watch(env: dict[str, str], window_s: float) -> tuple[harness.Json, float]:
    port = harness.free_port()
    client = harness.Client(port)
    program = harness.Program([sys.executable, "-m", "edgeagent", "serve"], env | {"EDGEAGENT__HTTP__PORT": str(port)})
    started = time.monotonic()
    with harness.running(program):
        while not client.ready():
            time.sleep(0.005)
        ready_s = time.monotonic() - started
        assert program.process is not None
        process = psutil.Process(program.process.pid)
        if not window_s:
            return {}, ready_s
        time.sleep(3)
        cpu, woken = sum(process.cpu_times()[:2]), switches(process.pid)
        time.sleep(window_s)
        cpu, woken = sum(process.cpu_times()[:2]) - cpu, switches(process.pid) - woken
        rss = process.memory_info().rss / 1e6
        facts = {"rss_mb": rss, "cpu_percent": 100 * cpu / window_s, "wakeups_s": woken / window_s}
        return {key: round(value, 3) for key, value in facts.items()}, ready_s


def version_ms() -> list[float]:
    times = []
    for _ in range(VERSION_RUNS + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "edgeagent", "--version"], check=True, stdout=subprocess.DEVNULL)
        times.append(1e3 * (time.perf_counter() - started))
    return times[1:]


def main() -> None:
    options = harness.options(__doc__)
    env = harness.state_env()
    window_s = QUICK_WINDOW_S if options.quick else WINDOW_S
    started = time.monotonic()
    harness.progress(f"watching an idle daemon for {window_s:g} s, without and with a broker")
    alone, first = watch(env, window_s)
    with harness.broker() as (_, url):
        connected, _ = watch(env | {"EDGEAGENT__MQTT__URL": url}, window_s)
    ready = [first, *(watch(env, 0)[1] for _ in range(READY_RUNS - 1))]
    versions = version_ms()
    figures = alone | {
        "ready_s": round(harness.percentile(ready, 0.5), 3),
        "version_ms": round(harness.percentile(versions, 0.5), 1),
    }
    conditions = {
        "window_s": window_s,
        "with_broker": connected,
        "ready_s": harness.spread(ready),
        "version_ms": harness.spread(versions),
        "model_loaded": False,
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("idle", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
