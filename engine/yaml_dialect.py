"""YAML as this project reads and writes it: 1e-3 is a number (YAML 1.2), duplicate keys are errors."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 and 300e6 as numbers (YAML 1.2) and refuses duplicate keys."""


class Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the text '1e-3', which Loader would read as a number, and repeats what is shared."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _mapping_without_duplicates(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`: what it brings may be given again
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            written = f"'{key_node.value}'" if isinstance(key_node, yaml.ScalarNode) else repr(key)
            problem = f"key {written} is not text; put it in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _path_as_text(dumper: yaml.SafeDumper, path: PurePath) -> yaml.ScalarNode:
    return dumper.represent_str(str(path))


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
Dumper.add_multi_representer(PurePath, _path_as_text)
