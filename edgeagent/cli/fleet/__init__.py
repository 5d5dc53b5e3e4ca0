"""`edgeagent fleet`: who belongs together. The operator enrols and revokes, a machine asks and joins."""

from edgeagent.cli.fleet import member, operator, pairing, records, status
from edgeagent.cli.fleet.group import fleet

__all__ = ["fleet", "member", "operator", "pairing", "records", "status"]
