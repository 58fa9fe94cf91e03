"""Functions of the user's own that `search.terms` and `search.reinforce.reward` name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.errors import ConfigError, explain
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
