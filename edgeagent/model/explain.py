"""Says in one sentence, with figures, why a variant was chosen. Pure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeagent.model.forecast import PROMPT_TOKENS, Speed
from edgeagent.model.limits import Limits

if TYPE_CHECKING:
    from edgeagent.model.select import Choice, Row


def megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.{0 if num_bytes >= 1e9 else 1}f} MB"


def latency_fault(speed: Speed | None, limits: Limits) -> str | None:
    """Which target is missed; None when both are reached, or nothing is known of the speed."""
    if speed is None:
        return None
    if speed.ttft_s is not None and speed.ttft_s > limits.ttft_s:
        late = f"{speed.ttft_s:.1f} s after {PROMPT_TOKENS} tokens ({speed.basis})"
        return f"its first token comes {late}, {limits.ttft_s:g} s are asked for"
    if speed.tpot_s is not None and speed.tpot_s > limits.tpot_s:
        return f"a token takes {speed.tpot_s:.2f} s ({speed.basis}), {limits.tpot_s:g} s are asked for"
    return None


def why(choice: "Choice", table: Sequence["Row"], limits: Limits) -> str:
    """The sentence. It names the best variant that was passed over, and what spoke against it."""
    row = next(r for r in table if r.variant == choice.variant)
    return f"{_merit(row, table, limits)}: {_figures(choice, row, limits)}{_passed_over(row, table)}"


def _merit(row: "Row", table: Sequence["Row"], limits: Limits) -> str:
    count = f"of {len(table)} variants" if len(table) > 1 else "the only one to choose from"
    if limits.objective == "quality" or row.speed is None:
        return f"{count}, {row.variant} has the best quality that fits"
    if "latency" in row.faults:
        return f"{count}, none that fits reaches the targets ({_targets(limits)}); {row.variant} is the fastest"
    if limits.objective == "energy" and row.energy_j is not None:
        return f"{count}, {row.variant} takes the least energy that fits and reaches the targets ({_targets(limits)})"
    return f"{count}, {row.variant} has the best quality that fits and reaches the targets ({_targets(limits)})"


def _targets(limits: Limits) -> str:
    return f"first token within {limits.ttft_s:g} s after {PROMPT_TOKENS} tokens, then {1 / limits.tpot_s:g} a second"


def _figures(choice: "Choice", row: "Row", limits: Limits) -> str:
    quality = f"perplexity {row.perplexity:g}" if row.perplexity is not None else "quality by file type, not measured"
    memory = f"{megabytes(choice.memory_bytes)} of {megabytes(limits.memory_bytes)}"
    context = f"{choice.context_tokens} tokens of {choice.kv_type} cache"
    energy = f", {row.energy_j:.0f} J an answer" if row.energy_j is not None else ""
    return f"{quality}, {memory} with {context}, {choice.option.placement.text}, {speed_text(row.speed)}{energy}"


def speed_text(speed: Speed | None) -> str:
    parts = []
    if speed and speed.ttft_s is not None:
        parts.append(f"first token after {speed.ttft_s:.1f} s")
    if speed and speed.decode_tok_s is not None:
        parts.append(f"{speed.decode_tok_s:.1f} tokens a second")
    if not speed or not parts:
        return "speed not measured yet"
    threads = f" on {speed.threads} thread{'s' if speed.threads > 1 else ''}" if speed.threads else ""
    return f"{' and '.join(parts)} ({speed.basis}{threads})"


def _passed_over(row: "Row", table: Sequence["Row"]) -> str:
    better = min((r for r in table if r.rank < row.rank), key=lambda r: r.rank, default=None)
    if better is None:
        return ""
    reason = better.rejected or "it takes more energy"
    return f"; not {better.variant}: {reason}"
