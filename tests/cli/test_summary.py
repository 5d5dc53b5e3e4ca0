"""What is told of an answer's prompt: nothing that was left out or moved stays unsaid."""

from edgeagent.cli.summary import summary
from edgeagent.core.plan import AnswerReport, Dropped, MemoryReport, Moved, PlanKind, ReductionReport


def lines(reduction: ReductionReport, memory: MemoryReport | None = None) -> list[str]:
    report = AnswerReport(
        plan=PlanKind.LOCAL, model="m", variant="v", why="w", reduction=reduction, memory=memory or MemoryReport()
    )
    return summary(report.model_dump(by_alias=True, mode="json"))


def test_whole_prompt_is_told_as_such() -> None:
    told = lines(ReductionReport(tokens_in=27, tokens_kept=27))
    assert "reduction  L0: all 27 tokens kept" in told
    assert not any(line.startswith(("layout", "dropped", "earlier")) for line in told)


def test_lost_part_of_a_conversation_and_moved_lines_are_told() -> None:
    gone = Dropped(source="conversation", tokens=900, reason="the oldest 6 messages: no room")
    reduction = ReductionReport(
        tokens_in=1700, tokens_kept=800, dropped=(gone,), layout=Moved(lines=3, tokens=57), order=("b.txt", "a.txt")
    )
    told = lines(reduction, MemoryReport(earlier=("abc",)))
    assert "reduction  L0: 800 of 1700 tokens kept" in told
    assert "dropped    900 tokens of conversation: the oldest 6 messages: no room" in told
    assert "order      b.txt, a.txt: what matters most stands next to the question" in told
    assert "layout     3 changing lines (57 tokens) read last" in told
    assert "earlier    abc, in front of an earlier question" in told


def test_report_of_an_older_daemon_is_told_as_far_as_it_goes() -> None:
    report = AnswerReport(plan=PlanKind.LOCAL, model="m", variant="v", why="w").model_dump(by_alias=True, mode="json")
    del report["reduction"]["layout"], report["memory"]["earlier"]
    assert "reduction  L0: all 0 tokens kept" in summary(report)
