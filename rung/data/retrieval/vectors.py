"""Vectors of passages, searched by lancedb in a table on disk.

The vectors themselves are the artefact's (safetensors); the table is only a way to search them, kept
under RUNG_HOME/cache/vectors by their digest and made anew wherever it is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung import home
from rung.errors import ArtefactError, ConfigError

if TYPE_CHECKING:
    from numpy import ndarray

TABLE = "passages"


class Vectors:
    """(n, d) float32, each row of length 1."""

    def __init__(self, matrix: ndarray):
        self.matrix = matrix

    @classmethod
    def of(cls, matrix: ndarray) -> Vectors:
        """Rows are brought to length 1, so that the nearest is the most alike."""
        import numpy as np

        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        return cls((matrix / np.maximum(lengths, 1e-12)).astype(np.float32))

    def search(self, query: ndarray, most: int) -> list[tuple[int, float]]:
        """(row, cosine) of the nearest rows, the nearest first and ties by row."""
        import numpy as np

        query = np.asarray(query, np.float32) / max(float(np.linalg.norm(query)), 1e-12)
        asked = self._table.search(query).distance_type("dot").limit(most)
        found = asked.select(["row", "_distance"]).to_arrow().to_pylist()
        pairs = [(int(hit["row"]), 1.0 - float(hit["_distance"])) for hit in found]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        save_file({"vectors": self.matrix}, path)

    @classmethod
    def load(cls, path: Path, count: int) -> Vectors:
        """What `save` wrote, for `count` passages.

        Raises:
            ArtefactError: when it does not hold them, each finite.
        """
        import numpy as np
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            matrix = load_file(path).get("vectors")
        except (OSError, SafetensorError) as fault:
            raise ArtefactError(f"{path} cannot be read: {fault}") from None
        right = matrix is not None and matrix.ndim == 2 and len(matrix) == count
        if matrix is None or not right or not np.isfinite(matrix).all():
            raise ArtefactError(f"{path} does not hold a vector for each passage: fit it again")
        return cls(matrix.astype(np.float32))

    @cached_property
    def _table(self) -> Any:
        try:
            import lancedb
        except ImportError:
            raise ConfigError(
                "searching by vectors needs lancedb: pip install 'rung[documents]', "
                "or use --retrieval bm25"
            ) from None
        digest = hashlib.sha256(self.matrix.tobytes()).hexdigest()[:32]
        kept = home.folder("cache") / "vectors"
        kept.mkdir(exist_ok=True)
        folder = kept / digest
        if not folder.exists():
            self._build(lancedb, folder)
        return lancedb.connect(str(folder)).open_table(TABLE)

    def _build(self, lancedb: Any, folder: Path) -> None:
        """Made aside and put in place in one step: a crash leaves no half of a table."""
        import pyarrow as pa

        n, width = self.matrix.shape
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(self.matrix.reshape(-1)), width)
        rows = pa.table({"row": pa.array(range(n), pa.int64()), "vector": vectors})
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        try:
            lancedb.connect(str(aside)).create_table(TABLE, rows)
            with contextlib.suppress(OSError):  # somebody else was faster
                os.rename(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
