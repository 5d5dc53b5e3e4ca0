"""What several commands share: settings, `--json`, and the step into asynchronous code."""

import asyncio
import functools
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click

from edgeagent.core.errors import EdgeAgentError
from edgeagent.settings import Settings, load_settings

P = ParamSpec("P")
R = TypeVar("R")


def with_settings(command: Callable[Concatenate[Settings, P], R]) -> Callable[P, R]:
    """Add `--config F`, and pass the loaded Settings as the first argument. Raises ConfigError.

    Only warnings are logged until a command asks for more with `start_logging`.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        config_file = kwargs.pop("config_file")
        assert config_file is None or isinstance(config_file, Path)
        settings = load_settings(config_file)
        start_logging(settings, default_level="warning")
        return command(settings, *args, **kwargs)

    option = click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="F",
        help="Settings file instead of the usual places.",
    )
    return option(wrapped)


def start_logging(settings: Settings, default_level: str = "info") -> None:
    """Log to stderr as configured; `default_level` applies where nobody set `log.level`."""
    from edgeagent.application import logs

    level = settings.config.log.level if "log.level" in settings.origins else default_level
    logs.configure(level, logs.chosen_format(settings.config.log.format, os.environ), sys.stderr)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
"""Adds `as_json: bool`."""


def print_json(document: object) -> None:
    """One JSON document, for programs; the shape is part of the public contract."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def run(coroutine: Coroutine[object, object, R]) -> R:
    """Run to the end in a new event loop. An error raised inside a task group arrives as itself."""
    try:
        return asyncio.run(coroutine)
    except ExceptionGroup as group:
        known, others = group.split(EdgeAgentError)
        if known is None or others is not None:
            raise
        raise _first(known) from None


def _first(group: ExceptionGroup[EdgeAgentError]) -> EdgeAgentError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
