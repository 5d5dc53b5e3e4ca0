"""`edgeagent fleet status`: who this machine is, which fleet it belongs to, and the fleet that is kept here."""

import time

import click

from edgeagent.cli.fleet.group import day, facts, fleet, groups
from edgeagent.cli.options import json_option, print_json, with_settings
from edgeagent.execution.trust.fleet import Fleet
from edgeagent.execution.trust.identity import load_identity
from edgeagent.execution.trust.membership import IDENTITY_FILE, Membership, load_membership
from edgeagent.settings import Settings
from edgeagent.wire.credentials import Credential, Refusal, Role, fleet_id

JsonObject = dict[str, object]


@fleet.command()
@with_settings
@json_option
def status(settings: Settings, *, as_json: bool) -> None:
    """Show keys, membership and the fleet kept here."""
    identity = load_identity(settings.paths.trust / IDENTITY_FILE)
    membership, kept = load_membership(settings.paths.trust), Fleet.load(settings.paths.fleet)
    document = {
        "id": identity.public.id if identity else None,
        "membership": _membership(membership) if membership else None,
        "fleet": _kept(kept) if kept else None,
    }
    if as_json:
        print_json(document)
        return
    click.echo(f"this machine: {groups(identity.public.id) if identity else 'no keys yet'}")
    click.echo("\n".join(_membership_lines(membership)))
    click.echo("\n".join(_kept_lines(kept)))


def _membership(membership: Membership) -> JsonObject:
    return {
        "fleet": fleet_id(membership.fleet_key),
        "revocations": membership.revocations.number,
        "credentials": [
            {**facts(credential), "state": _state(membership, role)}
            for role, credential in membership.credentials.items()
        ],
    }


def _state(membership: Membership, role: Role) -> str:
    found = membership.own(time.time(), role)
    return found.value if isinstance(found, Refusal) else "valid"


def _membership_lines(membership: Membership | None) -> list[str]:
    if membership is None:
        return [
            "member of:    no fleet; give the operator a request (`edgeagent fleet request`) and join with the bundle"
        ]
    lines = [f"member of:    {groups(fleet_id(membership.fleet_key))}, revocations {membership.revocations.number}"]
    return lines + [_line(c, _state(membership, role)) for role, c in sorted(membership.credentials.items())]


def _kept(kept: Fleet) -> JsonObject:
    now = int(time.time())
    return {
        "fleet": kept.key.id,
        "created": kept.file.created,
        "revocations": kept.file.number,
        "enrolled": [
            {**facts(issued.credential), "issued": issued.issued, "state": issued.state(now)}
            for issued in kept.file.issued
        ],
    }


def _kept_lines(kept: Fleet | None) -> list[str]:
    if kept is None:
        return ["kept here:    no fleet"]
    now = int(time.time())
    lines = [f"kept here:    {groups(kept.key.id)}, revocations {kept.file.number}"]
    return lines + [_line(i.credential, i.state(now)) for i in kept.file.issued]


def _line(credential: Credential, state: str) -> str:
    until = f"until {day(credential.expires)}, {groups(credential.identity.id)}"
    return f"  {credential.name} ({credential.role}) {state}, {until}"
