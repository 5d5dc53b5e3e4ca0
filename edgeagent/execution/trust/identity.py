"""This machine's identity on disk: made once, at the first use."""

import secrets
from pathlib import Path

from edgeagent.core.errors import ProtocolError, TrustError
from edgeagent.execution.trust.files import create_private, read_private
from edgeagent.wire.identity import Identity, SecretIdentity


def load_or_make_identity(path: Path) -> Identity:
    """The identity in this file, which is made if it does not exist. Raises TrustError, OSError."""
    found = load_identity(path)
    if found is None:
        create_private(path, Identity.make(secrets.token_bytes).secret())
        found = load_identity(path)  # whoever was first
    assert found is not None
    return found


def load_identity(path: Path) -> Identity | None:
    """Raises TrustError when the file is damaged or readable by others."""
    secret = read_private(path, SecretIdentity)
    if secret is None:
        return None
    try:
        return Identity.from_secret(secret)
    except ProtocolError:
        raise TrustError(f"{path} is damaged: its keys do not yield its id; restore it from a copy") from None
