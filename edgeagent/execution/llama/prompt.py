"""Messages to token ids, so that nothing a user or a tool writes can become a control token."""

from collections.abc import Sequence

from edgeagent.core.errors import RequestError
from edgeagent.execution.llama.model import Model
from edgeagent.execution.template import PLAIN_TEMPLATE, BrokenTemplateError, Turn, render

_OPEN, _CLOSE = "\ue000", "\ue001"  # private-use characters mark where a message's text goes


def encode(model: Model, messages: Sequence[Turn], *, answer_prefix: str = "") -> tuple[list[int], str | None]:
    """The prompt's token ids, up to and including the start of the assistant's turn (and `answer_prefix`).

    And a note when the model's own template could not be used and the plain one was.
    """
    tokens, note = _encoded(model, messages)
    return tokens + model.tokenize(answer_prefix, add_special=False, parse_special=False), note


def _encoded(model: Model, messages: Sequence[Turn]) -> tuple[list[int], str | None]:
    fault, template = model.template_fault, model.chat_template
    if template is None:
        fault = "the model file has no chat template"
    elif fault is None:
        try:
            return _with_template(model, template, messages), None
        except BrokenTemplateError as error:
            fault = str(error)
            if error.is_final:  # each attempt may cost its whole time limit
                model.template_fault = fault
    try:
        tokens = _with_template(model, PLAIN_TEMPLATE, messages)
    except BrokenTemplateError as error:  # nothing is wrong with this one: there is too much to write
        raise RequestError(str(error)) from None
    return tokens, f"{fault}; the prompt is in the plain question-answer form"


def _with_template(model: Model, template: str, messages: Sequence[Turn]) -> list[int]:
    """Only the template may write control tokens: text that holds one, or a mark, is tokenized apart from it.

    Just that text, so that a conversation's tokens do not change with what is said later in it.
    """
    apart = {str(i): turn["content"] for i, turn in enumerate(messages) if _must_be_apart(model, turn["content"])}
    marked = [
        {**turn, "content": f"{_OPEN}{i}{_CLOSE}"} if str(i) in apart else turn for i, turn in enumerate(messages)
    ]
    first, *rest = render(template, marked, bos=model.bos_text, eos=model.eos_text).split(_OPEN)
    tokens = _with_bos(model, first)
    for part in rest:
        index, _, after = part.partition(_CLOSE)
        if index not in apart:
            raise BrokenTemplateError("changes what it is given")
        tokens += model.tokenize(apart[index], add_special=False, parse_special=False)
        tokens += model.tokenize(after, add_special=False, parse_special=True)
    return tokens


def _must_be_apart(model: Model, text: str) -> bool:
    if _OPEN in text or _CLOSE in text:
        return True
    return any(model.is_control(t) for t in model.tokenize(text, add_special=False, parse_special=True))


def _with_bos(model: Model, text: str) -> list[int]:
    # A template that writes its own beginning-of-sequence token must not get a second one.
    add = not (model.bos_text and text.startswith(model.bos_text))
    return model.tokenize(text, add_special=add, parse_special=True)
