"""Tell the service manager how the daemon is: the datagram protocol of sd_notify(3).

The address (`$NOTIFY_SOCKET`) and the clock are passed in; without an address nothing is sent.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """One end of the notification socket. Every call says whether the message was delivered."""

    address: str = ""
    """A path, `@name` for an abstract socket, or empty: nobody listens."""
    watchdog_s: float | None = None
    """The service manager restarts the daemon after so long without `alive`; None: it does not watch."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int) -> "ServiceManager":
        """The manager that started process `pid`, as sd_watchdog_enabled(3) describes its variables."""
        usec = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        watchdog_s = int(usec) / 1e6 if is_ours and usec.isdecimal() and int(usec) > 0 else None
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_s)

    def ready(self, status: str) -> bool:
        """Started, or done reloading."""
        return self._send("READY=1", _status(status))

    def status(self, status: str) -> bool:
        return self._send(_status(status))

    def reloading(self, monotonic_s: float) -> bool:
        """`monotonic_s`: CLOCK_MONOTONIC now. Follow it with `ready`."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={int(monotonic_s * 1e6)}")

    def stopping(self, status: str) -> bool:
        return self._send("STOPPING=1", _status(status))

    def alive(self) -> bool:
        """Feed the watchdog."""
        return self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> bool:
        return bool(self.address) and send(self.address, "\n".join(assignments))


def send(address: str, message: str) -> bool:
    """One datagram to `address`, never blocking. False, and a warning, when nobody takes it."""
    if not address.startswith(("/", "@")):
        _log.warning("notify socket not supported", extra={"address": address})
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)  # a service manager that does not read must not stop the event loop
        try:
            sock.sendto(message.encode(), target)
        except OSError as error:
            _log.warning("service manager not reached", extra={"address": address, "error": str(error)})
            return False
    return True


async def watchdog(interval_s: float, feed: Callable[[], object]) -> None:
    """Call `feed` now and every `interval_s`, until cancelled.

    It runs in the daemon's event loop on purpose: a loop that is blocked does not feed, and the service
    manager restarts the daemon. Half of `ServiceManager.watchdog_s` is the customary interval.
    """
    while True:
        feed()
        await asyncio.sleep(interval_s)


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())
