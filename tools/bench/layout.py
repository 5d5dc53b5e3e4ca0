"""What the stable layout saves: the second of two requests a minute apart, with a clock at the head of 3,000 tokens.

`measure(base_url, …)` works on any running daemon, for use in other benches. For each layout the same prompts are
sent in the same order; the first request is answered from an empty cache.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import harness

Json = dict[str, Any]
TARGET_CHARS = 7_050
"""About 3,000 tokens of SmolLM2's: these prompts have 2.35 characters a token."""
NUM_CHANGES = 6
QUESTION = "Which lamps in the kitchen are on?"
AREAS = ("kitchen", "hall", "office", "bedroom", "bathroom", "garage", "garden", "attic", "cellar", "nursery")
KINDS = {
    "light": ("lamp", ("on", "off")),
    "switch": ("socket", ("on", "off")),
    "cover": ("blind", ("open", "closed")),
    "lock": ("door lock", ("locked", "unlocked")),
    "binary_sensor": ("window contact", ("open", "closed")),
    "sensor": ("thermometer", tuple(f"{n / 10:.1f} °C" for n in range(170, 250))),
    "media_player": ("speaker", ("playing", "paused", "idle")),
}
SERVICES = (
    "turn_on(entity_id, brightness, colour)", "turn_off(entity_id)", "open(entity_id)", "close(entity_id)",
    "lock(entity_id)", "unlock(entity_id)", "play(entity_id, source, volume)", "pause(entity_id)",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Home:
    """A house at one minute; `states` are by entity id."""

    minute: int
    states: dict[str, str]

    @classmethod
    def made(cls, seed: int) -> "Home":
        draw, states = random.Random(seed), dict[str, str]()
        home, number = cls(602, states), 1
        while len(home.prompt()) < TARGET_CHARS:
            for area in AREAS:
                kind = draw.choice(list(KINDS))
                states[f"{kind}.{area}_{number}"] = draw.choice(KINDS[kind][1])
            number += 1
        return home

    def later(self, changing: Sequence[str], seed: int) -> "Home":
        """A minute later, the entities `changing` in another state."""
        draw, states = random.Random(seed), dict(self.states)
        for entity in changing:
            others = [state for state in KINDS[entity.partition(".")[0]][1] if state != states[entity]]
            states[entity] = draw.choice(others)
        return replace(self, minute=self.minute + 1, states=states)

    def prompt(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"Current time: 2026-11-24 {self.minute // 60:02}:{self.minute % 60:02}"
        yield "You look after a house and answer questions about it in one short sentence."
        yield f"Areas: {', '.join(AREAS)}"
        yield "\nServices:"
        yield from (f"- {service}" for service in SERVICES)
        yield "\nDevices:\nentity_id,name,state"
        for entity, state in self.states.items():
            kind, _, place = entity.partition(".")
            yield f"{entity},{place.replace('_', ' ')} {KINDS[kind][0]},{state}"


def ask(base_url: str, system: str, layout: str, model: str = harness.CHAT_MODEL) -> harness.Streamed:
    """One streamed question."""
    body = {
        "model": model,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": QUESTION}],
        "max_tokens": 8,
        "temperature": 0,
        "edgeagent": {"plan": "local", "reduce": "L0", "memory": False, "layout": layout},
    }
    return harness.stream(base_url, body)


def measure(base_url: str, *, seeds: Sequence[int] = range(5), changes: int = 0) -> tuple[Json, Json]:
    """Figures and conditions. For each seed one house at four minutes, the first of them unknown to the daemon.

    `changes` entities change their state each minute, besides the clock, always the same ones.
    `stable_prefix_speedup` is the median over the seeds of the time to the first word of the second request, as given
    to stable; `settled_speedup` takes the fourth, when the layout has seen what changes. As given, no request profits
    from those before it, so two are enough.
    """
    given, stable = [], []
    for seed in seeds:
        homes = [Home.made(seed)]
        changing = random.Random(seed).sample(sorted(homes[0].states), changes)
        for step in range(3):
            homes.append(homes[-1].later(changing, 100 * seed + step))
        given.append([ask(base_url, home.prompt(), "as_given") for home in homes[:2]])
        stable.append([ask(base_url, home.prompt(), "stable") for home in homes])
        for name, runs in (("as given", given), ("stable", stable)):
            harness.progress(f"seed {seed}, {name}: " + ", ".join(f"{a.ttft_s:.3f} s" for a in runs[-1]))
    ratios = {
        name: [one[1].ttft_s / other[at].ttft_s for one, other in zip(given, stable, strict=True)]
        for name, at in (("stable_prefix_speedup", 1), ("settled_speedup", 3))
    }
    figures = {name: round(harness.percentile(values, 0.5), 2) for name, values in ratios.items()}
    last = stable[-1][-1]
    conditions = {
        "prompt_tokens": last.usage["prompt_tokens"],
        "changes_a_minute": changes,
        "moved": last.report["reduction"]["layout"],
        "spread": {name: harness.spread(values) for name, values in ratios.items()},
        "second_ttft_s": {
            "as_given": harness.spread([run[1].ttft_s for run in given]),
            "stable": harness.spread([run[1].ttft_s for run in stable]),
        },
        "reused_tokens": {
            "as_given": given[-1][1].report["reused_tokens"],
            "stable": stable[-1][1].report["reused_tokens"],
        },
    }
    return figures, conditions


def main() -> None:
    options = harness.options(__doc__)
    started, port = time.monotonic(), harness.free_port()
    env = harness.state_env() | {"EDGEAGENT__HTTP__PORT": str(port)}
    seeds = range(1) if options.quick else range(5)
    with harness.running(harness.edgeagent(["serve"], env, "daemon ready")):
        url = f"http://127.0.0.1:{port}"
        ask(url, "You are kind.", "as_given")  # loads the model
        clock, conditions = measure(url, seeds=seeds)
        states, with_changes = measure(url, seeds=seeds, changes=NUM_CHANGES)
    figures = clock | {f"{name}_with_changes": value for name, value in states.items()}
    conditions |= {"with_changes": with_changes, "seeds": list(seeds), "took_s": round(time.monotonic() - started, 1)}
    harness.publish(Path(__file__).stem, figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()
