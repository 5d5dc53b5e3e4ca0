"""Files that people carry between machines: a request to be enrolled, a bundle that enrols, a list of revocations."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from edgeagent.wire.identity import SecretIdentity
from edgeagent.wire.signed import Hex32, Signed


class CarriedFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RequestFile(CarriedFile):
    """Public keys of a machine that wants to be enrolled. Nothing in it is secret."""

    format: Literal["edgeagent request 1"] = "edgeagent request 1"
    request: Signed


class Bundle(CarriedFile):
    """What a machine needs to be a member. It is secret only if the operator made the `identity`."""

    format: Literal["edgeagent bundle 1"] = "edgeagent bundle 1"
    fleet_key: Hex32
    credential: Signed
    revocations: Signed
    identity: SecretIdentity | None = None


class RevocationsFile(CarriedFile):
    """A fleet's newest list, for machines that do not get it over a broker."""

    format: Literal["edgeagent revocations 1"] = "edgeagent revocations 1"
    revocations: Signed


class ForMembers(RootModel[Annotated[Bundle | RevocationsFile, Field(discriminator="format")]]):
    """What an operator hands to a machine."""
