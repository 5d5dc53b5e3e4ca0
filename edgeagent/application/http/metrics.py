"""`/metrics`: how much there is to do, here and at each peer, in Prometheus' text format (version 0.0.4)."""

from collections.abc import Iterator, Sequence

from edgeagent.application.backend import Load, PeerFacts

CONTENT_TYPE = "text/plain; version=0.0.4"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Sample = tuple[dict[str, str], float]


def metrics(load: Load, peers: Sequence[PeerFacts]) -> str:
    families: list[tuple[str, str, list[Sample]]] = [
        ("edgeagent_turns_running", "Turns at the engines of this machine.", [({}, load.running)]),
        ("edgeagent_turns_waiting", "Turns that wait for them.", [({}, load.waiting)]),
        ("edgeagent_peer_up", "1: online and not left alone after a failure.",
         [(_of(p), float(p.state == "online" and not p.is_broken)) for p in peers]),
        ("edgeagent_peer_queue", "Jobs under way at a peer, or waiting there.", [(_of(p), p.queue) for p in peers]),
        ("edgeagent_peer_capacity", "Jobs that a peer takes at once.",
         [(_of(p), p.capacity) for p in peers if p.capacity is not None]),
        ("edgeagent_peer_wait_seconds", "Until a peer would have done all that it has to do, as it predicts.",
         [(_of(p), p.wait_s) for p in peers if p.wait_s is not None]),
    ]  # fmt: skip
    return "".join(line for family in families for line in _lines(*family))


def _lines(name: str, told: str, samples: Sequence[Sample]) -> Iterator[str]:
    if samples:
        yield f"# HELP {name} {told}\n# TYPE {name} gauge\n"
    for labels, value in samples:
        inside = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels.items())
        yield f"{name}{{{inside}}} {value:g}\n" if inside else f"{name} {value:g}\n"


def _of(peer: PeerFacts) -> dict[str, str]:
    return {"peer": peer.id}
