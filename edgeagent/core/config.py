"""Settings: types, defaults and the pure overlay of a file's and the environment's values. No reading here."""

import difflib
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeagent.core.cards import KvType
from edgeagent.core.errors import ConfigError
from edgeagent.core.plan import PlanKind

ENV_PREFIX = "EDGEAGENT__"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpConfig(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8477
    tokens: dict[str, str] = Field(default_factory=dict)
    """Bearer token to user."""


class MqttConfig(Section):
    url: str = ""
    """`mqtt://host:port`, or `mqtts://` for TLS; empty: no broker."""
    username: str = ""
    password: str = ""
    ca_file: str = ""
    """Certificates that may sign the broker's; empty: whom the system trusts."""
    prefix: Annotated[str, Field(pattern=r"^[^+#\x00]{1,128}$")] = "edgeagent/v1"
    device_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,64}$")] = ""
    """Empty: made once at random and kept in the state folder."""
    identity: str = ""
    """Folder of this machine's keys and membership; empty: `trust` in the state folder."""
    records: bool = False
    """Whether the daemon records how each answer ran, for peers that collect."""
    ask: Literal["off"] = "off"
    ask_reply_topics: tuple[str, ...] = ()


class PeerConfig(Section):
    enabled: bool = False
    collect: bool = False
    """Whether this peer keeps what devices record."""
    collect_bytes: Annotated[int, Field(ge=100_000)] = 500_000_000
    """What of it may take on the disk. What was read makes room; what was not stays, and nothing more is taken."""
    collect_days: Annotated[float, Field(ge=0)] = 90.0
    """How long what was read stays; 0: as long as there is room."""
    relay: bool = False
    """Whether this peer may pass hidden states on to other peers, which run the layers behind its own."""
    backend: Literal["llama", "openai"] = "llama"
    openai_url: Annotated[str, Field(pattern=r"^(https?://[^/?#\s]+[^?#\s]*)?$")] = ""
    """Base address of an OpenAI-compatible server, mostly ending in `/v1`; for backend `openai`."""
    openai_key: str = ""
    openai_context_tokens: Annotated[int, Field(ge=256)] = 4096
    """Where the server does not tell how much context its models have."""
    models: tuple[str, ...] = ()
    """Card ids this peer offers, empty: the default model; with backend `openai` the server's names, empty: all."""

    @model_validator(mode="after")
    def _check(self) -> "PeerConfig":
        if (self.backend == "openai") != bool(self.openai_url):
            raise ValueError("backend 'openai' and openai_url go together")
        return self


CascadeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}(/[A-Za-z0-9_.-]{1,32})?$")]


def _none_or_two(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) not in (0, 2) or len(set(names)) != len(names):
        raise ValueError("it names two models, the small one first, or none")
    return names


class ModelsConfig(Section):
    default: str = "smollm2-135m-instruct"
    dir: str = ""
    """Empty: `models` in the state folder."""
    memory_limit_bytes: Annotated[int, Field(ge=0)] = 0
    """0: three quarters of what is available when a model is chosen."""
    context_tokens: Annotated[int, Field(ge=256)] = 4096
    min_context_tokens: Annotated[int, Field(ge=0)] = 0
    """The context may be shortened down to this so that a better variant fits; 0: half of `context_tokens`."""
    coarse_cache: bool = False
    """Whether a q4_0 cache may be used where no better one fits."""
    latency_target_s: Annotated[float, Field(gt=0)] = 10.0
    """Time to first token a variant should reach on a 1,000-token prompt."""
    tpot_target_s: Annotated[float, Field(gt=0)] = 0.25
    """Time a further token should take at most."""
    hub_url: Annotated[str, Field(pattern=r"^https?://[^/?#\s]+[^?#\s]*$")] = "https://huggingface.co"
    """Where files of Hugging Face repositories are fetched; `HF_ENDPOINT` when neither file nor variable set it."""
    hub_token: str = ""
    """Opens repositories with a licence gate; `HF_TOKEN` when neither file nor variable set it."""
    quota_bytes: Annotated[int, Field(ge=0)] = 0
    """0: as much as the disk has."""
    cascade: Annotated[tuple[CascadeName, ...], AfterValidator(_none_or_two)] = ()
    """A small and a larger model, `ID` or `ID/VARIANT`; the larger is asked where the small answer does not stand."""


