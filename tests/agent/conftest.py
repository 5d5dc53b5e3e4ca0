"""Real parts for the agent's tests: the embedded chat model, its grammar sampler, the embedding model."""

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp
import pytest

from edgeagent.core.chat import Message
from edgeagent.core.memory import Vector
from edgeagent.execution.embedding import Encoder
from edgeagent.model.store import StoredVariant
from tests.machine import REPACKS

LOG_CALLBACK = llama_cpp.llama_log_callback(lambda *_: None)
STOP = "<|im_end|>"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, smollm2: StoredVariant, encoder: Encoder) -> Path:
    """One folder with `chat.gguf`, `model.onnx` and `tokenizer.json`."""
    folder = tmp_path_factory.mktemp("agent-models")
    (folder / "chat.gguf").symlink_to(smollm2.path.resolve())
    (folder / "model.onnx").symlink_to(encoder.model.resolve())
    (folder / "tokenizer.json").symlink_to(encoder.tokenizer.resolve())
    return folder


class GrammarJudge:
    """Asks llama.cpp's own grammar sampler whether a text is a complete word of the grammar."""

    def __init__(self, file: Path) -> None:
        llama_cpp.llama_log_set(LOG_CALLBACK, None)
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), params)
        assert self._model is not None
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)

    def close(self) -> None:
        llama_cpp.llama_model_free(self._model)

    def accepts(self, grammar: str, text: str) -> bool:
        sampler = llama_cpp.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root")
        assert sampler, f"llama.cpp cannot read this grammar:\n{grammar}"
        try:
            for token in self._tokens(text):
                if not self._allows(sampler, token):
                    return False
                llama_cpp.llama_sampler_accept(sampler, token)
            return self._allows(sampler, llama_cpp.llama_vocab_eos(self._vocab))
        finally:
            llama_cpp.llama_sampler_free(sampler)

    def can_spell(self, text: str) -> bool:
        """SmolLM2's vocabulary lacks some bytes, so some rare characters cannot be written with it at all."""
        raw = text.encode()
        tokens = self._tokens(text)
        ids, out = (llama_cpp.llama_token * len(tokens))(*tokens), ctypes.create_string_buffer(len(raw) + 8)
        size = llama_cpp.llama_detokenize(self._vocab, ids, len(tokens), out, len(out), False, False)
        return size == len(raw) and out.raw[:size] == raw

    def _tokens(self, text: str) -> list[int]:
        raw = text.encode()
        tokens = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), tokens, len(tokens), False, False)
        assert count >= 0
        return list(tokens[:count])

    @staticmethod
    def _allows(sampler: object, token: int) -> bool:
        data = llama_cpp.llama_token_data(id=token, logit=0.0, p=0.0)
        candidates = llama_cpp.llama_token_data_array(data=ctypes.pointer(data), size=1, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(candidates))
        return bool(data.logit > float("-inf"))


@pytest.fixture(scope="session")
def judge(models: Path) -> Iterator[GrammarJudge]:
    judge = GrammarJudge(models / "chat.gguf")
    yield judge
    judge.close()


class ChatModel:
    """The embedded model behind the `Completer` protocol: greedy unless a temperature is given."""

    def __init__(self, file: Path) -> None:
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = REPACKS  # the class has no switch for it
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("llama_cpp.llama_cpp.llama_model_default_params", lambda: params)
            self._llama = llama_cpp.Llama(str(file), n_ctx=4096, n_threads=1, verbose=False)
        self.num_calls = 0

    def close(self) -> None:
        self._llama.close()

    async def complete(self, messages: Sequence[Message], *, max_tokens: int, grammar: str | None = None) -> str:
        self.num_calls += 1
        prompt = "".join(f"<|im_start|>{each.role}\n{each.content}{STOP}\n" for each in messages)
        answer = self._llama.create_completion(
            f"{prompt}<|im_start|>assistant\n",
            max_tokens=max_tokens,
            temperature=0.0,
            stop=[STOP],
            grammar=llama_cpp.LlamaGrammar.from_string(grammar, verbose=False) if grammar else None,
        )
        return str(answer["choices"][0]["text"])


@pytest.fixture(scope="session")
def chat_model(models: Path) -> Iterator[ChatModel]:
    model = ChatModel(models / "chat.gguf")
    yield model
    model.close()


class OnnxSentences:
    """MiniLM: mean of the token states under the mask, scaled to unit length."""

    dimensions = 384

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self._inputs = {each.name for each in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(256)
        self._tokenizer.no_padding()

    async def embed(self, texts: list[str]) -> list[Vector]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Vector:
        import numpy as np

        encoded = self._tokenizer.encode(text)
        mask = np.array([encoded.attention_mask], dtype=np.int64)
        feeds = {
            "input_ids": np.array([encoded.ids], dtype=np.int64),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        states = self._session.run(None, {k: v for k, v in feeds.items() if k in self._inputs})[0]
        vector = states[0].mean(axis=0) if states.ndim == 3 else states[0]
        return bytes((vector / np.linalg.norm(vector)).astype("<f4").tobytes())


@pytest.fixture(scope="session")
def embedder(models: Path) -> OnnxSentences:
    return OnnxSentences(models)
