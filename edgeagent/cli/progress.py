"""Progress on stderr: a moving bar on a terminal; elsewhere a line now and then of a transfer, and one a step."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgeagent.model.fetch import Progress

LINE_EVERY_S = 10.0


@contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Yields a callback for bytes done and expected. What a pull found from an earlier try does not count as speed."""
    if not sys.stderr.isatty():
        yield ProgressLines(title, time.monotonic, lambda line: print(line, file=sys.stderr, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)
        has_begun = False

        def report(done: int, total: int | None) -> None:
            nonlocal has_begun
            if has_begun:
                bars.update(task, completed=done, total=total)
            else:
                bars.reset(task, completed=done, total=total)
                has_begun = True

        yield report


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


class ProgressLines:
    """Bytes, rate and time left as one line every ten seconds, for logs and pipes. A short transfer has none."""

    def __init__(self, title: str, clock: Callable[[], float], write: Callable[[str], None]) -> None:
        self._title = title
        self._clock = clock
        self._write = write
        self._start: tuple[float, int] | None = None
        self._next_at = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        now = self._clock()
        if self._start is None or done < self._start[1]:  # the next file, or this one from its start
            self._start, self._next_at = (now, done), now + LINE_EVERY_S
        if now < self._next_at:
            return
        self._next_at = now + LINE_EVERY_S
        began, first = self._start
        self._write(f"{self._title}: {describe(done, total, (done - first) / (now - began))}")


def describe(done: int, total: int | None, bytes_s: float) -> str:
    """`12.5 of 98.4 MB, 1.2 MB/s, 1:11 left`."""
    if total is None:
        return f"{done / 1e6:.1f} MB, {bytes_s / 1e6:.1f} MB/s"
    minutes, seconds = divmod(round((total - done) / bytes_s), 60) if bytes_s > 0 else (0, 0)
    left = f"{minutes}:{seconds:02} left" if bytes_s > 0 else "stalled"
    return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB, {bytes_s / 1e6:.1f} MB/s, {left}"
