"""Functions of the user's own that `search.terms` and `search.reinforce.reward` name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.errors import ConfigError, explain
from engine.inputs import checksums
from search.config import SearchFile
from supernet import user_modules


def own_function(reference: str, key: str) -> Callable[..., Any]:
    """The function that `path/to/file.py:name` or `package.module:name` is; a ConfigError names `key`, where it cannot
    be had and where it raises."""
    module, _, name = reference.rpartition(":")
    if not module or not name.isidentifier():
        raise ConfigError(f"{key}: got '{reference}', expected path/to/file.py:name or package.module:name")
    with explain(key):
        function = user_modules.named_function(module, name)

    def call(*arguments: Any) -> Any:
        with explain(key):
            return function(*arguments)

    return call


def own_files(config: SearchFile) -> dict[str, str]:
    """The checksum of each file of the user's own that a search runs, by key and module; what these files import in
    turn is not looked at."""
    named = [("space.candidate_modules", module) for module in config.space.candidate_modules]
    if config.data.module:
        named.append(("data.module", config.data.module))
    functions = [("search.terms.function", term.function) for term in config.search.terms]
    if config.search.reinforce and config.search.reinforce.reward:
        functions.append(("search.reinforce.reward", config.search.reinforce.reward))
    named += [(key, reference.rpartition(":")[0]) for key, reference in functions]
    return checksums(named, user_modules.file_of)
