"""llama.cpp's sampler parts for one Sampling. Whoever makes a part frees it."""

import re
from itertools import accumulate

from edgeagent.core.errors import RequestError
from edgeagent.core.generation import Sampling
from edgeagent.execution.llama.library import llama, release
from edgeagent.execution.llama.model import Model

GRAMMAR_ROOT = b"root"
MAX_GRAMMAR_DEPTH = 200
"""Brackets inside brackets: llama.cpp's parser recurses once for each, and 20,000 end the process."""

_NOT_BRACKETS = re.compile(r'"(?:\\.|[^"\\])*"?|\[(?:\\.|[^\]\\])*\]?|#[^\n]*')


def bias(model: Model, sampling: Sampling) -> object | None:
    """None when nothing is biased. Raises RequestError for an id outside the vocabulary."""
    lib, pairs = llama(), sampling.logit_bias
    if (wrong := next((token for token, _ in pairs if token >= model.num_vocab), None)) is not None:
        raise RequestError(f"logit_bias names token id {wrong}, but the vocabulary has {model.num_vocab}; correct it")
    if not pairs:
        return None
    entries = (lib.llama_logit_bias * len(pairs))(*[lib.llama_logit_bias(token, value) for token, value in pairs])
    return lib.llama_sampler_init_logit_bias(model.num_vocab, len(pairs), entries)  # type: ignore[no-any-return]


def penalties(model: Model, sampling: Sampling) -> object | None:
    """None when nothing is penalised. It knows the tokens that it was given by `llama_sampler_accept`."""
    values = (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty)
    if values == (1.0, 0.0, 0.0) or sampling.penalty_window == 0:
        return None
    vocabulary = (model.num_vocab,) if release().penalties_take_vocabulary else ()
    made: object = llama().llama_sampler_init_penalties(*vocabulary, sampling.penalty_window, *values)
    return made


def filters(sampling: Sampling) -> list[object]:
    """What thins out the candidates of a draw, in llama.cpp's order; greedy draws need none."""
    if sampling.temperature == 0:
        return []
    lib = llama()
    made = [lib.llama_sampler_init_top_k(sampling.top_k)] if sampling.top_k else []
    made.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
    made.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
    made.append(lib.llama_sampler_init_temp(sampling.temperature))
    return made


def grammar(model: Model, sampling: Sampling) -> object | None:
    """None without a grammar. Raises RequestError for one that llama.cpp cannot read."""
    text = sampling.grammar
    if text is None:
        return None
    if _depth(text) > MAX_GRAMMAR_DEPTH:
        raise RequestError(f"the grammar nests brackets over {MAX_GRAMMAR_DEPTH} deep; use rules instead")
    made: object | None = llama().llama_sampler_init_grammar(model.vocab, text.encode(), GRAMMAR_ROOT)
    if not made:
        raise RequestError("the grammar cannot be parsed; give GBNF with a rule named 'root'")
    return made


def _depth(text: str) -> int:
    """How deep round brackets nest, outside of literals, character classes and comments."""
    brackets = _NOT_BRACKETS.sub("", text)
    return max(accumulate((c == "(") - (c == ")") for c in brackets), default=0)
