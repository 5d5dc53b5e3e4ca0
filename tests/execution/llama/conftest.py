"""Jobs of a real worker, and a text that is long enough for a few short windows."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeagent.execution.supervisor import Worker

Job = Callable[..., dict[str, Any]]
"""`job(op, text=b"", **params)`: one job in a worker of its own; its reply."""


@pytest.fixture
def job() -> Job:
    def run(op: str, text: bytes = b"", **params: Any) -> dict[str, Any]:
        return asyncio.run(_run(op, text, params))

    return run


async def _run(op: str, text: bytes, params: dict[str, Any]) -> dict[str, Any]:
    worker = await Worker.spawn("llama")
    try:
        reply, _ = await worker.call(op, [text] if text else [], stall_s=600, **params)
        return reply
    finally:
        await worker.close()


@pytest.fixture(scope="session")
def prose() -> bytes:
    """English of this project: about 2,000 tokens."""
    return (Path(__file__).parents[3] / "CONTRIBUTING.md").read_bytes()
