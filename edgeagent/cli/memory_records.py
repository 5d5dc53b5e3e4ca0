"""`edgeagent memory fact`, `skill`, `experience`, `judge`: what was learned, and what it proved to be worth."""

import click

from edgeagent.agent.memory.learning import Learning
from edgeagent.cli.remembering import as_json_option, date_of, line, print_facts, user_option, with_memory
from edgeagent.core.memory import MemoryItem


@click.command()
@click.argument("subject")
@click.argument("relation")
@click.argument("value", required=False)
@click.option("--source", default="", metavar="S", help="Where this is known from.")
@user_option
@as_json_option
def fact(subject: str, relation: str, value: str | None, source: str, user: str | None, as_json: bool) -> None:
    """Remember that SUBJECT RELATION VALUE holds from now on; without VALUE show what held when.

    A new value supersedes the former one, which stays as history and is not recalled any more.
    """
    if value is None:
        known, user = with_memory(user, lambda store, user: Learning(store).facts(user, subject, relation))
        facts = {"user": user, "facts": [item.model_dump() for item in known]}
        print_facts(facts, as_json, "\n".join(map(_held, known)) or "nothing is known")
        return
    id_, user = with_memory(user, lambda store, user: Learning(store).fact(user, subject, relation, value, source))
    print_facts({"user": user, "id": id_}, as_json, f"remembered as {id_}")


@click.command()
@click.argument("name")
@click.option("--purpose", metavar="P", help="When it is of use.")
@click.option("--step", "steps", multiple=True, metavar="S", help="One step; give as many as there are.")
@click.option("--source", default="", metavar="S", help="Where this is known from.")
@user_option
@as_json_option
def skill(name: str, purpose: str | None, steps: tuple[str, ...], source: str, user: str | None, as_json: bool) -> None:
    """Remember the steps of a procedure that worked; without --step show them."""
    if (purpose is None) != (not steps):
        raise click.UsageError("give both --purpose and --step, or neither")
    if purpose is None:
        item, user = with_memory(user, lambda store, user: Learning(store).procedure(user, name))
        print_facts({"user": user, "skill": item.model_dump()}, as_json, item.text)
        return
    id_, user = with_memory(user, lambda store, user: Learning(store).skill(user, name, purpose, steps, source))
    print_facts({"user": user, "id": id_}, as_json, f"remembered as {id_}")


@click.command()
@click.argument("situation")
@click.option("--did", metavar="A", help="What was done.")
@click.option("--outcome", metavar="O", help="How it went.")
@user_option
@as_json_option
def experience(situation: str, did: str | None, outcome: str | None, user: str | None, as_json: bool) -> None:
    """Remember what was done in a SITUATION and how it went; without --did show what was tried before."""
    if (did is None) != (outcome is None):
        raise click.UsageError("give both --did and --outcome, or neither")
    if did is None or outcome is None:
        hits, user = with_memory(user, lambda store, user: Learning(store).experiences(user, situation))
        rows = [{"score": round(hit.score, 4), **hit.item.model_dump()} for hit in hits]
        lines = [f"{hit.score:.2f}  {line(hit.item)}" for hit in hits]
        print_facts({"user": user, "experiences": rows}, as_json, "\n".join(lines) or "nothing was tried")
        return
    id_, user = with_memory(user, lambda store, user: Learning(store).experience(user, situation, did, outcome))
    print_facts({"user": user, "id": id_}, as_json, f"remembered as {id_}")


@click.command()
@click.argument("memory_id", metavar="ID")
@click.argument("judgement", type=click.Choice(["good", "bad"]))
@user_option
@as_json_option
def judge(memory_id: str, judgement: str, user: str | None, as_json: bool) -> None:
    """Say whether a fact, skill or experience proved good; its worth is the mean, from -1 to 1."""
    worth, user = with_memory(user, lambda store, user: store.judge(user, memory_id, is_good=judgement == "good"))
    print_facts({"user": user, "id": memory_id, "worth": worth}, as_json, f"{memory_id} is worth {worth:.2f}")


def _held(item: MemoryItem) -> str:
    if item.record is None:
        return line(item)
    days = [date_of(at) for at in (item.record.valid_from, item.record.valid_until) if at is not None]
    until = days[1] if len(days) > 1 else "now       "
    return f"{item.id}  {days[0]} to {until}  {item.record.body}" + (f"  [{item.source}]" if item.source else "")


RECORD_COMMANDS = (fact, skill, experience, judge)
