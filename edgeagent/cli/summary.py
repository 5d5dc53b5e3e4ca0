"""Says in a few lines what happened for an answer: for people, on stderr."""

from typing import Any


def summary(report: dict[str, Any]) -> list[str]:
    """Plan and why, model, reduction, memories, handovers, predicted against measured."""
    where = f" with peer {report['peer']}" if report["peer"] else ""
    lines = [f"plan       {report['plan']}{where}", f"why        {report['why']}"]
    lines.append(f"model      {report['model']} {report['variant']}, seed {report['seed']}")
    lines += _reduction(report["reduction"])
    lines += [f"recalled   {item['id']} (score {item['score']:.2f})" for item in report["memory"]["recalled"]]
    lines += [f"earlier    {id_}, in front of an earlier question" for id_ in report["memory"].get("earlier", ())]
    lines += [f"written    {id_}" for id_ in report["memory"]["written"]]
    lines += [
        f"handover   at token {h['at_token']} from {h['from']} to {h['to']}: {h['reason']}" for h in report["handover"]
    ]
    lines += [f"note       {note}" for note in report["notes"]]
    predicted, measured = report["predicted"], report["measured"]
    if measured["ttft_s"] is not None:
        guess = "" if predicted["ttft_s"] is None else f" (predicted {predicted['ttft_s']:.2f} s)"
        lines.append(f"prepared   {report['prepare_s']:.2f} s (loading, recalling, deciding on tools, reducing)")
        lines.append(f"first token {measured['ttft_s']:.2f} s after the plan{guess}")
    if measured["tpot_s"]:
        ahead = f" ({report['accepted_tokens']} tokens guessed ahead)" if report["accepted_tokens"] else ""
        lines.append(f"then       {1 / measured['tpot_s']:.0f} tokens a second{ahead}")
    if report["peer"]:
        fetched = f", {report['kv_tokens']} prompt tokens' cache from the peer" if report["kv_tokens"] else ""
        lines.append(f"traffic    {measured['up_bytes']:,} bytes up, {measured['down_bytes']:,} bytes down{fetched}")
    return lines


def _reduction(reduction: dict[str, Any]) -> list[str]:
    moved = reduction.get("layout")
    layout = [f"layout     {moved['lines']} changing lines ({moved['tokens']} tokens) read last"] if moved else []
    return _kept(reduction) + layout


def _kept(reduction: dict[str, Any]) -> list[str]:
    if not reduction["dropped"]:
        return [f"reduction  {reduction['level']}: all {reduction['tokens_in']} tokens kept"]
    lines = [f"reduction  {reduction['level']}: {reduction['tokens_kept']} of {reduction['tokens_in']} tokens kept"]
    lines += [f"dropped    {d['tokens']} tokens of {d['source']}: {d['reason']}" for d in reduction["dropped"]]
    if reduction["order"]:
        lines.append(f"order      {', '.join(reduction['order'])}: what matters most stands next to the question")
    return lines
