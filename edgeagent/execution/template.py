"""Renders a model's chat template: a program from an untrusted file, so sandboxed, bounded in size and time.

Runs inside a worker: what escapes these bounds costs a worker, not the daemon.
"""

import contextlib
import signal
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from edgeagent.core.errors import RequestError

MAX_TEMPLATE_BYTES = 64 * 1024
MAX_RENDERED_BYTES = 4 * 2**20
MAX_RENDER_S = 2.0
MAX_REPEAT = 10_000

PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% elif m.role == 'assistant' %}Answer: {{ m.content }}\n"
    "{% else %}Question: {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)
"""For base models, which come without a template."""

Turn = dict[str, str]


def render(template: str, messages: Sequence[Turn], *, bos: str, eos: str) -> str:
    """The prompt text, ready for the assistant's turn. Raises RequestError when the template misbehaves."""
    from jinja2 import TemplateError

    if len(template.encode()) > MAX_TEMPLATE_BYTES:
        raise RequestError(f"the model's chat template is over {MAX_TEMPLATE_BYTES} bytes; use another model file")
    try:
        with _deadline(MAX_RENDER_S):
            return _render(template, messages, bos, eos)
    except (TemplateError, TypeError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise RequestError(f"the model's chat template failed: {error}; check the order of the messages") from None


def _render(template: str, messages: Sequence[Turn], bos: str, eos: str) -> str:
    compiled = _environment().from_string(template)
    pieces: list[str] = []
    size = 0
    for piece in compiled.generate(messages=messages, bos_token=bos, eos_token=eos, add_generation_prompt=True):
        size += len(piece)
        if size > MAX_RENDERED_BYTES:
            raise ValueError(f"it writes more than {MAX_RENDERED_BYTES} bytes")
        pieces.append(piece)
    return "".join(pieces)


def _environment() -> Any:  # jinja2's class, which only exists once jinja2 is imported
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if any(not isinstance(x, int | float) for x in (left, right)) or max(abs(left), abs(right)) > MAX_REPEAT:
                raise ValueError(f"'{operator}' on these values is not allowed")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = raise_exception
    return environment


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise ValueError in the main thread after `seconds`."""

    def expire(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise ValueError(f"it runs longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
