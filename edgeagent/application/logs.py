"""Log lines: one line a fact, `key=value` for people or JSON for machines.

Any floor logs with the standard library alone, the facts in `extra`:

    logging.getLogger(__name__).info("worker started", extra={"engine": "llama", "pid": 41})
    time=2026-01-31T12:00:00.123Z level=info logger=edgeagent.execution.supervisor event="worker started" …
"""

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from edgeagent.core.errors import ConfigError

FORMAT_VARIABLE = "EDGEAGENT_LOG"
PRIVATE_KEYS = frozenset(
    {"answer", "content", "key", "memory", "messages", "password", "prompt", "query", "secret", "text", "token"}
)
"""Facts of these names are the user's: left out above debug level."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_PLAIN = re.compile(r"[\w.:/@%+,~-]+", re.ASCII)


def configure(level: str, format_name: str, stream: TextIO) -> None:
    """Send this program's records of `level` and above to `stream`; other libraries' from warning on.

    May be called again: the last call counts.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format_name == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("edgeagent").setLevel(level.upper())


def chosen_format(configured: str, environment: Mapping[str, str]) -> str:
    """`text` or `json`: what `$EDGEAGENT_LOG` says, else what is configured. Raises ConfigError."""
    name = environment.get(FORMAT_VARIABLE) or configured
    if name not in ("text", "json"):
        raise ConfigError(f"{FORMAT_VARIABLE} is '{name}'; set it to text or json")
    return name


def facts(record: logging.LogRecord) -> dict[str, object]:
    """What one line says, in order: when, how bad, who, what happened, then the record's own facts."""
    moment = datetime.fromtimestamp(record.created, UTC)
    found: dict[str, object] = {
        "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
    }
    is_private_shown = record.levelno <= logging.DEBUG
    own = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    found |= {key: value for key, value in own.items() if is_private_shown or key not in PRIVATE_KEYS}
    if record.exc_info and record.exc_info[0]:
        found["exception"] = record.exc_info[0].__name__
        found["traceback"] = logging.Formatter().formatException(record.exc_info)
    return found


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(facts(record), default=str)  # ASCII: some readers end a line at U+0085 or U+2028


class TextFormatter(logging.Formatter):
    """`key=value` separated by spaces; a value that is not one plain word is quoted as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_text(value)}" for key, value in facts(record).items())


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    plain = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    if _PLAIN.fullmatch(plain):
        return plain
    return json.dumps(plain, ensure_ascii=not plain.isprintable())  # nothing in a value can start a new line
