"""What the engines can do here, found out in child processes that may die: the daemon only reads verdicts.

`engine` finds settings under which llama.cpp runs at all, `survey` tries everything else there is to try, one child a
capability (`llama`, `onnxruntime`, `litert` know what and how, `trial` runs a child under limits, `judging` compares).
"""

from edgeagent.resource.capability.accelerators import with_usable
from edgeagent.resource.capability.engine import (
    ENGINE,
    NOT_INSTALLED,
    PREFERENCE,
    EngineSettings,
    Outcome,
    ProbeModel,
    Spawn,
    Trial,
    engine_build,
    is_conclusive,
    load,
    parse_flags,
    probe_engine,
    refused,
    release_fault,
    spawn_engine,
    try_engine,
    untested,
)
from edgeagent.resource.capability.survey import Survey, probe_capabilities
from edgeagent.resource.capability.trial import engine_builds

__all__ = [
    "ENGINE",
    "NOT_INSTALLED",
    "PREFERENCE",
    "EngineSettings",
    "Outcome",
    "ProbeModel",
    "Spawn",
    "Survey",
    "Trial",
    "engine_build",
    "engine_builds",
    "is_conclusive",
    "load",
    "parse_flags",
    "probe_capabilities",
    "probe_engine",
    "refused",
    "release_fault",
    "spawn_engine",
    "try_engine",
    "untested",
    "with_usable",
]
