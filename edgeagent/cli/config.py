"""`edgeagent config show`: the effective settings, secrets masked, and where each came from."""

import re
from dataclasses import dataclass

import click

from edgeagent.cli.options import json_option, print_json, with_settings
from edgeagent.settings import Settings

MASK = "********"
SECRETS = frozenset({"mqtt.password", "http.tokens", "models.hub_token", "peer.openai_key"})
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    value: object
    origin: str
    """A file, a variable, or `default`."""


@click.group()
def config() -> None:
    """Show the settings and where each came from."""


@config.command()
@with_settings
@json_option
def show(settings: Settings, as_json: bool) -> None:
    """Print the effective settings."""
    entries = effective(settings)
    places = {"state": str(settings.paths.state), "models": str(settings.paths.models)}
    if as_json:
        print_json({"settings": {e.key: {"value": e.value, "origin": e.origin} for e in entries}, "places": places})
        return
    for entry in entries:
        click.echo(f"{entry.key} = {_toml(entry.value)}  # {entry.origin}")
    for name, place in places.items():
        click.echo(f"# {name} folder: {place}")


def effective(settings: Settings) -> list[Entry]:
    """Every setting of every section, in the order they are declared."""
    tree = settings.config.model_dump(mode="json")
    keys = [(f"{section}.{key}", value) for section, values in tree.items() for key, value in values.items()]
    return [Entry(key, masked(key, value), _origin(key, settings.origins)) for key, value in keys]


def masked(key: str, value: object) -> object:
    """`value` as it may be shown: secrets hidden, an empty secret left empty, passwords cut out of URLs."""
    if key not in SECRETS:
        return _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", value) if isinstance(value, str) else value
    if isinstance(value, dict):  # the keys are the secrets
        return {f"{MASK}{number}": user for number, user in enumerate(value.values(), 1)}
    return MASK if value else value


def _origin(key: str, origins: dict[str, str]) -> str:
    if found := origins.get(key):
        return found
    below = next((origin for name, origin in origins.items() if name.startswith(f"{key}.")), "default")
    variable = f"EDGEAGENT__{key.replace('.', '__').upper()}"
    return variable if below.startswith(f"{variable}__") else below  # the rest of the name may be a secret


def _toml(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case list():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f'"{name}" = {_toml(item)}' for name, item in value.items()) + "}"
        case _:
            return str(value)
