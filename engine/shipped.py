"""Finds the configurations that come with the package by their names: `imagenet_cpu` is the file
configs/search/imagenet_cpu.yaml.

The folder lies beside the packages in a checkout, where proxyless_nas/configs is a link to it, and inside
`proxyless_nas` in an installed wheel: one path serves both. Nothing is imported from there.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from engine.errors import ConfigError, one_line
from engine.nearest import nearest

FOLDER = Path(__file__).resolve().parents[1] / "proxyless_nas" / "configs"
KINDS = ("search", "retrain", "latency", "ship")
"""The folders in FOLDER. A file of the first two is found by its name alone, one of the last two as `latency/NAME` and
`ship/NAME`: most of their names are those of a search, whose file makes the same table."""


def shipped_configs() -> dict[str, Path]:
    """Returns the file of each name, in the order of KINDS. A path is relative if it lies below the current folder."""
    names: dict[str, Path] = {}
    for kind in KINDS:
        for path in sorted(FOLDER.glob(f"{kind}/*.yaml")):
            names.setdefault(path.stem if kind in KINDS[:2] else f"{kind}/{path.stem}", _near(path.resolve()))
    return names


def shipped_config(name: str) -> Path:
    """Returns the file of a shipped configuration. Raises ConfigError, with the nearest name, if there is none."""
    names = shipped_configs()
    if name not in names:
        raise _unknown(name, "no configuration comes with the package under this name", "", names)
    return names[name]


def located(path: Path, folder: Path = Path()) -> Path:
    """Returns the path of a file, relative to `folder`, or that of the shipped configuration if it is a name of one and
    no file.

    Raises ConfigError if it is a folder, or a plain word (no folder, no ending) that is neither.
    """
    file, text = folder / path, str(path)
    if os.path.isfile(file):  # False for a name that no file can have
        return file
    names = shipped_configs()
    if text in names:
        return names[text]
    if os.path.isdir(file):
        remedy = f"if it holds images, take a configuration for them, such as own_images_cpu, and set data.root={path}"
        expected = "a YAML file or a name that `proxyless-nas configs` lists"
        raise ConfigError(one_line(text, 100), "is a folder", expected, remedy)
    if path.suffix or len(path.parts) != 1 or os.path.exists(file):
        return file  # whoever reads it says that there is no such file
    found = "no such file, and no configuration comes with the package under this name"
    raise _unknown(text, found, "a YAML file or ", names)


def _unknown(name: str, found: str, also: str, names: Collection[str]) -> ConfigError:
    expected = f"{also}a name that `proxyless-nas configs` lists"
    return ConfigError(one_line(name, 100) or "''", found, expected, suggestion=nearest(name, names))


def shipped_name(path: Path) -> str | None:
    """Returns the name under which `located` finds this file; None if it does not come with the package."""
    real = os.path.realpath(path)
    return next((name for name, file in shipped_configs().items() if os.path.realpath(file) == real), None)


def as_argument(path: Path | str) -> str:
    """Returns a configuration as a command's argument: the name of one that comes with the package, else the path."""
    name = shipped_name(Path(path))
    return str(path) if name is None or os.path.isfile(name) else name


def _near(path: Path) -> Path:
    """Returns a path relative to the current folder if it lies below it, as a user would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
