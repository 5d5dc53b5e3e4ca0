"""What is known of one answer while it is made, and the report it becomes."""

from dataclasses import dataclass, field

from edgeagent.agent.drafting import Draft
from edgeagent.core.generation import Adapter
from edgeagent.core.plan import AnswerReport, Costs, Decision, Handover, MemoryReport
from edgeagent.execution.executors import PeerModel, Traffic


@dataclass(slots=True)
class Tally:
    """`model` and `variant` are whose words these are; they change at a marked switch. Times are monotonic."""

    started_at: float
    planned_at: float
    decision: Decision
    draft: Draft
    memory: MemoryReport
    max_tokens: int
    seed: int
    target: PeerModel | None
    model: str
    variant: str
    adapter: Adapter | None = None
    limit_note: str | None = None
    """What to tell when the answer reaches its limit."""
    notes: list[str] = field(default_factory=list)
    """What the caller should know of how this answer was made, besides what its executors note."""
    traffic: Traffic = field(default_factory=Traffic)
    handovers: list[Handover] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return len(self.token_times)

    def report(self) -> AnswerReport:
        chosen, traffic = self.decision.chosen, self.traffic
        predicted = Costs(
            ttft_s=chosen.ttft_s,
            tpot_s=chosen.tpot_s,
            up_bytes=chosen.up_bytes,
            down_bytes=chosen.down_bytes,
            energy_j=chosen.energy_j,
        )
        return AnswerReport(
            plan=chosen.plan,
            model=self.model,
            variant=self.variant,
            adapter=self.adapter.name if self.adapter else None,
            peer=traffic.peer or chosen.peer,
            why=self.decision.why,
            k=chosen.k,
            stages=chosen.stages,
            wire=chosen.wire,
            wire_bits=chosen.wire_bits,
            wire_kl=chosen.wire_kl,
            seed=self.seed,
            reduction=self.draft.report,
            memory=self.memory,
            handover=tuple(self.handovers),
            predicted=predicted,
            measured=self._measured(),
            prepare_s=self.planned_at - self.started_at,
            kv_tokens=traffic.kv_tokens,
            peer_tokens=min(traffic.peer_tokens, self.num_tokens),
            reused_tokens=traffic.reused_tokens,
            drafted_tokens=traffic.drafted_tokens,
            accepted_tokens=traffic.accepted_tokens,
            notes=(*self.notes, *traffic.notes),
            decision=self.decision,
        )

    def _measured(self) -> Costs:
        times = self.token_times
        return Costs(
            ttft_s=times[0] - self.planned_at if times else None,
            tpot_s=(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None,
            up_bytes=self.traffic.up_bytes,
            down_bytes=self.traffic.down_bytes,
        )
