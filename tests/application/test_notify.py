"""Notifications against real AF_UNIX datagram sockets, and the watchdog against a real event loop."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeagent.application.notify import ServiceManager, send, watchdog


@contextlib.contextmanager
def listening(name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.settimeout(5)
        yield sock


def test_ready_reaches_a_socket_file(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as manager:
        assert ServiceManager(address).ready("serving on port 8477")
        assert manager.recv(4096) == b"READY=1\nSTATUS=serving on port 8477"


def test_every_message_reaches_an_abstract_socket_in_order() -> None:
    name = f"edgeagent-test-{os.getpid()}"
    with listening(f"\0{name}") as manager:
        service = ServiceManager(f"@{name}")
        assert all([service.status("busy"), service.reloading(12.5), service.alive(), service.stopping("draining")])
        received = [manager.recv(4096) for _ in range(4)]
    assert received == [
        b"STATUS=busy",
        b"RELOADING=1\nMONOTONIC_USEC=12500000",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=draining",
    ]


def test_status_with_line_breaks_cannot_smuggle_an_assignment(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as manager:
        ServiceManager(address).status("model\nSTOPPING=1")
        assert manager.recv(4096) == b"STATUS=model STOPPING=1"


def test_without_an_address_nothing_is_sent() -> None:
    assert not ServiceManager().ready("nobody listens")


@pytest.mark.parametrize("address", ["/nonexistent/notify", "@edgeagent-nobody", "vsock:2:1", "notify"])
def test_unreachable_manager_is_a_warning_and_no_error(address: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not send(address, "READY=1")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_manager_that_never_reads_does_not_block(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address):
        delivered = [send(address, "WATCHDOG=1") for _ in range(10_000)]
    assert delivered[0]
    assert not delivered[-1]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval_comes_from_the_environment_of_this_process(
    environment: dict[str, str], expected: float | None
) -> None:
    assert ServiceManager.from_environment(environment, pid=7).watchdog_s == expected


def test_watchdog_feeds_while_the_loop_lives_and_starves_while_it_is_blocked(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")

    async def scenario(manager: socket.socket) -> tuple[int, int]:
        task = asyncio.create_task(watchdog(0.01, ServiceManager(address).alive))
        await asyncio.sleep(0.2)
        fed = num_waiting(manager)
        time.sleep(0.2)  # noqa: ASYNC251  (the fault under test: a loop that does not turn)
        fed_while_blocked = num_waiting(manager)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return fed, fed_while_blocked

    with listening(address) as manager:
        fed, fed_while_blocked = asyncio.run(scenario(manager))
    assert fed >= 2
    assert fed_while_blocked == 0


def num_waiting(manager: socket.socket) -> int:
    """Messages in the socket now, taken out."""
    count = 0
    manager.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while manager.recv(4096) == b"WATCHDOG=1":
            count += 1
    return count
