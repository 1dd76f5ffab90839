"""A folder of documents as plain text: txt, Markdown, HTML and PDF."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from rung.data.encoding import clean
from rung.errors import DataError, one_line

MAX_BYTES = 64 * 1024 * 1024  # of one file; what is longer is no document for people

# Elements that hold no prose, and elements that begin a new paragraph.
SILENT = frozenset({"script", "style", "noscript", "template", "svg"})
BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "br", "caption", "dd", "div", "dl", "dt",
        "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6",
        "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "td",
        "th", "title", "tr", "ul",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Document:
    """A file's text. `name` is its path below the folder, with `/` on every system."""

    name: str
    text: str


class Unreadable(ValueError):
    """A file that cannot be read as a document; the message says why."""


def read_folder(folder: str | Path, note: Callable[[str], None] = lambda text: None) -> list[Document]:
    """Every document below a folder, in the order of their names; hidden ones are left out.

    Args:
        note: told in one line of files that were left out.

    Raises:
        DataError: when there is no such folder, or nothing in it that can be read.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"--documents {folder} is no folder: name one with {_kinds()} files")
    found, left_out = [], []
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            text = clean(read(path)).replace("\0", "").strip()
        except Unreadable as fault:
            left_out.append(f"{name}: {fault}")
            continue
        if text:
            found.append(Document(name, text))
        else:
            left_out.append(f"{name}: it holds no text")
    if not found:
        because = f" ({one_line(left_out, 3)})" if left_out else ""
        raise DataError(f"--documents {folder} has no {_kinds()} file with text in it{because}")
    if left_out:
        note(f"{len(left_out)} documents left out: {one_line(left_out, 5)}")
    return found


def digest(folder: str | Path) -> str:
    """SHA-256 of every document below a folder, name and content, so that none is read twice."""
    folder = Path(folder).expanduser()
    total = hashlib.sha256()
    for path in _files(folder) if folder.is_dir() else ():
        total.update(f"{path.relative_to(folder).as_posix()}\0".encode(errors="replace"))
        try:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:
            total.update(b"unreadable")
    return total.hexdigest()


def read(path: Path) -> str:
    """The text of one file, by its suffix.

    Raises:
        Unreadable: saying why.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Unreadable(f"larger than {MAX_BYTES >> 20} MiB")
        return READERS[path.suffix.lower()](path)
    except OSError as fault:
        raise Unreadable(fault.strerror or "cannot be read") from None


def _kinds() -> str:
    return ", ".join(sorted(suffix.removeprefix(".") for suffix in READERS))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in READERS and path.is_file() and not hidden:
            yield path


def _plain(path: Path) -> str:
    """UTF-8, or UTF-16 where a mark says so; bytes that are neither are taken for Latin-1."""
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _html(path: Path) -> str:
    reader = _Html()
    reader.feed(_plain(path))
    reader.close()
    return reader.text


class _Html(HTMLParser):
    """Keeps the prose, a blank line between blocks."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._silent += tag in SILENT
        if tag in BLOCKS:
            self._parts.append("\n\n")

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        if tag in BLOCKS:  # an element that closes itself opens no silence
            self._parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in SILENT:
            self._silent = max(0, self._silent - 1)
        if tag in BLOCKS:
            self._parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._parts.append(re.sub(r"\s+", " ", data))

    @property
    def text(self) -> str:
        paragraphs = re.split(r"\n\n+", "".join(self._parts))
        return "\n\n".join(p.strip() for p in paragraphs if p.strip())


def _pdf(path: Path) -> str:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError:
        raise DataError(
            f"{path.name} needs pypdf to be read: pip install 'rung[documents]', or take PDFs out"
        ) from None
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("it asks for a password")
        return "\n\n".join(page.extract_text() for page in reader.pages)
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        # A damaged PDF makes the reader fail in all these ways.
        if isinstance(fault, Unreadable):
            raise
        raise Unreadable(f"not a whole PDF ({' '.join(str(fault).split())[:80]})") from None


READERS: dict[str, Callable[[Path], str]] = {
    ".txt": _plain,
    ".md": _plain,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}
