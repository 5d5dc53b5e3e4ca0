"""Our header reader against sound, cut, flipped and hostile files."""

import contextlib
import io
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import ModelFileError
from edgeagent.model import gguf_cursor, gguf_header
from edgeagent.model.gguf_cursor import BLOCK_BYTES, HeaderIncompleteError
from edgeagent.model.gguf_header import GgufHeader, SkippedArray, read_header
from edgeagent.model.gguf_types import TENSOR_TYPES
from edgeagent.model.store import StoredVariant

UINT32, STRING, ARRAY = 4, 8, 9


def parse(content: bytes) -> GgufHeader:
    return read_header(io.BytesIO(content), "test.gguf")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def start(num_tensors: int, num_keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys)


def test_tiny_file_read_gives_shape_and_tensors(tiny_gguf: bytes) -> None:
    header = parse(tiny_gguf)
    assert (header.architecture, header.layers, header.width, header.heads) == ("llama", 1, 32, 2)
    assert (header.kv_heads, header.head_dim, header.vocab, header.context_tokens) == (1, 16, 4, 64)
    assert header.has_chat_template
    assert header.metadata["tokenizer.ggml.tokens"] == SkippedArray(4)
    assert [(t.name, t.shape, t.num_bytes) for t in header.tensors] == [
        ("token_embd.weight", (32, 4), 512),
        ("output_norm.weight", (32,), 128),
    ]


def test_embedded_model_read_fits_its_card(smollm2: StoredVariant) -> None:
    with smollm2.path.open("rb") as file:
        header = read_header(file, "smollm2")
    shape = smollm2.card.architecture
    assert shape is not None
    assert (header.layers, header.vocab, header.context_tokens) == (shape.layers, shape.vocab, shape.context_tokens)
    assert sum(_elements(t.shape) for t in header.tensors) == smollm2.card.parameters


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def test_file_cut_at_every_byte_is_refused(tiny_gguf: bytes) -> None:
    header = parse(tiny_gguf)
    needed = header.data_offset + header.tensors[-1].offset + header.tensors[-1].num_bytes
    for length in range(needed):
        with pytest.raises(ModelFileError, match=r"test\.gguf is not a sound GGUF file"):
            parse(tiny_gguf[:length])


def test_every_bit_flipped_is_read_or_refused(tiny_gguf: bytes) -> None:
    refused = 0
    for position in range(parse(tiny_gguf).data_offset * 8):
        content = bytearray(tiny_gguf)
        content[position // 8] ^= 1 << position % 8
        try:
            parse(bytes(content))
        except ModelFileError:
            refused += 1
    assert refused > 1000


@given(st.binary(max_size=512))
def test_random_bytes_after_a_good_start_are_refused(tail: bytes) -> None:
    with pytest.raises(ModelFileError):
        parse(start(1, 2) + tail)


@given(st.integers(0, 2**32))
def test_random_damage_to_a_sound_file_is_read_or_refused(tiny_gguf: bytes, seed: int) -> None:
    draw = random.Random(seed)
    content = bytearray(tiny_gguf)
    for _ in range(draw.randrange(1, 16)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    with contextlib.suppress(ModelFileError):
        assert parse(bytes(content)).tensors


@pytest.mark.parametrize("item_type", [UINT32, STRING])
def test_array_of_2_to_the_63_items_is_refused(item_type: int) -> None:
    array = text("a") + struct.pack("<IIQ", ARRAY, item_type, 2**63)
    with pytest.raises(ModelFileError, match="ends at byte"):
        parse(start(1, 1) + array)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ends at byte 0"),
        (b"GGML" + bytes(20), "does not begin"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "big-endian"),
        (start(1, 2**40), "metadata keys"),
        (start(2**40, 0), "tensors, where"),
        (start(0, 0), "0 tensors"),
        (start(1, 1) + struct.pack("<Q", 2**62), "a string of"),
        (start(1, 1) + text("k") + struct.pack("<I", 99), "unknown type 99"),
        (start(1, 1) + text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1), "unsupported type 9"),
        (start(1, 1) + text("k") + struct.pack("<IB", 7, 2), "truth value"),
        (start(1, 2) + 2 * (text("k") + struct.pack("<IB", 7, 1)), "occurs twice"),
        (start(1, 1) + text("general.alignment") + struct.pack("<II", UINT32, 48), "alignment 48"),
        (start(1, 0) + text("t") + struct.pack("<I", 5), "5 dimensions"),
        (start(1, 0) + text("t") + struct.pack("<IQIQ", 1, 32, 99, 0), "unknown type 99"),
        (start(1, 0) + text("t") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0), "impossible shape"),
        (start(1, 0) + text("t") + struct.pack("<IQIQ", 1, 33, 2, 0), "no multiple of 32"),
        (start(1, 0) + text("t") + struct.pack("<IQIQ", 1, 32, 0, 64), "lies at 64"),
        (start(1, 0) + text("t") + struct.pack("<IQIQ", 1, 32, 0, 0), "truncated"),
        (start(1, 0) + text("t") + struct.pack("<IQIQ", 1, 1, 0, 0) + bytes(64), "architecture"),
    ],
)
def test_hostile_field_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ModelFileError, match=reason):
        parse(content)


