"""The bad link: bytes come through whole and in order, at its rate; each fault does what it says, and ends."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator

import pytest

from edgeagent.core.errors import PeerLostError
from edgeagent.execution.transport.mqtt import MqttTransport, parse_address
from tests.conftest import Mosquitto
from tools.chaos_check import ECHO, PIECE, SINK, connected, far_end, measured
from tools.chaos_link import MAX_TRAVELLING_BYTES, PERFECT, Shape, Way
from tools.chaos_proxy import ChaosProxy, Fault, FaultKind, random_faults

SOON_S = 0.3
"""What does not come within this does not come: through the proxies here a round trip takes milliseconds."""


@contextlib.asynccontextmanager
async def echo(shape: Shape = PERFECT) -> AsyncIterator[tuple[ChaosProxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    async with (
        far_end() as far,
        ChaosProxy("127.0.0.1", far.port, shape) as proxy,
        connected(proxy.port, ECHO) as (reader, writer),
    ):
        yield proxy, reader, writer


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bool:
    """Whether it comes back soon."""
    writer.write(text)
    try:
        async with asyncio.timeout(SOON_S):
            return await reader.readexactly(len(text)) == text
    except TimeoutError:
        return False


def test_bytes_come_back_whole_over_a_narrow_slow_jittery_link() -> None:
    async def scenario() -> None:
        sent = secrets.token_bytes(200_000)
        async with echo(Shape(8, 8, rtt_s=0.03, jitter_s=0.01)) as (_, reader, writer):
            started_s = time.monotonic()
            writer.write(sent)
            assert await reader.readexactly(len(sent)) == sent
            assert time.monotonic() - started_s > 0.2  # 200 kB at 8 Mbit/s

    asyncio.run(scenario())


def test_sender_feels_the_rate() -> None:
    async def scenario() -> None:
        async with (
            far_end() as far,
            ChaosProxy("127.0.0.1", far.port, Shape(up_mbit_s=0)) as proxy,
            connected(proxy.port, SINK) as (_, writer),
        ):
            num_bytes = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SOON_S):
                    while num_bytes < 64 * 2**20:
                        writer.write(PIECE)
                        await writer.drain()
                        num_bytes += len(PIECE)
            assert num_bytes < MAX_TRAVELLING_BYTES  # the sender's own kernel holds some
            assert far.num_swallowed == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(("kind", "way"), [(FaultKind.FREEZE, Way.UP), (FaultKind.HALF_OPEN, Way.DOWN)])
def test_frozen_link_keeps_what_was_sent_and_its_connections(kind: FaultKind, way: Way) -> None:
    async def scenario() -> None:
        async with echo() as (proxy, reader, writer):
            assert await answered(reader, writer, b"before")
            proxy.inject(Fault(0, kind, 2 * SOON_S, way))
            assert not await answered(reader, writer, b"meanwhile")
            assert await reader.readexactly(9) == b"meanwhile"

    asyncio.run(scenario())


def test_half_open_link_carries_the_other_direction() -> None:
    async def scenario() -> None:
        async with echo() as (proxy, reader, writer):
            proxy.freeze(None, (Way.UP,))
            assert not await answered(reader, writer, b"unheard")
            proxy.thaw()
            proxy.freeze(None, (Way.DOWN,))
            assert not await answered(reader, writer, b"heard")
            proxy.thaw()
            assert await reader.readexactly(12) == b"unheardheard"

    asyncio.run(scenario())


def test_reset_breaks_connections_and_refuses_new_ones_for_its_time() -> None:
    async def scenario() -> None:
        async with echo() as (proxy, reader, writer):
            assert await answered(reader, writer, b"before")
            proxy.reset(refuse_s=SOON_S)
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            async with connected(proxy.port, ECHO) as (early, _):
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await early.readexactly(1)
            await asyncio.sleep(SOON_S)
            async with connected(proxy.port, ECHO) as late:
                assert await answered(*late, b"after")

    asyncio.run(scenario())


def test_corruption_turns_one_bit_over() -> None:
    async def scenario() -> None:
        async with echo() as (proxy, reader, writer):
            assert await answered(reader, writer, b"before")
            proxy.corrupt(Way.DOWN)
            writer.write(bytes(100))
            got = await reader.readexactly(100)
            assert int.from_bytes(got).bit_count() == 1
            assert await answered(reader, writer, b"after")

    asyncio.run(scenario())


def test_schedule_is_played_and_is_the_same_for_the_same_seed() -> None:
    async def scenario() -> None:
        async with echo() as (proxy, reader, writer):
            await proxy.play([Fault(0.0, FaultKind.CORRUPT), Fault(0.05, FaultKind.RESET)])
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            writer.close()

    faults = random_faults(7, 20, 60.0)
    assert faults == random_faults(7, 20, 60.0)
    assert faults != random_faults(8, 20, 60.0)
    assert {fault.kind for fault in faults} == set(FaultKind)
    asyncio.run(scenario())


def test_measured_rates_are_those_that_were_set() -> None:
    """Loosely: `chaos_proxy.py --check` on a quiet machine tells how closely."""
    found = asyncio.run(measured(Shape(2, 6, rtt_s=0.04)))
    assert found["up_mbit_s"] == pytest.approx(2, rel=0.25)
    assert found["down_mbit_s"] == pytest.approx(6, rel=0.25)
    assert (found["rtt_ms"] or 0) >= 40


def test_broker_behind_a_bad_link_delivers_and_is_lost_and_comes_back(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        async with ChaosProxy("127.0.0.1", mosquitto.port, Shape(rtt_s=0.02)) as proxy:
            far = await MqttTransport.connect(parse_address(f"mqtt://127.0.0.1:{proxy.port}"), "chaos-far")
            near = await MqttTransport.connect(parse_address(mosquitto.url), "chaos-near")
            try:
                arriving = far.subscribe("chaos/#", bulk=True)
                await asyncio.sleep(SOON_S)
                near.publish("chaos/1", b"x" * 50_000, bulk=True)
                assert await arriving.get() == ("chaos/1", b"x" * 50_000)
                proxy.reset()
                with pytest.raises(PeerLostError):
                    await arriving.get()
                near.publish("chaos/2", b"again", retain=True)  # comes as soon as it has subscribed again
                said = await arriving.get()
                while said[0] == "chaos/1":  # once more: its acknowledgement was lost with the connection
                    said = await arriving.get()
                assert said == ("chaos/2", b"again")
            finally:
                await far.close()
                await near.close()

    asyncio.run(scenario())
