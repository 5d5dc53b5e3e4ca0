"""The bad link of `tools/chaos_proxy.py` in a thread, for benches that wait for answers in between."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

from tools.chaos_link import Shape
from tools.chaos_proxy import ChaosProxy


class BadLink:
    """Stands for a broker on `port`. Everything here may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: ChaosProxy) -> None:
        self._loop = loop
        self._proxy = proxy
        self.url = f"mqtt://127.0.0.1:{proxy.port}"

    def set(self, shape: Shape) -> None:
        self._do(lambda: self._proxy.set(shape))

    def freeze(self, seconds: float | None = None) -> None:
        """For so long, or until `thaw`."""
        self._do(lambda: self._proxy.freeze(seconds))

    def thaw(self) -> None:
        self._do(self._proxy.thaw)

    def _do(self, function: Callable[[], None]) -> None:
        async def done() -> None:
            function()

        asyncio.run_coroutine_threadsafe(done(), self._loop).result()


@contextlib.contextmanager
def bad_link(broker_port: int) -> Iterator[BadLink]:
    """A link to a broker of 127.0.0.1, perfect until something is done to it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="bad-link", daemon=True)
    thread.start()
    proxy = ChaosProxy("127.0.0.1", broker_port)
    asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result()
    try:
        yield BadLink(loop, proxy)
    finally:
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
