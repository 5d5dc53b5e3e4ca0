"""`edgeagent fleet init`, `enroll`, `revoke`: what the holder of the fleet's key does."""

import re
import time
from pathlib import Path

import click

from edgeagent.cli.fleet.group import day, facts, fleet, groups, path_type, taken, write_new
from edgeagent.cli.options import json_option, print_json, run, with_settings
from edgeagent.core.errors import EdgeAgentError, ProtocolError, TrustError
from edgeagent.core.plan import PlanKind
from edgeagent.execution.trust import fleet as fleets
from edgeagent.execution.trust.carried import RequestFile, RevocationsFile
from edgeagent.execution.trust.files import read_carried
from edgeagent.execution.trust.membership import load_membership, take_revocations
from edgeagent.execution.trust.standing import publish_revocations
from edgeagent.settings import Settings
from edgeagent.wire.credentials import Role, read_request
from edgeagent.wire.identity import PublicIdentity
from edgeagent.wire.signed import Signed
from edgeagent.wire.topics import ID_PATTERN, Topics

MAX_DAYS = 3650


def _names(_: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    names = None if value is None else tuple(name.strip() for name in value.split(",") if name.strip())
    known = {plan.value for plan in PlanKind}
    if option.name == "plans" and names is not None and (unknown := sorted(set(names) - known)):
        raise click.BadParameter(f"'{unknown[0]}' is no plan; choose from {', '.join(sorted(known))}")
    return names


def _named(_: click.Context, __: click.Parameter, value: str) -> str:
    if not re.fullmatch(ID_PATTERN, value):
        raise click.BadParameter("use 1 to 64 of A-Z a-z 0-9 _ . -")
    return value


name_argument = click.argument("name", callback=_named)


@fleet.command()
@with_settings
@json_option
def init(settings: Settings, *, as_json: bool) -> None:
    """Make a fleet's key: its holder is the operator."""
    made = fleets.Fleet.init(settings.paths.fleet, int(time.time()))
    path = settings.paths.fleet / fleets.FLEET_FILE
    if as_json:
        print_json({"fleet": made.key.id, "file": str(path), "created": made.file.created})
        return
    click.echo(f"fleet {groups(made.key.id)}\nkept in {path}: copy it to a safe place, nothing else can replace it")


@fleet.command()
@name_argument
@click.option("--role", type=click.Choice(["device", "peer"]), default="device", show_default=True)
@click.option("--request", "asked", type=path_type, metavar="F", help="Keys of that machine, from `fleet request`.")
@click.option("--plans", callback=_names, metavar="A,B", help="Plans it may take part in; without it all.")
@click.option("--models", callback=_names, metavar="A,B", help="Models it may use or offer; without it all.")
@click.option(
    "--days", type=click.IntRange(1, MAX_DAYS), default=fleets.USUAL_DAYS, show_default=True, help="Until it expires."
)
@click.option("--out", type=path_type, metavar="F", help="The bundle; without it NAME.ROLE.bundle.json.")
@with_settings
@json_option
def enroll(
    settings: Settings,
    name: str,
    role: Role,
    asked: Path | None,
    plans: tuple[str, ...] | None,
    models: tuple[str, ...] | None,
    days: int,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Sign a credential for NAME, in a bundle.

    The bundle is for `fleet join` there. Without --request the keys are made here and travel in it, and it is a secret.
    """
    path = out or Path(f"{name}.{role}.bundle.json")
    if path.exists():
        raise taken(path)
    now, identity = int(time.time()), _asked_by(asked) if asked else None
    bundle, credential = fleets.enroll(
        settings.paths.fleet, name, role, now, days, asked_by=identity, plans=plans, models=models
    )
    write_new(path, bundle)
    if as_json:
        print_json({**facts(credential), "bundle": str(path), "bundle_is_secret": identity is None})
        return
    click.echo(f"{name} ({role}) is {groups(credential.identity.id)}, until {day(credential.expires)}")
    todo = (
        "it holds private keys: carry it safely, and delete it after" if identity is None else "nothing in it is secret"
    )
    click.echo(f"bundle {path}: {todo}\nthere: edgeagent fleet join {path.name}")


@fleet.command()
@name_argument
@click.option("--out", type=path_type, metavar="F", help="Write the new list for machines without a broker.")
@with_settings
@json_option
def revoke(settings: Settings, name: str, out: Path | None, *, as_json: bool) -> None:
    """Take back every credential of NAME."""
    if out and out.exists():
        raise taken(out)
    signed, credentials = fleets.revoke(settings.paths.fleet, name, int(time.time()))
    if out:
        write_new(out, RevocationsFile(revocations=signed))
    kept = fleets.Fleet.open(settings.paths.fleet)
    _tell_this_machine(settings, kept, signed)
    told = run(_publish(settings, kept, signed))
    if as_json:
        revoked = [facts(credential) for credential in credentials]
        print_json(
            {"revoked": revoked, "number": kept.file.number, "list": str(out) if out else None, "published": not told}
        )
        return
    click.echo(f"{name}: {len(credentials)} revoked, list {kept.file.number}" + (f" is in {out}" if out else ""))
    click.echo(told or "the list is on the broker, for every member that is there or comes back")


def _asked_by(path: Path) -> PublicIdentity:
    try:
        return read_request(read_carried(path, RequestFile).request)
    except ProtocolError:
        raise TrustError(f"{path} is not signed by the keys in it; make it again with `fleet request`") from None


async def _publish(settings: Settings, kept: fleets.Fleet, signed: Signed) -> str:
    """Leave the list on the broker; empty, or why it is not there. The revocation itself stands already."""
    if not settings.config.mqtt.url:
        return "no broker is set: carry the list to every member (--out)"
    from edgeagent.broker import Trust, connect_broker

    try:
        transport = await connect_broker(settings, "edgeagent-operator", Trust.of(settings), signs=True)
        try:
            await publish_revocations(transport, Topics(settings.config.mqtt.prefix), kept.key.id, signed)
        finally:
            await transport.close()
    except EdgeAgentError as error:
        return f"the list is not on the broker ({error}); carry it to every member (--out)"
    return ""


def _tell_this_machine(settings: Settings, kept: fleets.Fleet, signed: Signed) -> None:
    """The operator's machine may be a member too."""
    membership = load_membership(settings.paths.trust)
    if membership and membership.fleet_key == kept.key.public:
        take_revocations(settings.paths.trust, signed)
