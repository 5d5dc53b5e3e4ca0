"""Reads settings and places once, at start: the config file, the environment, the folders."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeagent.core.config import Config, Tree, build_config, environment_tree, overlay
from edgeagent.core.errors import ConfigError

PACKAGE = Path(__file__).parent
SERVICE_CONFIG = Path("/etc/edgeagent/edgeagent.toml")
HUB_VARIABLES = {"HF_ENDPOINT": "hub_url", "HF_TOKEN": "hub_token"}
"""What other programs that fetch from the hub read (huggingface_hub, constants.py): below the file and our own."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are: `state` is written, `cards` and `boards` come with the package."""

    state: Path
    models: Path
    cards: Path
    boards: Path
    trust: Path
    """This machine's identity and membership."""

    @property
    def memory(self) -> Path:
        return self.state / "memory.sqlite"

    @property
    def outbox(self) -> Path:
        """Records that no peer has collected yet."""
        return self.state / "outbox.sqlite"

    @property
    def collected(self) -> Path:
        """Records of devices, collected by this peer."""
        return self.state / "collected.sqlite"

    @property
    def profile(self) -> Path:
        return self.state / "profile.json"

    @property
    def fleet(self) -> Path:
        """The fleet that an operator keeps here."""
        return self.state / "fleet"


@dataclass(frozen=True, slots=True)
class Settings:
    config: Config
    paths: Paths
    origins: dict[str, str]
    """`section.key` to the file or variable that set it; what is absent is a default."""
    named_file: Path | None = None
    """The file that was asked for instead of the usual places: a reload reads the same one."""


def load_settings(config_file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from (rising order) defaults, one file, the environment. Raises ConfigError."""
    env = os.environ if environment is None else environment
    path = config_file or _find_file(env)
    from_file = _read(path) if path else {}
    from_env = environment_tree(env)
    if path:
        build_config(from_file, str(path))  # so that an error names the file when the file is at fault
    from_hub = {key: env[name] for name, key in HUB_VARIABLES.items() if env.get(name)}
    base: Tree = {"models": from_hub} if from_hub else {}
    config = build_config(overlay(overlay(base, from_file), from_env), "environment")
    origins = {f"models.{key}": name for name, key in HUB_VARIABLES.items() if key in from_hub}
    origins |= {key: str(path) for key in _keys(from_file)}
    origins |= {key: f"EDGEAGENT__{key.replace('.', '__').upper()}" for key in _keys(from_env)}
    return Settings(config, _paths(config, env), origins, config_file)


def _find_file(env: Mapping[str, str]) -> Path | None:
    if named := env.get("EDGEAGENT_CONFIG"):
        return Path(named)
    home = Path(env.get("HOME", "/")) / ".config/edgeagent/edgeagent.toml"
    return next((p for p in (SERVICE_CONFIG, home) if p.is_file()), None)


def _read(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist; name another or remove the setting") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}; correct it") from None


def _keys(tree: Tree, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys += _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return keys


def _paths(config: Config, env: Mapping[str, str]) -> Paths:
    home = Path(env.get("HOME", "/"))
    state = Path(env.get("EDGEAGENT_STATE") or home / ".local/share/edgeagent")
    models = Path(config.models.dir) if config.models.dir else state / "models"
    trust = Path(config.mqtt.identity) if config.mqtt.identity else state / "trust"
    return Paths(state, models, _data("models"), _data("hwprofiles"), trust)


def _data(name: str) -> Path:
    """Packaged data: inside an installed wheel, or beside the package in a checkout."""
    packaged = PACKAGE / "_data" / name
    return packaged if packaged.is_dir() else PACKAGE.parent / name
