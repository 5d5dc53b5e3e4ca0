"""The group, and how its commands show names, dates and files."""

import time
from pathlib import Path

import click

from edgeagent.core.errors import TrustError
from edgeagent.execution.trust.carried import CarriedFile
from edgeagent.execution.trust.files import create_private
from edgeagent.wire.credentials import Credential


@click.group()
def fleet() -> None:
    """Enrol devices and peers with a key that you hold, and take that back."""


path_type = click.Path(path_type=Path, dir_okay=False)


def write_new(path: Path, document: CarriedFile) -> None:
    """Raises TrustError rather than replace a file."""
    if not create_private(path, document):
        raise taken(path)


def taken(path: Path) -> TrustError:
    return TrustError(f"{path} exists already; name another with --out, or remove it")


def facts(credential: Credential) -> dict[str, object]:
    """A credential for `--json`."""
    return {
        "name": credential.name,
        "role": credential.role,
        "id": credential.identity.id,
        "fleet": credential.fleet,
        "serial": credential.serial,
        "plans": credential.plans,
        "models": credential.models,
        "not_before": credential.not_before,
        "expires": credential.expires,
    }


def day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def groups(fingerprint: str) -> str:
    """A fingerprint as people compare it: `abcd-efgh-…`."""
    return "-".join(fingerprint[i : i + 4] for i in range(0, len(fingerprint), 4))
