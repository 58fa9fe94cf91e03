"""Finds the network that a text names: a published network, an architecture.json, a net.config or an int8 network."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from engine.errors import ConfigError, explain
from engine.files import read_text
from engine.nearest import nearest
from published.int8 import is_int8, read_int8
from published.net_config.conversion import is_net_config, read_net_config
from published.networks import ALIASES, NAMED, is_named, named
from supernet.chain import Chain
from supernet.design import Design
from supernet.design_file import read_design
from supernet.json_text import parsed


def design_of(source: Path | str, *, allow_modules: Collection[str] = (), input_size: int | None = None) -> Design:
    """Returns the network that a file describes, or a published network of this name if there is no such file.

    source: an architecture.json, a net.config (published/net_config/), a trained int8 network (.pkl,
    published/int8.py), or a name. allow_modules: as for `Architecture.from_json`. input_size: of a net.config's images
    in pixels, see `chain_of`; a network of another kind has its own and may not be given another one. Raises
    ConfigError, and CheckpointError for a .pkl.
    """
    text = str(source)
    if not Path(source).exists():
        near = nearest(text, [*NAMED, *ALIASES])
        if is_named(text):
            design = named(text)
            _refuse_size(input_size, text, design)
            return design
        if near and not Path(text).suffix:
            found = f"is neither a file nor the name of a published network ({', '.join(NAMED)})"
            raise ConfigError(text, found, suggestion=near)
    own: Design
    if is_int8(Path(source)):
        own = read_int8(Path(source)).chain
    else:
        missing = "a search writes architecture.json into its run folder"
        content = read_text(Path(source), "an architecture.json or a net.config", missing=missing)
        with explain(text):
            if is_net_config(parsed(content)):
                return read_net_config(content, name=Path(source).stem, input_size=input_size)
            own = read_design(content, allow_modules=allow_modules)
    _refuse_size(input_size, text, own)
    return own


def _refuse_size(input_size: int | None, source: str, design: Design) -> None:
    """Raises ConfigError if another input size is given than that of a network that has one of its own."""
    if input_size not in (None, design.input_size):
        found = f"got {input_size}, but {source} has an input size of its own"
        raise ConfigError("input_size", found, f"{design.input_size}, or a net.config, which has none")


def renamed(design: Design, name: str) -> Chain:
    """Returns a design as a chain of another name."""
    return replace(Chain.of(design), name=name)
