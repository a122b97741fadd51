"""PDF: the text of each page, read by PDFium, or by pypdf where that one cannot."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ainet.errors import UsageError
from ainet.passages.lines import passages_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ainet.storage.records import Passage

BEGIN = b"%PDF-"
#: Pages that are read: the first ones.
MOST_PAGES = 2000


def pdf_passages(data: bytes) -> Iterator[Passage]:
    """Yield the passages of a document, page by page.

    Raises
    ------
    UsageError
        It is encrypted, damaged, or has no text.
    """
    pages = _by_pdfium(data)
    if pages is None:
        pages = _by_pypdf(data)
    has_text = False
    for number, text in enumerate(pages, 1):
        lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").split("\n")
        for one in passages_of(lines, 1, len(lines), kind="page", name=f"page {number}", cell=f"page={number}"):
            has_text = True
            yield one
    if not has_text:
        raise UsageError("has no text: its pages may be pictures")


def _by_pdfium(data: bytes) -> list[str] | None:
    """Return the text of the pages; None where PDFium cannot read the document."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
        try:
            return [document[i].get_textpage().get_text_bounded() for i in range(min(len(document), MOST_PAGES))]
        finally:
            document.close()
    except (pypdfium2.PdfiumError, ValueError, OSError):
        return None


def _by_pypdf(data: bytes) -> list[str]:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UsageError("is encrypted")
        return [page.extract_text() for page in reader.pages[:MOST_PAGES]]
    except UsageError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError) as exc:
        raise UsageError(f"is no PDF that can be read ({type(exc).__name__})") from exc
