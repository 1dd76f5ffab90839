"""Finding passages: a folder of documents is read, cut, indexed and asked.

    index = Index.of(cut(read_folder("manuals"), words=120, overlap=20))
    index.search("How is the filter cleaned?", 3)     # [Hit(passage, score), ...], best first

Nothing here loads a model: whoever wants vectors brings the function that makes them.
"""

from __future__ import annotations

from rung.data.retrieval.documents import Document, read_folder
from rung.data.retrieval.index import Embed, Hit, Index
from rung.data.retrieval.lexical import Lexical
from rung.data.retrieval.passages import Passage, cut
from rung.data.retrieval.quality import Quality, measure

__all__ = [
    "Document",
    "Embed",
    "Hit",
    "Index",
    "Lexical",
    "Passage",
    "Quality",
    "cut",
    "measure",
    "read_folder",
]
