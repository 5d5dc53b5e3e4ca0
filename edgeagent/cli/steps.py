"""Progress of a long job on stderr: a moving bar on a terminal, one line for each stage elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

OnStep = Callable[[str, int, int], None]


@contextmanager
def show_steps(title: str) -> Iterator[OnStep]:
    """Yields a callback for the stage, the steps done and the steps in all."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)

        def step(stage: str, done: int, total: int) -> None:
            bars.update(task, description=f"{title}: {stage}", completed=done, total=total)

        yield step


def _lines(title: str) -> OnStep:
    seen: set[str] = set()

    def step(stage: str, _done: int, total: int) -> None:
        if stage not in seen:
            seen.add(stage)
            click.echo(f"{title}: {stage}, {total} steps", err=True)

    return step
