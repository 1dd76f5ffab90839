"""A folder of documents becomes text, whatever is in it."""

from __future__ import annotations

import sys

import pytest

from rung.data.retrieval import documents, read_folder
from rung.errors import DataError
from tests.data.pdf import pdf


def test_every_kind_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "b.txt").write_text("Plain words.")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.md").write_text("# Head\n\nBody.")
    (tmp_path / "c.html").write_text(
        "<title>Care</title><p>One &amp; two<br>three</p><script>x</script>"
    )
    (tmp_path / "d.pdf").write_bytes(pdf("The pump is blue.", "It is quiet."))
    (tmp_path / "e.docx").write_bytes(b"PK")
    (tmp_path / ".hidden.txt").write_text("secret")
    found = {d.name: d.text for d in read_folder(tmp_path)}
    assert list(found) == ["b.txt", "c.html", "d.pdf", "sub/a.md"]
    assert found["c.html"] == "Care\n\nOne & two\n\nthree"
    assert found["d.pdf"].split() == ["The", "pump", "is", "blue.", "It", "is", "quiet."]
    assert found["sub/a.md"] == "# Head\n\nBody."


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<style>p{}</style><p>a<p>b", "a\n\nb"),
        ("<head><title>T</title><meta x><body>t", "T\n\nt"),
        ("<div>a <b>bold</b>\n  word</div><svg/><p>c", "a bold word\n\nc"),
        ("<noscript>no</noscript>yes", "yes"),
        ("</script>after<ul><li>1<li>2</ul>", "after\n\n1\n\n2"),
    ],
)
def test_html_keeps_the_prose(tmp_path, page, text):
    (tmp_path / "p.html").write_text(page)
    assert read_folder(tmp_path)[0].text == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Grüße".encode(), "Grüße"),
        ("Grüße".encode("utf-8-sig"), "Grüße"),
        ("Grüße".encode("utf-16"), "Grüße"),
        ("Grüße".encode("latin-1"), "Grüße"),
        (b"a\0b", "ab"),
    ],
)
def test_encodings_of_text(tmp_path, raw, text):
    (tmp_path / "t.txt").write_bytes(raw)
    assert read_folder(tmp_path)[0].text == text


def test_what_cannot_be_read_is_told_and_left_out(tmp_path):
    (tmp_path / "good.txt").write_text("fine")
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    notes = []
    assert [d.name for d in read_folder(tmp_path, notes.append)] == ["good.txt"]
    assert "2 documents left out" in notes[0]
    assert "broken.pdf: not a whole PDF" in notes[0] and "empty.md: it holds no text" in notes[0]


def test_pdfs_behind_a_password_are_left_out(tmp_path):
    from pypdf import PdfReader, PdfWriter

    (tmp_path / "open.pdf").write_bytes(pdf("Open words."))
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "open.pdf"))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "shut.pdf")
    notes = []
    assert [d.name for d in read_folder(tmp_path, notes.append)] == ["open.pdf"]
    assert "shut.pdf: it asks for a password" in notes[0]


def test_faults_of_the_folder_are_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="is no folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(DataError, match="has no htm, html, md, pdf, txt file"):
        read_folder(tmp_path)
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(DataError, match="a.txt: it holds no text"):
        read_folder(tmp_path)
    (tmp_path / "a.pdf").write_bytes(pdf("x"))
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(DataError, match=r"pip install 'rung\[documents\]'"):
        read_folder(tmp_path)


def test_the_digest_follows_names_and_content(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    first = documents.digest(tmp_path)
    assert documents.digest(tmp_path) == first
    (tmp_path / "a.txt").write_text("two")
    second = documents.digest(tmp_path)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert len({first, second, documents.digest(tmp_path)}) == 3
    assert documents.digest(tmp_path / "none")
