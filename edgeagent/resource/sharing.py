"""What is left of an engine's speed beside other answers, as its scheduler shares it out. Pure."""

from dataclasses import replace

from edgeagent.execution.scheduler import STALL
from edgeagent.resource.cost import Speeds

PROMPT_PART = STALL / (1 + STALL)
"""Of the time, between the decode steps of others: a prompt's piece may take `STALL` times as long as one of these."""
ROW_PART = 0.13
"""What one sequence more adds to a decode step: four rows were measured to take 1.4 times as long as one."""


def speeds_beside(speeds: Speeds, num_answers: int) -> Speeds:
    """Of one job more in an engine that writes so many answers already. They decode in one batch with it."""
    if not num_answers:
        return speeds
    return _slowed(speeds, 1 / PROMPT_PART, 1 + ROW_PART * num_answers)


def speeds_of_stage(speeds: Speeds, num_answers: int) -> Speeds:
    """Of a stage, which has a process of its own: it shares the cores with the engine that writes the answers, so many
    they are, since these are evaluated together."""
    return _slowed(speeds, 2.0, 2.0) if num_answers else speeds


def _slowed(speeds: Speeds, prompt: float, answer: float) -> Speeds:
    return replace(
        speeds,
        prefill_tok_s=speeds.prefill_tok_s / prompt,
        decode_tok_s=speeds.decode_tok_s / answer,
        chunk_position_s=speeds.chunk_position_s * prompt,
        token_position_s=speeds.token_position_s * answer,
    )
