"""Renders a model's chat template: a program from an untrusted file, so sandboxed, bounded in size, time and memory.

Runs inside a worker: what escapes these bounds costs a worker, not the daemon.
"""

import contextlib
import resource
import signal
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from edgeagent.core.errors import RequestError

MAX_TEMPLATE_BYTES = 64 * 1024
MAX_RENDERED_BYTES = 4 * 2**20
MAX_RENDER_S = 2.0
MAX_RENDER_MEMORY_BYTES = 64 * 2**20
MAX_REPEAT = 10_000
MAX_ERROR_CHARS = 300

_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NameError, RuntimeError,
    StopIteration, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""What a template's own code can raise besides Jinja's errors."""

PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% elif m.role == 'assistant' %}Answer: {{ m.content }}\n"
    "{% else %}Question: {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)
"""For base models, which come without a template."""

Turn = dict[str, str]


class BrokenTemplateError(RequestError):
    """The template itself is at fault. `is_final`: it fails whatever the messages are."""

    def __init__(self, why: str, *, is_final: bool = False) -> None:
        super().__init__(f"the model's chat template {why}; use another model file")
        self.is_final = is_final


class _TimeUpError(BaseException):
    """Not an Exception, so that no filter of Jinja's takes it for a bad value and goes on."""


class _RaisedError(Exception):
    """The template called `raise_exception`: it refuses these messages."""


def render(template: str, messages: Sequence[Turn], *, bos: str, eos: str) -> str:
    """The prompt text, ready for the assistant's turn.

    Raises BrokenTemplateError, or RequestError when the template refuses these messages on purpose.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    if len(template.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
        raise BrokenTemplateError(f"is over {MAX_TEMPLATE_BYTES} bytes", is_final=True)
    try:
        with _memory_limit(MAX_RENDER_MEMORY_BYTES), _deadline(MAX_RENDER_S):
            return _render(template, messages, bos, eos)
    except _RaisedError as error:
        raise RequestError(f"the model's chat template refuses: {_told(error)}; check the order of messages") from None
    except _TimeUpError:
        raise BrokenTemplateError(f"runs longer than {MAX_RENDER_S:g} s", is_final=True) from None
    except TemplateSyntaxError as error:
        raise BrokenTemplateError(f"is not valid: {_told(error)}", is_final=True) from None
    except (TemplateError, *_FAILURES) as error:
        raise BrokenTemplateError(f"failed: {_told(error)}") from None


def _told(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:MAX_ERROR_CHARS]


def _render(template: str, messages: Sequence[Turn], bos: str, eos: str) -> str:
    pieces: list[str] = []
    size = 0
    for piece in _compiled(template).generate(
        messages=messages, bos_token=bos, eos_token=eos, add_generation_prompt=True
    ):
        size += len(piece)
        if size > MAX_RENDERED_BYTES:
            raise ValueError(f"it writes more than {MAX_RENDERED_BYTES} bytes")
        pieces.append(piece)
    return "".join(pieces)


@lru_cache(maxsize=4)
def _compiled(template: str) -> Any:
    """Compiling takes longer than rendering. Nothing that a rendering does changes what is compiled."""
    return _environment().from_string(template)


def _environment() -> Any:  # jinja2's class, which only exists once jinja2 is imported
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if any(not isinstance(x, int | float) for x in (left, right)) or max(abs(left), abs(right)) > MAX_REPEAT:
                raise ValueError(f"'{operator}' on these values is not allowed")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message: str) -> None:
        raise _RaisedError(message)

    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = raise_exception
    return environment


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise _TimeUpError in the main thread after `seconds`, and again until it gets through."""

    def expire(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise _TimeUpError

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds / 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory_limit(num_bytes: int) -> Iterator[None]:
    """The process may map `num_bytes` more than it has now; what goes beyond raises MemoryError."""
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = mapped + num_bytes
    if before != resource.RLIM_INFINITY:
        limit = min(limit, before)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
