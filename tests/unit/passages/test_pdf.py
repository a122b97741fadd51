"""The pages of PDF files are passages; what cannot be read is said in words."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter
from support.pdfs import pdf

from ainet.errors import UsageError
from ainet.passages import pdf as module
from ainet.passages.parse import parse


def test_each_page_is_a_passage():
    found = parse("report.pdf", pdf("The pump is new", "The boiler is old"))
    assert [(one.text, one.kind, one.name, one.cell) for one in found] == [
        ("The pump is new", "page", "page 1", "page=1"),
        ("The boiler is old", "page", "page 2", "page=2"),
    ]


def test_the_second_reader_reads_the_same(monkeypatch):
    monkeypatch.setattr(module, "_by_pdfium", lambda _data: None)
    assert [one.text for one in parse("report.pdf", pdf("The pump is new", "Old"))] == ["The pump is new", "Old"]


def test_secrets_are_not_kept():
    assert parse("a.pdf", pdf("key AKIAZ7QK4HD2MW3PLX5T", "fine"))[-1].text == "fine"
    assert "AKIAZ7" not in str(parse("a.pdf", pdf("key AKIAZ7QK4HD2MW3PLX5T", "fine")))


def encrypted():
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("The pump is new"))))
    writer.encrypt("secret", algorithm="RC4-128")
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [(encrypted(), "is encrypted"), (b"%PDF-1.7 junk", "is no PDF that can be read"), (pdf("", ""), "has no text")],
)
def test_what_cannot_be_read_is_said(data, words):
    with pytest.raises(UsageError, match=words):
        parse("x.pdf", data)


@settings(deadline=None, max_examples=60, derandomize=True)  # in C++, where a find would end the tests
@given(st.data())
def test_damage_is_refused_or_read(data):
    whole = bytearray(pdf("The pump is new", "The boiler is old"))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(5, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse("x.pdf", bytes(whole[: data.draw(st.integers(6, len(whole)))]))
    except UsageError as exc:
        message = exc.message
    else:
        message = ""
    assert len(message) < 200
