"""What `edgeagent doctor` checks of the broker, of this machine's place in a fleet, and of what it keeps of it."""

import contextlib
import socket
import time

from edgeagent.cli.checks import TIMEOUT_S, Check, failure
from edgeagent.core.config import MqttConfig
from edgeagent.core.errors import ConfigError, EdgeAgentError
from edgeagent.settings import Settings

NEARLY = 0.8
"""Of the quota of collected records: then somebody should read some."""
SOON_S = 14 * 86_400
"""A credential that ends so soon is worth a warning: nothing renews it by itself."""


def check_reach(settings: Settings) -> list[Check]:
    """The fleet, then the broker: whether one may be used depends on the other."""
    try:
        trust, is_enrolled = _trust(settings)
    except EdgeAgentError as error:
        return [failure("trust", error)]
    return [trust, check_broker(settings.config.mqtt, is_enrolled=is_enrolled), *_records(settings)]


def _trust(settings: Settings) -> tuple[Check, bool]:
    """Raises TrustError for key files that are damaged or not private."""
    if not settings.paths.trust.exists():
        return Check("trust", "ok", "in no fleet: a broker must be on this machine"), False
    from edgeagent.execution.trust.standing import load_standing

    standing = load_standing(settings.paths.trust, time.time)
    if standing is None:
        return Check("trust", "ok", "keys are here, and no fleet yet: a broker must be on this machine"), False
    roles = sorted(standing.membership.credentials)
    held = [standing.own(role) for role in roles]
    told = f"'{held[0].name}' in fleet {standing.fleet} as {' and '.join(roles)}"
    left_s = min(credential.expires for credential in held) - standing.now
    if left_s < SOON_S:
        return Check("trust", "warn", f"{told}, for {left_s // 86_400} days more", "enrol it again"), True
    return Check("trust", "ok", told), True


def _records(settings: Settings) -> list[Check]:
    """Of a peer that collects: whether somebody reads what it collected, before it is full."""
    config = settings.config.peer
    if not settings.paths.collected.exists():
        return [Check("records", "ok", "nothing was collected yet")] if config.collect else []
    from edgeagent.execution.durable import Collection

    try:
        with contextlib.closing(Collection(settings.paths.collected)) as collection:
            found = collection.census()
    except EdgeAgentError as error:
        return [failure("records", error)]
    share = found.bytes / config.collect_bytes
    told = f"{found.num_records} collected, {found.num_unread} of them unread, in {share:.0%} of peer.collect_bytes"
    told += f"; {found.num_dropped} that were read are dropped" if found.num_dropped else ""
    todo = "read them with 'edgeagent fleet records --unread --acknowledge', or raise peer.collect_bytes"
    if share >= 1 and found.num_unread == found.num_records:
        return [Check("records", "fail", f"{told}: no more are taken, and devices keep theirs", todo)]
    if share > NEARLY and found.num_unread > found.num_records / 2:
        return [Check("records", "warn", told, todo)]
    return [Check("records", "ok", told)]


def check_broker(config: MqttConfig, *, is_enrolled: bool) -> Check:
    if not config.url:
        return Check("broker", "ok", "none is set: everything runs here, no peer is asked")
    from edgeagent.execution.transport.mqtt import parse_address

    try:
        address = parse_address(config.url, config.username, config.password, config.ca_file, is_enrolled=is_enrolled)
        socket.create_connection((address.host, address.port), timeout=TIMEOUT_S).close()
    except ConfigError as error:
        return failure("broker", error)
    except OSError as error:
        return Check("broker", "fail", f"{config.url} is not reachable: {error.strerror or error}", "start the broker")
    return Check("broker", "ok", f"{address.host}:{address.port} accepts connections")
