"""Progress on stderr: a moving bar on a terminal; otherwise nothing of transfers, and a line for each step."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgeagent.model.fetch import Progress


@contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Yields a callback for bytes done and expected."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def show_steps(title: str) -> Iterator[Callable[[str, float], None]]:
    """Yields a callback for what is done next and the share (0 to 1) that is done: a bar, or a line a step."""
    if not sys.stderr.isatty():
        yield lambda what, share: print(f"{title}: {what} ({share:.0%})", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=1.0)
        yield lambda what, share: bars.update(task, completed=share, description=f"{title}: {what}")
