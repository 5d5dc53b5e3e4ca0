"""What lies in the unused parts of a SQLite file's pages. Pure; offsets after sqlite.org/fileformat2.html, section 1.6.

`secure_delete` overwrites a row where it is deleted. But while a tree is balanced, rows move from page to page, and
copies of them stay in the space between the places of a page's cells and the cells themselves.
"""

from collections.abc import Iterator

_FILE_HEADER_BYTES = 100
_INTERIOR, _LEAF = (2, 5), (10, 13)
"""The first byte of a page of an index or a table. Overflow and free pages begin with 0."""
_PAGE_SIZE_AT = 16


def page_size(head: bytes) -> int:
    """Of the file that begins so."""
    stored = _u16(head, _PAGE_SIZE_AT)
    return 65536 if stored == 1 else stored


def unused_parts(page: bytes, *, is_first: bool) -> Iterator[bytes]:
    """What an index's or table's page holds beside its cells, without zeros around it; a damaged page may give more."""
    head = _FILE_HEADER_BYTES if is_first else 0
    kind = page[head]
    if kind not in (*_INTERIOR, *_LEAF):
        return
    places = head + (12 if kind in _INTERIOR else 8)
    gap = page[places + 2 * _u16(page, head + 3) : _u16(page, head + 5) or len(page)]
    yield from filter(None, (part.strip(b"\0") for part in (gap, *_free_blocks(page, _u16(page, head + 1)))))


def _free_blocks(page: bytes, start: int) -> Iterator[bytes]:
    """What was freed between cells: blocks in ascending order, each with the place of the next and its own size."""
    while 0 < start <= len(page) - 4:
        following, size = _u16(page, start), _u16(page, start + 2)
        yield page[start + 4 : start + size]
        if following <= start:
            return
        start = following


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
