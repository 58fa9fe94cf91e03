"""Decides which of the user's modules that a file names may be imported, and how files name them.

A module is code. A module that the user names, in the YAML file of a command or in a program, is imported. A module
that is named inside a file which may have come from elsewhere, such as an architecture.json, is imported only if the
user allows it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath

from supernet.errors import InvalidError
from supernet.user_modules import CHECKOUT, FILE_PREFIX, expanded, is_path


def permitted(modules: Sequence[str], allowed: Collection[str], called: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the name that `load` may import for each module that a file from elsewhere names. Raises InvalidError,
    which lists the modules that are not allowed.

    allowed: the modules that the user allows, by the same names, or by paths that end with the path in the file; such a
    path then decides which file is imported. A module that this process has imported already needs no permission, since
    importing it again runs nothing, unless it is in `called`, the modules whose functions will be called. A path that
    leads out of the working folder (absolute, `..`, `~`) always needs permission, word for word.
    """
    files = [str(m.__file__) for name, m in sys.modules.items() if name.startswith(FILE_PREFIX)]
    known = {path: expanded(path).resolve().parts for path in (*filter(is_path, allowed), *sorted(files))}
    names = {module: _permitted(module, allowed, module in called, known) for module in modules}
    if refused := [module for module, name in names.items() if name is None]:
        strays = [module for module in refused if _leaves(module)]
        reason = f", and '{strays[0]}' leads out of the working folder" if strays else ""
        raise InvalidError(
            "",
            f"the file would run {', '.join(map(repr, refused))}{reason}",
            remedy=f"read that code and, if you trust it, allow it with --allow-modules {shlex.join(refused)} "
            "(allow_modules=[...] from Python)",
        )
    return tuple(name for module in modules if (name := names[module]) is not None)


def portable(modules: Sequence[str]) -> tuple[str, ...]:
    """Returns the modules' names for a file that is read elsewhere: a path that leads out of the working folder becomes
    relative to the framework's own folder, or is cut to as many of its last parts as distinguish it."""
    paths = {module: Path(module).expanduser().resolve() for module in modules if _leaves(module)}
    names = {module: module for module in modules if module not in paths}
    names |= {m: str(path.relative_to(CHECKOUT)) for m, path in paths.items() if path.is_relative_to(CHECKOUT)}
    left = {module: path for module, path in paths.items() if module not in names}
    for parts in range(1, max((len(path.parts) for path in left.values()), default=1)):
        short = {module: str(Path(*path.parts[-parts:])) for module, path in left.items()}
        if len({*short.values(), *names.values()}) == len({*left.values(), *names.values()}):
            return tuple(names.get(module) or short[module] for module in modules)
    return tuple(names.get(module) or left[module].name for module in modules)


def _leaves(module: str) -> bool:
    """Returns whether a module is a path that leads out of the working folder."""
    path = PurePath(module)
    return is_path(module) and (path.is_absolute() or ".." in path.parts or module.startswith("~"))


def _permitted(module: str, allowed: Collection[str], called: bool, known: Mapping[str, tuple[str, ...]]) -> str | None:
    """Returns the name that `load` may import for one module, None if it is not allowed.

    called: whether the module's functions will be called. known: the parts of each path that is allowed or imported,
    without links, the allowed ones first.
    """
    if module in allowed:
        return module
    if not is_path(module):
        return module if module in sys.modules and not called else None
    if _leaves(module):
        return None
    parts = PurePath(module).parts
    for path, resolved in known.items():
        ends_alike = parts in (PurePath(path).parts[-len(parts) :], resolved[-len(parts) :])
        if ends_alike and (path in allowed or not called):
            return path
    return None
