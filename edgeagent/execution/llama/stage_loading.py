"""Loads one stage's file, and says what both ends of a split model must agree on."""

from contextlib import closing

import numpy as np

from edgeagent.core.errors import ModelFileError
from edgeagent.core.stages import SOURCE_KEY, Cut, Padding
from edgeagent.execution.llama.build import engine_build
from edgeagent.execution.llama.context import ContextSettings
from edgeagent.execution.llama.library import system_info
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.opening import open_model, settings_for
from edgeagent.execution.llama.stage_context import Part, StageContext
from edgeagent.execution.llama.stage_jobs import Stages
from edgeagent.execution.llama.state import front_layers
from edgeagent.execution.worker import Request


def load_stage(request: Request) -> Stages:
    """Op `load_stage {…load, begin, end, of_layers, source_sha256, padding}`: weights and vocabulary; cells come with
    sessions.

    Raises ModelFileError for a file that is not this stage of that one, by what it says itself.
    """
    p = request.params
    cut = Cut.of(int(p["begin"]), int(p["end"]), int(p["of_layers"]))
    padding = Padding.model_validate(p["padding"]) if p.get("padding") else None
    model = open_model(p, padding)
    _check_file(model, str(p["path"]), cut, str(p["source_sha256"]))
    if (layers := model.layers - (padding is not None)) != cut.num_blocks:
        raise ModelFileError(f"{p['path']} has {layers} layers, not {cut.num_blocks}; slice the model again")
    settings = settings_for(model, p)
    request.reply(
        engine_build=engine_build(),
        system=system_info(),
        width=model.width,
        vocab=model.num_vocab,
        context_tokens=settings.context_tokens,
        kv_planes=_planes(model, settings, cut),
        has_window=model.has_window,
    )
    return Stages(model, settings)


def _check_file(model: Model, path: str, cut: Cut, source_sha256: str) -> None:
    wanted = {SOURCE_KEY: source_sha256, **{key: str(value) for key, value in cut.metadata().items()}}
    for key, value in wanted.items():
        if (found := model.metadata(key)) != value:
            told = "nothing" if found is None else found[:80]
            raise ModelFileError(f"{path} is another stage: {key} is {told}, not {value}; slice the model again")


def _planes(model: Model, settings: ContextSettings, cut: Cut) -> list[int]:
    """Row bytes of K of the file's layers, then of V, read from a state of one token; empty: not exchangeable."""
    if model.has_window or not settings.flash_attention or cut.is_output:
        return []
    part = Part(takes_hidden=not cut.is_head, after=cut.num_blocks)
    with closing(StageContext(model, settings, part, 1)) as context:
        context.evaluate(np.zeros((1, model.width), np.float32) if part.takes_hidden else [0])
        return [plane.row_bytes for plane in front_layers(context.read_shape(), cut.num_blocks).planes]
