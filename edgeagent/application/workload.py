"""What a peer has to do: predicted seconds of its engine, job by job. `now` gives monotonic seconds.

Jobs share the engine as equals, so each is taken to get its part of the time that passes (processor sharing): a new
one of `s` seconds ends when it, and of each other at most as much, was done.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edgeagent.execution.offering import NUM_COPIES
from edgeagent.resource.cost import EXPECTED_TOKENS, TEXT_BYTES_PER_TOKEN, TOKEN_ID_BYTES
from edgeagent.wire.messages import LEASE_S, OfferedModel, Open

LEAST_PART = 0.05
"""Of a job that was predicted to be over and is not: so much of it is taken to be left."""


@dataclass(eq=False, slots=True)
class Share:
    """One job: `device` whose it is, how long it takes alone, how much of that is left."""

    device: str
    needs_s: float
    left_s: float
    until_s: float | None = None
    """A place that is only kept, and for how long; None: a job."""

    @property
    def weight(self) -> float:
        """How likely it is to be work: of the peers that claim a job, one gets it."""
        return 1.0 if self.until_s is None else 1 / NUM_COPIES


class Workload:
    """Of at most `capacity` jobs, with the places that are kept for those who were told of one."""

    def __init__(self, capacity: int, now: Callable[[], float]) -> None:
        self.capacity = capacity
        self._now = now
        self._shares: list[Share] = []
        self._at_s = now()

    @property
    def is_full(self) -> bool:
        self._advance()
        return len(self._shares) >= self.capacity

    @property
    def num_jobs(self) -> int:
        return sum(share.until_s is None for share in self._shares)

    def num_kept(self, device: str) -> int:
        """Places that are kept for a device."""
        self._advance()
        return sum(share.device == device and share.until_s is not None for share in self._shares)

    @property
    def ahead_s(self) -> float:
        """Until all that is here would be done."""
        self._advance()
        return sum(share.weight * share.left_s for share in self._shares)

    def finish_s(self, needs_s: float) -> float:
        """Until one job more, of so many seconds, would be done."""
        self._advance()
        return needs_s + sum(share.weight * min(share.left_s, needs_s) for share in self._shares)

    def keep_place(self, device: str, needs_s: float) -> None:
        """For a lease; the device's next job takes it."""
        self._advance()
        self._shares.append(Share(device, needs_s, needs_s, self._at_s + LEASE_S))

    def begin(self, device: str, needs_s: float) -> Share:
        self._advance()
        kept = next((s for s in self._shares if s.device == device and s.until_s is not None), None)
        if kept is not None:
            self._shares.remove(kept)
        share = Share(device, needs_s, needs_s)
        self._shares.append(share)
        return share

    def end(self, share: Share) -> None:
        self._advance()
        self._shares.remove(share)

    def _advance(self) -> None:
        now_s = self._now()
        working = [share for share in self._shares if share.until_s is None]
        for share in working:
            share.left_s = max(share.left_s - (now_s - self._at_s) / len(working), share.needs_s * LEAST_PART)
        self._shares = [share for share in self._shares if share.until_s is None or share.until_s > now_s]
        self._at_s = now_s


def needs_s(model: OfferedModel, prompt_tokens: float, answer_tokens: float) -> float:
    """What a job takes of an engine that does nothing else."""
    return prompt_tokens / model.prefill_tok_s + min(answer_tokens, EXPECTED_TOKENS) / model.decode_tok_s


def needs_of(model: OfferedModel, job: Open) -> float:
    """The same of a job whose prompt has not come yet."""
    per_token = TOKEN_ID_BYTES if job.prompt_form == "tokens" else TEXT_BYTES_PER_TOKEN
    return needs_s(model, job.prompt_tokens or job.prompt_bytes / per_token, job.max_tokens)
