"""The text of a file that is to be remembered: UTF-8 text (Markdown, chat logs), or the text of a PDF."""

import io

from edgeagent.core.errors import RequestError

PDF_MAGIC = b"%PDF-"
MAX_PAGES = 2000
MAX_TEXT_CHARS = 8 * 2**20
"""A small file may unfold to any length."""


def text_of(content: bytes, name: str) -> str:
    """Raises RequestError for what is neither, for a PDF that cannot be read, and without the library for PDF."""
    if content[:1024].lstrip().startswith(PDF_MAGIC):
        return _text_of_pdf(content, name)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{name} is not UTF-8 text; convert it first") from None


def _text_of_pdf(content: bytes, name: str) -> str:
    """The text layer, page by page, paragraphs apart."""
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError:
        raise RequestError(f"{name} is a PDF; install 'edgeagent[pdf]' to read it, or convert it to text") from None
    pages: list[str] = []
    room = MAX_TEXT_CHARS
    try:
        for page in PdfReader(io.BytesIO(content)).pages[:MAX_PAGES]:
            pages.append(page.extract_text())
            room -= len(pages[-1])
            if room < 0:
                raise RequestError(f"{name} holds more than {MAX_TEXT_CHARS} characters; split it")
    except DependencyError as e:
        raise RequestError(f"{name} is encrypted ({e}); save it without encryption") from None
    except (
        PyPdfError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        OverflowError,
        NotImplementedError,
        AssertionError,
    ) as e:
        raise RequestError(f"{name} cannot be read as a PDF ({type(e).__name__}); convert it to text") from None
    if not any(page.strip() for page in pages):
        raise RequestError(f"{name} has no text layer (scanned pages?); recognise its text first")
    return "\n\n".join(page.strip() for page in pages)
