import struct
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.kvstore.layout import (
    MAGIC,
    MAX_KEY_BYTES,
    MAX_PATH,
    MAX_PLANES,
    NAME,
    TAIL_BYTES,
    VERSION,
    Header,
    file_bytes,
    file_name,
    num_checks,
    pack,
    parse,
    parse_tail,
)
from edgeagent.execution.kvstore.tree import as_path

symbols = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    path = as_path(draw(symbols))
    first = draw(st.integers(0, len(path) - 1))
    planes = tuple(draw(st.lists(st.integers(1, 2**20), min_size=1, max_size=6)))
    rows_bytes = (len(path) - first) * sum(planes)
    checks = st.lists(st.integers(0, 2**32 - 1), min_size=num_checks(rows_bytes), max_size=num_checks(rows_bytes))
    return Header(draw(st.text(max_size=30)), path, first, planes, tuple(draw(checks)))


def parsed(packed: bytes, size: int) -> Header | None:
    tail = packed[-TAIL_BYTES:]
    sizes = parse_tail(tail, size)
    if sizes is None:
        return None
    start = len(packed) - TAIL_BYTES - sizes.description_bytes
    return parse(sizes, packed[max(start, 0) : len(packed) - TAIL_BYTES], tail, size)


@given(headers())
def test_header_comes_back_as_it_was(header: Header) -> None:
    packed = pack(header)
    assert file_bytes(header) == header.rows_bytes + len(packed)
    assert parsed(packed, file_bytes(header)) == header
    assert NAME.fullmatch(file_name(header))


@given(headers(), st.data())
def test_header_with_one_changed_bit_is_not_believed(header: Header, data: st.DataObject) -> None:
    packed = bytearray(pack(header))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    assert parsed(bytes(packed), file_bytes(header)) is None


@given(headers(), st.integers(-300, 300).filter(bool))
def test_file_of_another_size_is_not_believed(header: Header, difference: int) -> None:
    assert parsed(pack(header), file_bytes(header) + difference) is None


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 9999), min_size=5, max_size=5), st.integers(0, 2**40))
def test_hostile_lengths_never_ask_for_much(lengths: list[int], size: int) -> None:
    tail = struct.pack("<8s6I32s", MAGIC, VERSION, *lengths, bytes(32))
    sizes = parse_tail(tail, size)
    assert sizes is None or sizes.description_bytes <= 8 * MAX_PATH + 4 * MAX_PLANES + MAX_KEY_BYTES + 4 * 4096


@given(headers(), headers())
def test_names_differ_where_what_is_stored_does(one: Header, two: Header) -> None:
    assert (file_name(one) == file_name(two)) is (replace(one, checks=()) == replace(two, checks=()))
    assert file_name(one) == file_name(replace(one, checks=()))
    for changed in (replace(one, key=f"{one.key}x"), replace(one, planes=(*one.planes, 1))):
        assert file_name(changed) != file_name(one)


def test_longest_of_equal_beginnings_sorts_first() -> None:
    ranges = ((0, 300), (0, 20), (1, 9), (256, 300))
    names = [file_name(Header("key", as_path(range(end)), first, (1,), ())) for first, end in ranges]
    assert sorted(names) == names
