"""Progress of a transfer on stderr: a moving bar on a terminal, nothing otherwise."""

import sys
from collections.abc import Iterator
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
