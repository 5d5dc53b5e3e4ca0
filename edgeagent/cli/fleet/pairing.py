"""`edgeagent fleet pair CODE` and its other side, `edgeagent peer --pair`: a fleet for two machines at home."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator

import click

from edgeagent import parts
from edgeagent.cli.fleet.group import day, facts, fleet, groups
from edgeagent.cli.options import json_option, print_json, run, with_settings
from edgeagent.core.errors import RequestError
from edgeagent.execution.transport.base import Transport
from edgeagent.execution.trust.pairing import enroller, host, join_by_code, keep_home_fleet
from edgeagent.settings import Settings
from edgeagent.wire.credentials import Credential
from edgeagent.wire.identity import PublicIdentity
from edgeagent.wire.pairing import VALID_S, Asked, PairingCode
from edgeagent.wire.topics import Topics


@fleet.command()
@click.argument("code")
@click.option("--name", metavar="NAME", help="Name of this device; without it the device id.")
@click.option("--replace", is_flag=True, help="Leave another fleet.")
@with_settings
@json_option
def pair(settings: Settings, code: str, name: str | None, *, replace: bool, as_json: bool) -> None:
    """Join the fleet of the peer that shows CODE.

    CODE is what `edgeagent peer --pair` shows there. Both machines use the same broker.
    """
    credential = run(_join(settings, PairingCode.parse(code), name, replace=replace))
    parts.take_device_id(settings, credential.name)
    if as_json:
        print_json(facts(credential))
        return
    click.echo(f"joined fleet {groups(credential.fleet)} as {credential.name} until {day(credential.expires)}")
    click.echo(f"this machine is {groups(credential.identity.id)}")


def show_code(settings: Settings, *, as_json: bool) -> None:
    """Show a one-time code and enrol the device that is given it. Raises TrustError when none comes in time."""
    code = PairingCode.make(secrets.token_bytes)
    asked, identity = run(_host(settings, code))
    if as_json:
        print_json({"name": asked.name, "role": "device", "id": identity.id})
    else:
        click.echo(f"{asked.name} is enrolled: {groups(identity.id)}; compare that with what it shows")


async def _join(settings: Settings, code: PairingCode, name: str | None, *, replace: bool) -> Credential:
    configured = settings.config.mqtt.device_id
    if name and configured not in ("", name):
        raise RequestError(f"mqtt.device_id is '{configured}' and not '{name}'; change one of the two")
    async with _broker(settings) as (transport, topics):
        wanted = name or parts.device_id(settings)
        return await join_by_code(transport, topics, code, settings.paths.trust, wanted, time.time, replace=replace)


async def _host(settings: Settings, code: PairingCode) -> tuple[Asked, PublicIdentity]:
    keep_home_fleet(settings.paths.fleet, settings.paths.trust, parts.device_id(settings), time.time())
    async with _broker(settings) as (transport, topics):
        click.echo(f"on the device, within {VALID_S // 60} minutes: edgeagent fleet pair {code.text}", err=True)
        return await host(transport, topics, code, enroller(settings.paths.fleet, time.time))


@contextlib.asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[tuple[Transport, Topics]]:
    from edgeagent.broker import Trust, connect_broker

    transport = await connect_broker(settings, "edgeagent-pairing", Trust.of(settings), signs=True)
    try:
        yield transport, Topics(settings.config.mqtt.prefix)
    finally:
        await transport.close()
