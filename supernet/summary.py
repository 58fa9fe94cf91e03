"""Writes a network's design as a table, for a terminal or Markdown: a row per layer with its op, shapes, parameters and
MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from supernet.errors import InvalidError
from supernet.space import Layer

if TYPE_CHECKING:
    from supernet.design import Design

COLUMNS = ("layer", "op", "channels", "input", "stride", "params", "MACs")
LEFT = 2
"""The number of first columns that are words, aligned to the left; the others are numbers."""
NO_COSTS: Mapping[str, Sequence[float]] = MappingProxyType({})
NO_CONSTANTS: Mapping[str, float] = MappingProxyType({})


def with_unit(number: float) -> str:
    """Returns a number with three digits and k, M, G or T: `1.23 M`; a number below 1000 as it is."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.9995:  # 999,600 is 1.00 M in three digits
            return f"{number / size:#.3g} {unit}".replace(". ", " ")
    return f"{number:.3g}"


def table_of(
    design: Design,
    costs: Mapping[str, Sequence[float]] = NO_COSTS,
    constants: Mapping[str, float] = NO_CONSTANTS,
) -> list[list[str]]:
    """Returns the head, a row per layer, and the sum.

    costs: further columns by their heading, with a number for each of `design.layers`, such as milliseconds.
    constants: the number that is added once per network to the column of the same heading; it has a row of its own.
    Raises InvalidError if a column has another length.
    """
    layers = design.layers
    for name, column in costs.items():
        if len(column) != len(layers):
            raise InvalidError(
                f"column '{name}'", f"got {len(column)} numbers", f"one for each of {len(layers)} layers"
            )
    rows = [[*COLUMNS, *costs]]
    for i, (name, layer) in enumerate(design.places):
        c = layer.complexity
        numbers = [with_unit(c.params), with_unit(c.macs), *(f"{column[i]:.4g}" for column in costs.values())]
        rows.append([name, *_shapes(layer), *numbers])
    if any(constants.values()):
        once = [f"{constants.get(name, 0.0):.4g}" for name in costs]
        rows.append(["once per network", *[""] * (len(COLUMNS) - 1), *once])
    total = design.complexity
    sums = [f"{sum(column) + constants.get(name, 0.0):.4g}" for name, column in costs.items()]
    rows.append(["sum", "", "", "", "", with_unit(total.params), with_unit(total.macs), *sums])
    return rows


def _shapes(layer: Layer) -> tuple[str, str, str, str]:
    """Returns a layer's op, channels, input size and stride as text."""
    op = f"{layer.spec}+residual" if layer.residual and not layer.is_skip else str(layer.spec)
    return op, f"{layer.c_in}->{layer.c_out}", f"{layer.size}x{layer.size}", str(layer.stride)


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Returns the table with aligned columns; lines separate the head and the sum."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if k < LEFT else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    head, *body, total = (line.rstrip() for line in lines)
    return "\n".join((head, rule, *body, rule, total))


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns the table in Markdown, with the sum in bold."""
    head, *body, total = rows
    aligned = [":--" if k < LEFT else "--:" for k in range(len(head))]
    bold = [f"**{cell}**" if cell else "" for cell in total]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, aligned, *body, bold))
