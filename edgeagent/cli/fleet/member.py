"""`edgeagent fleet request` and `join`: what a device or a peer does to belong to a fleet."""

import time
from pathlib import Path

import click

from edgeagent import parts
from edgeagent.cli.fleet.group import day, facts, fleet, groups, path_type, taken, write_new
from edgeagent.cli.options import json_option, print_json, with_settings
from edgeagent.core.errors import TrustError
from edgeagent.execution.trust.carried import Bundle, ForMembers, RequestFile, RevocationsFile
from edgeagent.execution.trust.files import read_carried
from edgeagent.execution.trust.identity import load_or_make_identity
from edgeagent.execution.trust.membership import IDENTITY_FILE, join, take_revocations
from edgeagent.settings import Settings
from edgeagent.wire.credentials import fleet_id, request


@fleet.command("request")
@click.option("--out", type=path_type, metavar="F", help="Write the request here; without it to standard output.")
@with_settings
@json_option
def make_request(settings: Settings, out: Path | None, *, as_json: bool) -> None:
    """Ask to be enrolled, by this machine's public keys.

    Writes a file for the operator. Nothing in it is secret.
    """
    if out and out.exists():
        raise taken(out)
    identity = load_or_make_identity(settings.paths.trust / IDENTITY_FILE)
    asked = RequestFile(request=request(identity))
    if out is None:
        print_json(asked.model_dump())
        return
    write_new(out, asked)
    if as_json:
        print_json({"id": identity.public.id, "request": str(out)})
    else:
        click.echo(f"this machine is {groups(identity.public.id)}; its request is in {out}")


@fleet.command("join")
@click.argument("file", type=path_type, metavar="FILE")
@click.option("--fleet", "expected", metavar="ID", help="Refuse a bundle of any other fleet than this fingerprint.")
@click.option("--replace", is_flag=True, help="Leave another fleet, or give up keys that were enrolled.")
@with_settings
@json_option
def join_fleet(settings: Settings, file: Path, expected: str | None, *, replace: bool, as_json: bool) -> None:
    """Take in a bundle or list from the operator."""
    match read_carried(file, ForMembers).root:
        case Bundle() as bundle:
            _join(settings, file, bundle, expected, replace=replace, as_json=as_json)
        case RevocationsFile(revocations=signed):
            number = take_revocations(settings.paths.trust, signed).revocations.number
            if as_json:
                print_json({"number": number})
            else:
                click.echo(f"the newest list of revocations known here is {number}")


def _join(
    settings: Settings, file: Path, bundle: Bundle, expected: str | None, *, replace: bool, as_json: bool
) -> None:
    found = fleet_id(bytes.fromhex(bundle.fleet_key))
    if expected is not None and expected.replace("-", "").lower() != found:
        raise TrustError(f"the bundle is of fleet {groups(found)}, not of the one you named; ask for another bundle")
    name = settings.config.mqtt.device_id
    _, credential = join(settings.paths.trust, bundle, time.time(), name=name, replace=replace)
    parts.take_device_id(settings, credential.name)
    if as_json:
        print_json({**facts(credential), "bundle_is_secret": bundle.identity is not None})
        return
    click.echo(f"joined fleet {groups(found)} as {credential.name} ({credential.role}) until {day(credential.expires)}")
    if bundle.identity:
        click.echo(f"delete {file}: it holds this machine's private keys")
