"""What a user or an agent learns: facts that may change, procedures that worked, what was tried and how it went."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.memory.records import topic_of
from edgeagent.core.errors import NotFoundError, RequestError
from edgeagent.core.memory import MemoryHit, MemoryItem, Record

MAX_NAME_CHARS = 200
SEARCHED = 4
"""So many times as many memories are looked at as experiences are wanted: other kinds come between."""


@dataclass(frozen=True, slots=True)
class Learning:
    """Records in a memory. All methods raise what `Memory` raises, and RequestError for an empty or endless name."""

    memory: Memory

    async def fact(self, user: str, subject: str, relation: str, value: str, source: str = "") -> str:
        """Its id. What was known of the subject by the same relation stays as history, and is not recalled any more."""
        names = _checked(subject), _checked(relation)
        record = self._record(topic_of("fact", *names), _checked(value))
        return await self.memory.add_record(user, "fact", f"{' '.join(names)} {record.body}", record, source)

    async def facts(self, user: str, subject: str, relation: str) -> tuple[MemoryItem, ...]:
        """What was and is known, the oldest first; the one that holds has no `valid_until`."""
        return await self.memory.history(user, topic_of("fact", subject, relation))

    async def skill(self, user: str, name: str, purpose: str, steps: Sequence[str], source: str = "") -> str:
        """The id of a procedure that worked. It replaces an earlier one of that name."""
        if not steps:
            raise RequestError(f"skill '{name}' has no steps; give at least one")
        record = self._record(topic_of("skill", _checked(name)), "\n".join(" ".join(step.split()) for step in steps))
        numbered = "\n".join(f"{i}. {step}" for i, step in enumerate(record.body.split("\n"), start=1))
        return await self.memory.add_record(
            user, "skill", f"{name.strip()}: {purpose.strip()}\n{numbered}", record, source
        )

    async def procedure(self, user: str, name: str) -> MemoryItem:
        """The skill of that name as it holds now; its steps are the lines of its record's body."""
        known = await self.memory.history(user, topic_of("skill", name))
        for item in known:
            if item.record and item.record.valid_until is None:
                return item
        raise NotFoundError(f"user '{user}' has no skill '{name}'; search for what it does")

    async def experience(self, user: str, situation: str, action: str, outcome: str, source: str = "") -> str:
        """The id of what was done and how it went. Judgements give it its worth."""
        record = self._record(topic_of("experience", situation, action, outcome), _checked(action))
        text = f"{_checked(situation)}: {record.body}. {_checked(outcome)}"
        return await self.memory.add_record(user, "experience", text, record, source)

    async def experiences(self, user: str, situation: str, k: int = 3) -> list[MemoryHit]:
        """What was tried in such a situation, best first: nearness, doubled or nullified by its worth."""
        hits = await self.memory.search(user, situation, SEARCHED * k)
        weighed = [
            hit.model_copy(update={"score": hit.score * (1 + hit.item.record.worth) / 2})
            for hit in hits
            if hit.item.kind == "experience" and hit.item.record
        ]
        return sorted(weighed, key=lambda hit: -hit.score)[:k]

    def _record(self, topic: str, body: str) -> Record:
        return Record(topic=topic, body=body, valid_from=self.memory.now())


def _checked(name: str) -> str:
    if not (plain := " ".join(name.split())) or len(plain) > MAX_NAME_CHARS:
        raise RequestError(f"'{plain[:20]}' has {len(plain)} characters; use 1 to {MAX_NAME_CHARS}")
    return plain
