import pytest

from edgeagent.core.errors import RequestError
from edgeagent.execution.template import PLAIN_TEMPLATE, render

HELLO = [{"role": "user", "content": "hello"}]


def test_plain_template_ends_with_the_assistants_turn() -> None:
    text = render(PLAIN_TEMPLATE, [{"role": "system", "content": "be kind"}, *HELLO], bos="", eos="")
    assert text == "be kind\n\nQuestion: hello\nAnswer:"


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 'a' * 100000000 }}",
        "{{ 9 ** 99999999 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'long text that is repeated again and again' }}{% endfor %}" * 3,
        "{{ raise_exception('no') }}",
        "{% if %}",
        "x" * 70_000,
    ],
)
def test_hostile_template_is_refused_in_bounded_time(hostile: str) -> None:
    with pytest.raises(RequestError, match="template"):
        render(hostile, HELLO, bos="", eos="")
