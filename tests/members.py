"""Machines that are enrolled in a fleet of the test's own."""

import time
from pathlib import Path

from edgeagent.execution.trust import fleet as fleets
from edgeagent.execution.trust.membership import join
from edgeagent.execution.trust.standing import load_standing
from edgeagent.wire.credentials import Role


class Members:
    """One fleet; each member's keys are in `folder/NAME`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        fleets.Fleet.init(folder / "fleet", int(time.time()))

    def enroll(self, name: str, *roles: Role, plans: tuple[str, ...] | None = None) -> Path:
        """A machine with one pair of keys and a credential for each role; the folder of its keys."""
        keys, now = None, int(time.time())
        for role in roles:
            bundle, _ = fleets.enroll(self.folder / "fleet", name, role, now, 1, asked_by=keys, plans=plans)
            join(self.folder / name, bundle, now)
            standing = load_standing(self.folder / name, time.time)
            assert standing is not None
            keys = standing.party(role).identity.public
        return self.folder / name
