"""What `edgeagent doctor` checks. Each check tells how it went, why, and what to do; none raises for what it finds."""

import http.client
import ipaddress
import platform
import socket
import sys
from dataclasses import dataclass
from typing import Literal

from edgeagent.core.cards import KvType, ModelCard, RequantizedSource
from edgeagent.core.config import EngineConfig, HttpConfig
from edgeagent.core.errors import EdgeAgentError
from edgeagent.core.hardware import Capability, EngineFacts, Profile
from edgeagent.core.invariance import Invariance
from edgeagent.execution.confine import WorkerLimits, missing_here
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.boards import Board
from edgeagent.resource.calibration import is_disturbed
from edgeagent.resource.capability import NOT_INSTALLED, release_fault

GIB = 2**30
TIMEOUT_S = 3.0
ARCHITECTURES = {"x86_64", "aarch64"}
OLDEST_PYTHON = (3, 11)

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """`todo` is empty when there is nothing to do."""

    name: str
    status: Status
    reason: str
    todo: str = ""


def failure(name: str, error: Exception) -> Check:
    """A check that ended with one of this program's errors, which say what to do after a semicolon."""
    reason, _, todo = str(error).partition("; ")
    return Check(name, "fail", reason, todo)


def check_system() -> Check:
    machine, bits = platform.machine(), 64 if sys.maxsize > 2**32 else 32
    found = f"{platform.system()} {platform.release()} on {machine}, {bits}-bit Python"
    if sys.platform == "linux" and bits == 64 and machine in ARCHITECTURES:
        return Check("system", "ok", found)
    return Check("system", "fail", found, "use 64-bit Linux on x86-64 or Arm: the engines exist for nothing else")


def check_python() -> Check:
    found = f"Python {platform.python_version()}"
    if sys.version_info >= OLDEST_PYTHON:
        return Check("python", "ok", found)
    return Check("python", "fail", found, f"install Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")


def check_database() -> Check:
    """A real nearest-neighbour search and a real full-text search, in memory."""
    todo = "reinstall edgeagent with its dependencies"
    try:
        import apsw
        import sqlite_vec
    except ImportError as error:
        return Check("database", "fail", f"cannot import {error.name}", todo)
    connection = apsw.Connection(":memory:")
    try:
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        connection.execute("create virtual table v using vec0(e float[2]); create virtual table t using fts5(x)")
        connection.execute("insert into v(rowid, e) values (1, '[0, 1]'), (2, '[1, 0]'); insert into t values ('word')")
        near = connection.execute("select rowid from v where e match '[0.9, 0]' and k = 1").fetchall()
        found = connection.execute("select count(*) from t where t match 'word'").fetchall()
        (version,) = connection.execute("select vec_version()").fetchall()[0]
    except apsw.Error as error:
        return Check("database", "fail", f"SQLite cannot search vectors or text: {error}", todo)
    finally:
        connection.close()
    if near != [(2,)] or found != [(1,)]:
        return Check("database", "fail", "SQLite searches wrongly", todo)
    return Check("database", "ok", f"SQLite {apsw.sqlite_lib_version()}, FTS5, sqlite-vec {version}")


def check_model(name: str, store: ModelStore, model_id: str) -> Check:
    """Is the file here, and is it sound?"""
    try:
        stored = store.find(model_id)
        form = _form(store, stored) if stored else ""
    except EdgeAgentError as error:
        return failure(name, error)
    if stored is None:
        return Check(name, "warn", f"{model_id} is not in {store.folder}", f"run 'edgeagent models pull {model_id}'")
    size = f"{stored.bytes / 1e6:.0f} MB, verified"
    return Check(name, "ok", f"{model_id} {stored.variant.name}, {size}{form}")


def _form(store: ModelStore, stored: StoredVariant) -> str:
    """Whether the form that computes in int8 is there, of an encoder that has one. Raises EdgeAgentError."""
    made = next((v.name for v in stored.card.variants if isinstance(v.source, RequantizedSource)), None)
    if made is None:
        return ""
    is_here = store.find(stored.card.id, made) is not None
    return f", and {made} made from it" if is_here else f"; {made} will be made from it at first use"


def check_engine(engine: EngineFacts | None) -> Check:
    if engine is not None and engine.version == NOT_INSTALLED:
        return Check("engine", "fail", f"{engine.name}: {engine.probe.reason}", "reinstall edgeagent")
    if engine is not None and not engine.usable and engine.version and (told := release_fault(engine.version)):
        reason, _, todo = told.partition("; ")
        return Check("engine", "fail", reason, todo)
    if engine is None or engine.probe.verdict == "untested":
        why = engine.probe.reason if engine else "it was never tried"
        return Check("engine", "warn", f"untested: {why}", "pull a model, then run 'edgeagent profile --refresh'")
    told = f"{engine.name} {engine.version} {engine.probe.verdict}: {engine.probe.reason}"
    again = "update llama-cpp-python, then run 'edgeagent profile --refresh'"
    if not engine.usable:
        return Check("engine", "fail", told, again)
    return Check("engine", "ok", told) if engine.probe.verdict == "ok" else Check("engine", "warn", told, again)


def check_capabilities(profile: Profile) -> list[Check]:
    """What each engine can do here, a line an engine; engines of which nothing is known have none."""
    return [_capabilities(engine) for engine in profile.engines if engine.capabilities or _is_spare(engine)]


def _is_spare(engine: EngineFacts) -> bool:
    """An engine that works without, and of which something can be said: why it is not there, or what broke."""
    return engine.name != "llama" and not engine.usable


