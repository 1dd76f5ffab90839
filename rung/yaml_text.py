"""YAML whose values mean what they mean on the command line, and whose keys stand once.

PyYAML reads YAML 1.1: there `no` is false, `010` is eight, `1e-4` is a text, `12:30` is 750, and of two
equal keys the last one wins in silence.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_PLAIN = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?")
_NOTHING = ("", "~", "null", "Null", "NULL")


class Loader(yaml.SafeLoader):
    """The safe loader with its own reading of scalars and mappings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises MarkedYAMLError where two keys are equal, dashes taken for underscores."""
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = str(key.value).replace("-", "_"), key.start_mark.line + 1
            if name in first:
                told = f"'{key.value}' stands twice, first in line {first[name]}"
                raise yaml.constructor.ConstructorError(None, None, told, key.start_mark)
            first[name] = line
        return super().construct_mapping(node, deep)


def _scalar(loader: Loader, node: yaml.ScalarNode) -> Any:
    """A number or truth where this is how it is usually written, else the text."""
    text = str(node.value)
    if text in _NOTHING:
        return None
    if text in ("true", "false"):
        return text == "true"
    if _PLAIN.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text


def _moment(loader: Loader, node: yaml.ScalarNode) -> str:
    """The text of a date that there is; raises ValueError for another."""
    loader.construct_yaml_timestamp(node)
    return str(node.value)


for _kind in ("null", "bool", "int", "float"):
    Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _scalar)
Loader.add_constructor("tag:yaml.org,2002:timestamp", _moment)
