"""Turns the published MiniLM, whose int8 weights are made float before use, into one that computes in int8.

The published file keeps each weight as `Mul(Cast(int8), scale)`, a scale a column. ONNX Runtime folds that into
float32 at load: the file is small, the memory and the arithmetic are not. Here the same numbers and scales feed
integer matrix products, and activations are quantised as they come (dynamically, a scale a tensor). No weight changes
but in its place, so nothing is calibrated, and the result's bytes follow from the input's alone.

The graph is BERT's (arXiv 1810.04805), written with the fused operators of ONNX Runtime's `docs/ContribOperators.md`:
`QAttention` and `DynamicQuantizeMatMul`. See docs/adr/0013-the-encoder-computes-in-int8.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeagent.execution.onnx.graph import FLOAT, INT32, Graph, Writer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

DYNAMIC = "dynamic"
"""Noted in the file: an activation's scale is that of all texts in a run."""
HEADS = 12
"""`num_attention_heads` in the configuration of sentence-transformers/all-MiniLM-L6-v2."""
EMBEDDINGS, LAYER, SELF = "inner.embeddings", "inner.encoder.layer.{}", ("query", "key", "value")
INPUTS, OUTPUT = ("input_ids", "attention_mask", "token_type_ids"), "last_hidden_state"


@dataclass(frozen=True, slots=True)
class Weight:
    """`values` int8 `[inputs, outputs]`; `scales` and `bias` float32 `[outputs]`."""

    values: "Array"
    scales: "Array"
    bias: "Array"


def requantize(model: bytes) -> bytes:
    """The model that computes in int8. Raises ValueError for another file than the published one's kind."""
    try:
        published = Published(Graph.read(model))
        return _Encoder(published).model()
    except (KeyError, StopIteration, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"it has no {error} of a BERT encoder with dequantised weights") from None


class Published:
    """Finds the weights in the published graph by the names of their biases."""

    def __init__(self, graph: Graph) -> None:
        self.tensors = graph.tensors
        self._made_by = {output: node for node in graph.nodes for output in node.outputs}
        self._used_by = {name: node for node in graph.nodes for name in node.inputs}
        self.epsilon = next(n.floats["epsilon"] for n in graph.nodes if n.kind == "LayerNormalization")

    def weight(self, name: str) -> Weight:
        """Of the dense layer `name`: what the bias is added to was multiplied with it."""
        bias = f"{name}.bias"
        product = self._made_by[self._used_by[bias].inputs[0]]
        stem = product.inputs[1]
        return Weight(self.tensors[f"{stem}_q"], self.tensors[f"{stem}_scale"].reshape(-1), self.tensors[bias])

    def layers(self) -> range:
        count = 0
        while f"{LAYER.format(count)}.output.dense.bias" in self.tensors:
            count += 1
        return range(count)


class _Encoder:
    """The new graph, layer by layer. Each step returns the name of what it made."""

    def __init__(self, published: Published) -> None:
        self._published = published
        self._out = Writer("encoder")

    def model(self) -> bytes:
        hidden = self._embed()
        mask = self._out.node("Cast", ["attention_mask"], "mask", to=INT32)
        layers = self._published.layers()
        for layer in layers:
            hidden = self._layer(LAYER.format(layer), hidden, mask, OUTPUT if layer == layers[-1] else "")
        width = int(self._published.tensors[f"{EMBEDDINGS}.LayerNorm.bias"].shape[0])
        return self._out.model(INPUTS, hidden, width, DYNAMIC)

    def _embed(self) -> str:
        """Rows of words are taken as int8, so that the table stays small; there are few positions."""
        import numpy as np

        out, tensors = self._out, self._published.tensors
        words, places = f"{EMBEDDINGS}.word_embeddings.weight", f"{EMBEDDINGS}.position_embeddings.weight"
        word = self._row(f"{words}_q", "input_ids", "word_int8")
        scale = self._row(f"{words}_scale", "input_ids", "word_scale")
        word = out.node("Mul", [out.node("Cast", [word], "word_float", to=FLOAT), scale], "word")
        kind = self._row(f"{EMBEDDINGS}.token_type_embeddings.weight", "token_type_ids", "kind")
        table = tensors[f"{places}_q"].astype("<f4") * tensors[f"{places}_scale"]
        zero = out.tensor("zero", np.zeros(1, "<i8"))
        length = out.node("Shape", ["input_ids"], "length", start=1, end=2)
        place = out.node("Slice", [out.tensor(places, table), zero, length, zero], "place")
        return self._normed(f"{EMBEDDINGS}.LayerNorm", out.node("Add", [word, kind], "word_kind"), place)

    def _row(self, table: str, ids: str, output: str) -> str:
        tensor = self._out.tensor(table, self._published.tensors[table])
        return self._out.node("Gather", [tensor, ids], output)

    def _layer(self, name: str, hidden: str, mask: str, output: str) -> str:
        context = self._attend(f"{name}.attention.self", hidden, mask)
        attended = self._dense(f"{name}.attention.output.dense", context)
        hidden = self._normed(f"{name}.attention.output.LayerNorm", attended, hidden)
        wide = self._out.own("Gelu", [self._dense(f"{name}.intermediate.dense", hidden)], f"{name}.gelu")
        return self._normed(f"{name}.output.LayerNorm", self._dense(f"{name}.output.dense", wide), hidden, output)

    def _attend(self, name: str, hidden: str, mask: str) -> str:
        """All of self-attention in one operator, whose weight has the columns of query, key and value."""
        joined = _joined(self._published.weight(f"{name}.{part}") for part in SELF)
        weight, scales, bias, zeros = self._constants(name, joined)
        values, scale, zero = (f"{name}.input{part}" for part in ("", "_scale", "_zero"))
        self._out.node("DynamicQuantizeLinear", [hidden], values, scale, zero)
        inputs = [values, weight, bias, scale, scales, mask, zero, zeros]
        return self._out.own("QAttention", inputs, f"{name}.context", num_heads=HEADS)

    def _dense(self, name: str, hidden: str) -> str:
        weight, scales, bias, zeros = self._constants(name, self._published.weight(name))
        return self._out.own("DynamicQuantizeMatMul", [hidden, weight, scales, zeros, bias], f"{name}.out")

    def _constants(self, name: str, weight: Weight) -> tuple[str, str, str, str]:
        """Weight, scales, bias and zero points, which are all zero: the weights are symmetric."""
        import numpy as np

        width = len(weight.scales)
        values = self._out.tensor(f"{name}.weight", weight.values)
        scales = self._out.tensor(f"{name}.scale", weight.scales)
        zeros = self._out.tensor(f"zeros_{width}", np.zeros(width, np.int8))
        return values, scales, self._out.tensor(f"{name}.bias", weight.bias), zeros

    def _normed(self, name: str, hidden: str, residual: str, output: str = "") -> str:
        """Left as two operators: fused into one, ONNX Runtime 1.32 takes four times as long on AVX2."""
        tensors = self._published.tensors
        factors = [self._out.tensor(f"{name}.{part}", tensors[f"{name}.{part}"]) for part in ("weight", "bias")]
        total = self._out.node("Add", [hidden, residual], f"{name}.sum")
        epsilon = self._published.epsilon
        return self._out.node("LayerNormalization", [total, *factors], output or f"{name}.out", epsilon=epsilon)


def _joined(weights: Iterable[Weight]) -> Weight:
    import numpy as np

    parts = list(weights)
    return Weight(
        np.concatenate([p.values for p in parts], axis=1),
        np.concatenate([p.scales for p in parts]),
        np.concatenate([p.bias for p in parts]),
    )