def _capabilities(engine: EngineFacts) -> Check:
    """A warning when something breaks the process or computes wrongly: nothing here uses it, other programs may."""
    if not engine.capabilities:
        status: Status = "ok" if engine.probe.verdict == "untested" else "warn"
        return Check(engine.name, status, f"{engine.probe.verdict}: {engine.probe.reason}")
    works = ", ".join(c.name for c in engine.capabilities if c.verdict == "ok")
    others = ", ".join(f"{c.name} {c.verdict} ({c.reason})" for c in engine.capabilities if c.verdict != "ok")
    told = f"can {works or 'nothing'}" + (f"; cannot {others}" if others else "")
    if any(map(_is_dangerous, engine.capabilities)):
        return Check(engine.name, "warn", told, f"it is not used; update {engine.name} or its driver")
    return Check(engine.name, "ok", told)


def _is_dangerous(capability: Capability) -> bool:
    return capability.verdict in {"crashed", "hung"} or capability.reason.startswith("wrong results")


def check_rates(profile: Profile) -> Check:
    """Were the rates measured on a quiet machine?"""
    busy = {key: rates.busy_fraction for key, rates in profile.rates.items() if is_disturbed(rates)}
    if busy:
        told = ", ".join(f"{key} while the CPU was {share or 0:.0%} busy" for key, share in busy.items())
        return Check("rates", "warn", f"measured {told}", "run 'edgeagent profile --refresh' when it is quiet")
    if not profile.rates:
        return Check("rates", "warn", "none is measured yet", "pull a model, then run 'edgeagent profile'")
    return Check("rates", "ok", f"measured for {', '.join(profile.rates)}")


def check_batches(profile: Profile) -> Check:
    """May answers share batches without changing each other's words?"""
    if not profile.invariance:
        return Check("batches", "ok", "not probed yet: the first answer with a model does it")
    told = [f"{_batches(found)} ({key.partition(' ')[0]})" for key, found in profile.invariance.items()]
    return Check("batches", "ok", f"answers share batches: {', '.join(dict.fromkeys(told))}")


def _batches(found: Invariance) -> str:
    if found.decode_batch > 1:
        return f"yes, up to {found.decode_batch}"
    differences = [d for check, d in found.max_abs_logit.items() if check.startswith("decode ")]
    if not differences:
        return "no, because they were not tried together" + ("" if found.complete else " in the time there was")
    return f"no, because a batch changes their logits by up to {max(differences):.2g}"


def check_memory(profile: Profile, card: ModelCard, context_tokens: int, kv_type: KvType) -> Check:
    """Do the model's weights and a full cache fit what is available?"""
    available = profile.memory.available_bytes
    weights = card.variants[0].bytes
    if weights is None or card.architecture is None:
        return Check("memory", "ok", f"{available / GIB:.1f} GiB available")
    needed = weights + context_tokens * card.architecture.kv_bytes_per_token(kv_type)
    told = f"{available / GIB:.1f} GiB available, {card.id} and its cache take {needed / GIB:.1f} GiB"
    if available < needed:
        return Check("memory", "fail", told, "free memory, choose a smaller model or a shorter models.context_tokens")
    return Check("memory", "ok", told)


def check_workers(config: EngineConfig) -> Check:
    """Can workers put themselves under their limits here?"""
    usual = WorkerLimits(address_bytes=2**40, data_bytes=2**40, cpu_s=3600, nice=config.nice)
    missing = missing_here(usual)
    if missing:
        todo = "allow it in the container or service that edgeagent runs in; it works without, less safely"
        return Check("workers", "warn", f"limits that cannot be set: {', '.join(missing)}", todo)
    return Check("workers", "ok", f"bounded in memory and CPU time, nice {config.nice}, ended before the daemon")


def check_disk(profile: Profile, store: ModelStore, card: ModelCard) -> Check:
    """Is there room for the default model, unless it is here already?"""
    file = card.variants[0]
    needed = 0 if store.path(card, file).is_file() else file.bytes or 0
    told = f"{profile.storage.free_bytes / GIB:.1f} GiB free for {profile.storage.path}"
    if profile.storage.free_bytes <= needed:
        return Check("disk", "fail", told, "free space, or put EDGEAGENT_STATE on a larger disk")
    return Check("disk", "ok", told)


def check_heat(profile: Profile, board: Board | None) -> Check:
    hottest = max(profile.thermal.zones.values(), default=None)
    limit = board.thermal.throttle_c.value if board and board.thermal.throttle_c else None
    told = "no temperature is told" if hottest is None else f"hottest zone {hottest:.0f} °C"
    cool = "cool the machine and check its power supply"
    if profile.thermal.throttled:
        return Check("heat", "warn", f"{told}, throttled now", cool)
    if hottest is not None and limit is not None and hottest >= limit:
        return Check("heat", "warn", f"{told}, this board slows down from {limit:.0f} °C", cool)
    return Check("heat", "ok", told)


def check_port(config: HttpConfig) -> Check:
    place = f"{config.host}:{config.port}"
    if not is_loopback(config.host) and not config.tokens:
        return Check("port", "fail", f"{place} is not loopback and nobody needs a token", "set http.tokens")
    try:
        family, kind, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        if _is_alive(config):
            return Check("port", "ok", f"a daemon answers on {place}")
        return Check("port", "fail", f"{place} cannot be used: {error.strerror}", "stop what uses it or set http.port")
    return Check("port", "ok", f"{place} is free")


def _is_alive(config: HttpConfig) -> bool:
    connection = http.client.HTTPConnection(config.host, config.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
