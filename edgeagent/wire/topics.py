"""Where frames and status messages go on the broker. `docs/protocol.md` lists the same."""

import re
from dataclasses import dataclass

from edgeagent.core.errors import WireError

ID_PATTERN = r"[A-Za-z0-9_.-]{1,64}"
_ID = re.compile(ID_PATTERN)
PEERS_GROUP = "edgeagent-peers"


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics under one prefix. Ids are checked, so that no `+`, `#` or `/` gets into a filter."""

    prefix: str

    def peer_status(self, peer: str) -> str:
        return f"{self.prefix}/peers/{_checked(peer)}/status"

    def all_peer_status(self) -> str:
        return f"{self.prefix}/peers/+/status"

    def device_status(self, device: str) -> str:
        return f"{self.prefix}/devices/{_checked(device)}/status"

    def to_peer(self, peer: str, device: str) -> str:
        """Frames of every session from one device to one peer."""
        return f"{self.prefix}/peers/{_checked(peer)}/in/{_checked(device)}"

    def to_peer_from_all(self, peer: str) -> str:
        return f"{self.prefix}/peers/{_checked(peer)}/in/+"

    def to_device(self, device: str) -> str:
        """Small messages to a device: tokens, verdicts, keepalives."""
        return f"{self.prefix}/devices/{_checked(device)}/in/control"

    def to_device_bulk(self, device: str) -> str:
        """Blocks to a device: another connection carries them, so that tokens never queue behind them."""
        return f"{self.prefix}/devices/{_checked(device)}/in/bulk"

    def offers(self, model: str) -> str:
        """Jobs with a model, offered to whichever peer holds it."""
        return f"{self.prefix}/offers/{_checked(model)}"

    def shared_offers(self, model: str) -> str:
        """What a peer subscribes to: the broker gives each offer to one of those that do."""
        return f"$share/{PEERS_GROUP}/{self.offers(model)}"

    def records(self, device: str) -> str:
        """What a device records, to whoever collects it."""
        return f"{self.prefix}/devices/{_checked(device)}/records"

    def all_records(self) -> str:
        return f"{self.prefix}/devices/+/records"

    def receipts(self, device: str) -> str:
        """For its records, from whoever collects them."""
        return f"{self.prefix}/devices/{_checked(device)}/in/receipts"

    def revocations(self, fleet: str) -> str:
        """The fleet's newest list, retained."""
        return f"{self.prefix}/fleet/{_checked(fleet)}/revocations"

    def pairing_request(self, code_topic: bytes) -> str:
        """From who typed a code to who shows it; the topic is the code's, and nobody guesses it."""
        return f"{self.prefix}/pairing/{code_topic.hex()}/request"

    def pairing_answer(self, code_topic: bytes) -> str:
        return f"{self.prefix}/pairing/{code_topic.hex()}/answer"

    def last_id(self, topic: str) -> str:
        """The device at the end of a `to_peer` topic, or the peer in a status topic."""
        levels = topic.removeprefix(self.prefix + "/").split("/")
        return _checked(levels[1] if levels[-1] == "status" else levels[-1])


def _checked(name: str) -> str:
    if not _ID.fullmatch(name):
        raise WireError(f"'{name[:80]}' is not an id; use 1 to 64 of A-Z a-z 0-9 _ . -")
    return name