class EngineConfig(Section):
    threads: Annotated[int, Field(ge=0, le=512)] = 0
    """0: as many as the probe found fastest."""
    kv_type: KvType = "q8_0"
    chunk_tokens: Annotated[int, Field(ge=8, le=512)] = 64
    """Canonical prefill chunk; both ends of a handover must agree on it."""
    queue: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests that may wait for the engine before more are refused."""
    queue_per_user: Annotated[int, Field(ge=0, le=1024)] = 0
    """Of these, how many may be one user's; 0: three quarters, so that nobody keeps all others out."""
    idle_unload_s: Annotated[float, Field(ge=0)] = 300.0
    """A model unused for so long is unloaded; 0: never."""
    nice: Annotated[int, Field(ge=0, le=19)] = 2
    """How far model workers stand back for other programs: at 2, 655 parts of CPU time for each 1024 of another's."""
    sequences: Annotated[int, Field(ge=1, le=64)] = 4
    """Answers of one model at once, where memory allows."""
    kept_memory_bytes: Annotated[int, Field(ge=0)] = 128 * 2**20
    """Cache rows of conversations kept in memory outside of the workers; 0: none, and none on disk either."""
    kept_disk_bytes: Annotated[int, Field(ge=0)] = 2**30
    """Cache rows kept on disk, which outlive the daemon; 0: none."""
    room_wait_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """How long a request waits until models in use leave room for its own."""
    prune_share: Annotated[float, Field(gt=0, le=0.9)] = 0.5
    """Part of a prompt's positions that reduction L5 drops from the cache once the prompt was read."""
    speculation: Literal["auto", "off"] = "auto"
    """Guess tokens ahead where that pays and changes no bit of an answer."""
    drain_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    """How long answers under way have to end when the daemon stops."""

    @property
    def user_queue(self) -> int:
        """`queue_per_user` in force."""
        return self.queue_per_user or -(-self.queue * 3 // 4)


class PolicyConfig(Section):
    text_may_leave: bool = True
    lossy_wire: bool = False
    """Whether hidden states may travel rounded where that is faster; every answer that they did names it."""
    plans: tuple[PlanKind, ...] = tuple(PlanKind)
    quality_floor: float | None = Field(default=None, gt=1)
    """Highest perplexity a chosen variant may have; None: no floor."""
    objective: Literal["latency", "energy", "quality"] = "latency"
    layout: Literal["stable", "as_given"] = "stable"
    """`stable`: lines of the instructions that change between requests are read last, so that the cache lasts."""


class MemoryConfig(Section):
    enabled: bool = True
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")] = "default"
    path: str = ""
    """Empty: `memory.sqlite` in the state folder."""
    max_memories: Annotated[int, Field(ge=0)] = 100_000
    """Of each user, and of each agent of a user; 0: no limit."""
    write_back: bool = True
    """Whether the assistant remembers, without being told to, what a user tells of himself."""
    rerank: bool = False
    """Whether the best 16 memories are compared with the question word by word: finds more, and embeds 16 texts each
    time."""
    idle_work: bool = True
    """Whether old turns are summed up and stored texts measured while nobody asks anything."""


class ToolsConfig(Section):
    enabled: tuple[Literal["clock", "calculator", "memory"], ...] = ("clock", "calculator", "memory")


class GovernorConfig(Section):
    """Thresholds at which the engine gives way to heat, memory pressure, other programs and an empty battery."""

    enabled: bool = True
    interval_s: Annotated[float, Field(ge=1, le=10)] = 3.0
    """Between readings, while a model is loaded."""
    throttle_c: Annotated[float, Field(ge=0, le=150)] = 0.0
    """0: the kernel's passive trip point, else the board profile's."""
    margin_c: Annotated[float, Field(ge=0.5, le=40)] = 1.5
    available_part: Annotated[float, Field(gt=0, lt=0.5)] = 0.06
    pressure_percent: Annotated[float, Field(gt=0, le=100)] = 10.0
    battery_low_percent: Annotated[float, Field(ge=0, le=100)] = 20.0
    battery_critical_percent: Annotated[float, Field(ge=0, le=100)] = 8.0
    max_pause_s: Annotated[float, Field(ge=0, le=600)] = 60.0
    switch_power_mode: bool = False


class LogConfig(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(Section):
    http: HttpConfig = HttpConfig()
    mqtt: MqttConfig = MqttConfig()
    peer: PeerConfig = PeerConfig()
    models: ModelsConfig = ModelsConfig()
    engine: EngineConfig = EngineConfig()
    policy: PolicyConfig = PolicyConfig()
    memory: MemoryConfig = MemoryConfig()
    tools: ToolsConfig = ToolsConfig()
    governor: GovernorConfig = GovernorConfig()
    log: LogConfig = LogConfig()


Tree = dict[str, Any]
"""A TOML document: values are whatever the file says until `Config` has validated them."""


def environment_tree(environment: Mapping[str, str]) -> Tree:
    """`EDGEAGENT__SECTION__KEY=value` as a tree. Lists and inline tables are read as TOML."""
    tree: Tree = {}
    for name, raw in sorted(environment.items()):
        if not name.startswith(ENV_PREFIX):
            continue
        *sections, key = name.removeprefix(ENV_PREFIX).lower().split("__")
        node = tree
        for section in sections:
            below = node.setdefault(section, {})
            if not isinstance(below, dict):
                raise ConfigError(f"environment: {name} names a key inside '{section}', which is set to a value")
            node = below
        node[key] = _env_value(raw)
    return tree


def _env_value(raw: str) -> Any:
    # Only lists and tables are read as TOML: a password `true` or `007` stays the string it is.
    if not raw.startswith(("[", "{")):
        return raw
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def overlay(base: Tree, upper: Tree) -> Tree:
    """`upper` over `base`, section by section."""
    merged = dict(base)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def build_config(tree: Tree, origin: str) -> Config:
    """The validated settings, or a ConfigError that names the first bad key and the nearest good one."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        near = _nearest(path)
        return f"unknown key '{key}'; " + (f"did you mean '{near}'?" if near else "remove it")
    return f"key '{key}': {first['msg']}; correct its value"


def _nearest(path: list[str]) -> str | None:
    model: type[BaseModel] = Config
    for part in path[:-1]:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    found = difflib.get_close_matches(path[-1], list(model.model_fields), n=1, cutoff=0.5)
    return ".".join([*path[:-1], found[0]]) if found else None
