"""`edgeagent plan`: what the planner would choose for a request of some size, and the whole table."""

import click

from edgeagent.cli.options import json_option, print_json, run, with_settings
from edgeagent.core.plan import Candidate, Decision, PlanQuery
from edgeagent.settings import Settings

positive = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option("--prompt-tokens", type=click.IntRange(min=1), required=True, metavar="N")
@click.option("--max-tokens", type=click.IntRange(min=1), required=True, metavar="M")
@click.option("--link-mbit-s", type=positive, metavar="X", help="Suppose a link of this goodput.")
@click.option("--rtt-ms", type=click.FloatRange(min=0), metavar="Y", help="Suppose this round-trip time.")
@click.option("--peer-tok-s", type=positive, metavar="Z", help="Suppose a peer that prefills this fast.")
@click.option("--policy", type=click.Choice(["latency", "energy", "quality"]), metavar="P", help="What to optimise.")
@json_option
@with_settings
def plan(
    settings: Settings,
    prompt_tokens: int,
    max_tokens: int,
    link_mbit_s: float | None,
    rtt_ms: float | None,
    peer_tok_s: float | None,
    policy: str | None,
    as_json: bool,
) -> None:
    """Price every way to run a request, from this machine's measured rates."""
    query = PlanQuery.model_validate(
        {
            "prompt_tokens": prompt_tokens,
            "max_tokens": max_tokens,
            "link_mbit_s": link_mbit_s,
            "rtt_ms": rtt_ms,
            "peer_tok_s": peer_tok_s,
            "policy": policy,
        }
    )
    decision = run(_plan(settings, query))
    if as_json:
        print_json(decision.model_dump(mode="json"))
        return
    click.echo(f"{decision.chosen.plan}: {decision.why}")
    click.echo("\n".join(table(decision)))


async def _plan(settings: Settings, query: PlanQuery) -> Decision:
    from edgeagent.daemon import open_house

    async with open_house(settings, role="plan") as house:
        return await house.plan(query)


def table(decision: Decision) -> list[str]:
    """One line a candidate."""
    head = f"{'plan':8} {'peer':14} {'variant':8} {'first':>9} {'all':>9} {'up':>12} {'down':>12}  verdict"
    return [head, *(_row(candidate, decision) for candidate in decision.candidates)]


def _row(candidate: Candidate, decision: Decision) -> str:
    verdict = candidate.rejected or ("chosen" if candidate == decision.chosen else "possible")
    if candidate.stages:
        verdict += f" (layers {', '.join(map(str, candidate.stages))})"
    times = f"{candidate.ttft_s:7.2f} s {candidate.total_s:7.2f} s"
    traffic = f"{candidate.up_bytes:10,} B {candidate.down_bytes:10,} B"
    return (
        f"{candidate.plan:8} {'+'.join(candidate.peers) or '-':14} {candidate.variant:8} {times} {traffic}  {verdict}"
    )
