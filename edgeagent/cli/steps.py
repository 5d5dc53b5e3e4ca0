"""Progress of a long job on stderr: a moving bar on a terminal, a line for each quarter of a stage elsewhere."""

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
    """A line at the begin and at each quarter of a stage."""
    shown: dict[str, int] = {}

    def step(stage: str, done: int, total: int) -> None:
        quarter = 4 * done // max(1, total)
        if quarter > shown.get(stage, -1):
            shown[stage] = quarter
            click.echo(f"{title}: {stage}, {done} of {total}", err=True)

    return step
