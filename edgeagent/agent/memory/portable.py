"""Memories as JSON lines: a header, then one memory a line. Vectors are left out; an import makes them anew."""

import json
from collections.abc import AsyncIterator, Iterable, Iterator

from pydantic import ValidationError

from edgeagent.core.errors import RequestError
from edgeagent.core.memory import MemoryItem

VERSION = 3
"""Version 1 had no records, version 2 no summaries of conversations."""
HEADER = f'{{"format":"edgeagent-memories","version":{VERSION}}}'


async def lines(items: AsyncIterator[MemoryItem]) -> AsyncIterator[str]:
    """Lines without their ends."""
    yield HEADER
    async for item in items:
        yield item.model_dump_json()


def parse(text_lines: Iterable[str], origin: str) -> Iterator[MemoryItem]:
    """The memories of an export. Raises RequestError that names `origin` and the line."""
    numbered = ((number, line) for number, line in enumerate(text_lines, start=1) if line.strip())
    _, header = next(numbered, (0, ""))
    if not _is_header(header):
        raise RequestError(f"{origin} is not an export of memories; make one with `memory export`")
    for number, line in numbered:
        try:
            yield MemoryItem.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            raise RequestError(f"{origin}, line {number}: {first['msg']}; correct or remove the line") from None


def _is_header(line: str) -> bool:
    try:
        header = json.loads(line)
    except ValueError:
        return False
    return header in [{"format": "edgeagent-memories", "version": version} for version in range(1, VERSION + 1)]
