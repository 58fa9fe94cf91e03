"""Loads the user's own functions, which `search.terms`, `search.gate_gradient`, `search.reinforce.reward` and
`limits.function` name, and lists the files that a search runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from engine.errors import ConfigError, explain
from engine.runs.inputs import checksums
from search.config import REFERENCE, SearchConfig
from search.learn.modes import is_reference
from supernet import user_modules
from supernet.module_names import permitted


def own_function(reference: str, key: str, takes: Sequence[str] = ()) -> Callable[..., Any]:
    """Returns the function that `path/to/file.py:name` or `package.module:name` names. A ConfigError, which names
    `key`, is raised if there is no such function, and later if it raises. takes: the names of its arguments."""
    module, _, name = reference.rpartition(":")
    if not module or not name.isidentifier():
        raise ConfigError(key, f"got '{reference}'", REFERENCE)
    with explain(key):
        function = user_modules.named_function(module, name, takes)

    def call(*arguments: Any) -> Any:
        with explain(key):
            return function(*arguments)

    return call


def own_modules(config: SearchConfig) -> list[tuple[str, str]]:
    """Returns (key, module) for each module of the user's own that a search's settings name."""
    named = [("space.candidate_modules", module) for module in config.space.candidate_modules]
    if config.data.module:
        named.append(("data.module", config.data.module))
    functions = [("search.terms.function", term.function) for term in config.search.terms]
    functions += [("limits.function", limit.function) for limit in config.limits if limit.function]
    if config.search.reinforce and config.search.reinforce.reward:
        functions.append(("search.reinforce.reward", config.search.reinforce.reward))
    if config.search.loss and is_reference(config.search.loss.form):
        functions.append(("search.loss.form", config.search.loss.form))
    named_in = {"gate_gradient": config.search.gate_gradient, "arch_update": config.search.arch_update}
    functions += [(f"search.{key}", reference) for key, reference in named_in.items() if is_reference(reference)]
    return named + [(key, reference.rpartition(":")[0]) for key, reference in functions]


def own_files(config: SearchConfig) -> dict[str, str]:
    """Returns the checksum of each file of the user's own that a search runs, by key and module. Modules that these
    files import in turn are left out."""
    return checksums(own_modules(config), user_modules.file_of)


def with_permitted_modules(config: dict[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """Returns the nested dictionary of a search that came from elsewhere, with each module of the user's own as it may
    be loaded. Raises ValueError naming every module that is not allowed; see `supernet.module_names.permitted`.

    config: as load_config returns it, not validated yet; values of other types than expected are left to the
    validation.
    """
    candidates = [name for name in _list(_section(config, "space").get("candidate_modules")) if isinstance(name, str)]
    called = [module for _, _, module, _ in _functions(config)]
    modules = list(dict.fromkeys([*candidates, *called]))
    paths = dict(zip(modules, permitted(modules, allowed, called), strict=True))
    for holder, key, module, name in list(_functions(config)):
        holder[key] = paths[module] + name
    return config


def _functions(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str, str]]:
    """Yields (section, key in it, module, `:name` or nothing) of each function of the user's own."""
    data, search = _section(config, "data"), _section(config, "search")
    if isinstance(data.get("module"), str):
        yield data, "module", data["module"], ""
    entries = [*_list(search.get("terms")), *_list(config.get("limits"))]
    with_function = [(entry, "function") for entry in entries if isinstance(entry, dict)]
    for holder, key in (
        *with_function,
        (_section(search, "loss"), "form"),
        (_section(search, "reinforce"), "reward"),
        (search, "gate_gradient"),
        (search, "arch_update"),
    ):
        if isinstance(reference := holder.get(key), str) and ":" in reference:  # without a colon, it is refused anyway
            module, colon, name = reference.rpartition(":")
            yield holder, key, module, colon + name


def _section(config: dict[str, Any], key: str) -> dict[str, Any]:
    section = config.get(key)
    return section if isinstance(section, dict) else {}


def _list(values: object) -> list[Any]:
    return values if isinstance(values, list) else []
