"""The assistant: recalls, lets the agent's loop decide on tools, answers. What every surface talks to."""

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from edgeagent.agent.answering import Answerer
from edgeagent.agent.builtin import CalculatorTool, ClockTool, MemoryTool
from edgeagent.agent.drafting import Material
from edgeagent.agent.loop import Agent
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.prompting import question_of, split_pasted
from edgeagent.agent.selection import ToolSelector
from edgeagent.agent.toolcall import ToolCaller
from edgeagent.agent.tools import Tool, ToolRegistry
from edgeagent.core.chat import ChatRequest, Message
from edgeagent.core.events import Event, Finished, RecalledMemories, ToolCalled, Usage
from edgeagent.core.memory import Embedder, MemoryHit
from edgeagent.core.plan import AnswerReport, MemoryReport, PlanKind, Recalled
from edgeagent.model.pool import ModelPool, Resident

RECALL_ITEMS = 5
MIN_RECALL_SCORE = 0.0


class Assistant:
    """`memory` is None when it is switched off."""

    def __init__(
        self,
        pool: ModelPool,
        answerer: Answerer,
        embedder: Embedder,
        memory: Memory | None,
        *,
        default_model: str,
        tools: Sequence[str],
        new_id: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._answerer = answerer
        self._embedder = embedder
        self._memory = memory
        self._default_model = default_model
        self._tools = tools
        self._new_id = new_id
        self._clock = clock
