"""Files that are to be remembered."""

import pytest

from edgeagent.agent.memory.reading import text_of
from edgeagent.core.errors import RequestError


def one_page(text: str) -> bytes:
    """A PDF of one page with one line, written after the format's own structure (ISO 32000-1, 7.5)."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    resources = b"<< /Font << /F1 5 0 R >> >>"
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources %s >>" % resources,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        font,
    ]
    body, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, start=1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        body
        + b"xref\n0 6\n0000000000 65535 f \n"
        + table
        + (b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(body))
    )


def test_text_is_read_without_its_byte_order_mark() -> None:
    assert text_of("\ufeffThe pump.".encode(), "a.txt") == "The pump."


def test_what_is_neither_text_nor_pdf_is_one_clear_error() -> None:
    with pytest.raises(RequestError, match="not UTF-8"):
        text_of(b"\xff\xfe\x00", "a.bin")


def test_pdf_is_read_page_by_page() -> None:
    pytest.importorskip("pypdf", reason="the extra 'pdf' is not installed")
    assert text_of(one_page("The pump was descaled in May."), "a.pdf") == "The pump was descaled in May."
    with pytest.raises(RequestError, match="no text layer"):
        text_of(one_page(""), "scan.pdf")
    with pytest.raises(RequestError, match="cannot be read as a PDF"):
        text_of(b"%PDF-1.7\nnothing of it", "bad.pdf")


def test_pdf_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypdf", None)
    with pytest.raises(RequestError, match=r"edgeagent\[pdf\]"):
        text_of(b"%PDF-1.7\n", "a.pdf")