def test_vocabulary_over_several_blocks_is_stepped_over(tiny_gguf: bytes) -> None:
    count = BLOCK_BYTES // 4
    words = b"".join(text("w" * (number % 7)) for number in range(count))
    extra = text("words") + struct.pack("<IIQ", ARRAY, STRING, count) + words
    header_end = parse(tiny_gguf).data_offset
    num_keys = struct.unpack_from("<Q", tiny_gguf, 16)[0]
    padding = -len(extra) % 32
    extra += text("p" * (padding + 32 - 8 - 4 - 1)) + struct.pack("<IB", 7, 1)
    grown = tiny_gguf[:16] + struct.pack("<Q", num_keys + 2) + extra + tiny_gguf[24:header_end] + tiny_gguf[header_end:]
    assert parse(grown).metadata["words"] == SkippedArray(count)


def test_tensor_types_agree_with_the_format_library() -> None:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    too_new = {42}  # Q2_0: llama.cpp has it since after the library's release
    for number, known in ((n, t) for n, t in TENSOR_TYPES.items() if n not in too_new):
        theirs = GGMLQuantizationType(number)
        assert (known.name, known.block_elements, known.block_bytes) == (theirs.name, *GGML_QUANT_SIZES[theirs])


def test_cut_file_on_disk_is_named_in_the_error(tmp_path: Path, tiny_gguf: bytes) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf[:100])
    with path.open("rb") as file, pytest.raises(ModelFileError, match=str(path)):
        read_header(file, str(path))


def test_growing_file_is_incomplete_until_its_header_is_whole(tiny_gguf: bytes) -> None:
    end = parse(tiny_gguf).data_offset
    for length in range(end - 32):
        with pytest.raises(HeaderIncompleteError):
            read_header(io.BytesIO(tiny_gguf[:length]), "growing", len(tiny_gguf))
    grown = read_header(io.BytesIO(tiny_gguf[:end]), "growing", len(tiny_gguf))
    assert grown == parse(tiny_gguf)


def test_growing_file_that_cannot_hold_its_tensors_is_refused(tiny_gguf: bytes) -> None:
    end = parse(tiny_gguf).data_offset
    with pytest.raises(ModelFileError, match="is truncated"):
        read_header(io.BytesIO(tiny_gguf[:end]), "growing", len(tiny_gguf) - 64)


def test_damage_in_the_part_that_is_there_is_refused_at_once(tiny_gguf: bytes) -> None:
    with pytest.raises(ModelFileError, match="does not begin") as refused:
        read_header(io.BytesIO(b"<!DOCTYPE html>" + bytes(20)), "growing", len(tiny_gguf))
    assert not isinstance(refused.value, HeaderIncompleteError)


def test_49_byte_array_bomb_is_refused() -> None:
    bomb = start(1, 1) + text("a") + struct.pack("<IIQ", ARRAY, UINT32, 2**63)
    assert len(bomb) == 49
    with pytest.raises(ModelFileError, match="ends at byte 49"):
        parse(bomb)


def test_more_strings_than_any_vocabulary_are_refused() -> None:
    count = gguf_cursor.MAX_STRINGS // 2 + 1
    array = struct.pack("<IIQ", ARRAY, STRING, count) + bytes(8 * count)
    with pytest.raises(ModelFileError, match=f"more than {gguf_cursor.MAX_STRINGS} strings"):
        parse(start(1, 2) + text("a") + array + text("b") + array)


def test_more_text_than_any_template_is_refused() -> None:
    value = struct.pack("<I", STRING) + text("x" * 2**20)
    with pytest.raises(ModelFileError, match="longer than 8388608 bytes together"):
        parse(start(1, 9) + b"".join(text(f"k{number}") + value for number in range(9)))


def test_numbers_beyond_the_kept_are_stepped_over(tiny_gguf: bytes) -> None:
    num_keys = struct.unpack_from("<Q", tiny_gguf, 16)[0]
    array = struct.pack("<IIQ", ARRAY, UINT32, 4096) + struct.pack("<4096I", *range(4096))
    extra = b"".join(text(f"numbers{number:02}") + array for number in range(17))
    extra += text("p" * (-(len(extra) + 8 + 5) % 32 + 32)) + struct.pack("<IB", 7, 1)
    grown = tiny_gguf[:16] + struct.pack("<Q", num_keys + 18) + extra + tiny_gguf[24:]
    metadata = parse(grown).metadata
    assert metadata["numbers15"] == tuple(range(4096))
    assert gguf_header.MAX_KEPT_NUMBERS == 16 * 4096
    assert metadata["numbers16"] == SkippedArray(4096)
