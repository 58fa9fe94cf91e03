"""Predicts the latency of any network by a table, or says why the table does not cover it."""

from __future__ import annotations

from collections.abc import Mapping

from latency.table import LatencyTable, TableError
from supernet.design import Design


def predicted_layers(design: Design, table: LatencyTable) -> dict[str, float]:
    """Returns the milliseconds of each layer by the names of the places, in the order in which they run.

    Raises TableError if the table was made for another input size or activation, or lacks an entry.
    """
    own: Mapping[str, tuple[object, object]] = {
        "activation": (design.op_settings.activation, table.activation),
        "input size": (design.input_size, table.input_size),
    }
    for what, (its, of_table) in own.items():
        if its != of_table:
            raise TableError("", f"its {what} is {its}, the table's is {of_table}")
    lacking = [str(layer) for place, layer in design.places if not layer.is_skip and table.entry(layer, place) is None]
    if lacking:
        more = f" and {len(lacking) - 1} more of its layers" if len(lacking) > 1 else ""
        raise TableError("", f"the table has no entry '{lacking[0]}'{more}")
    return {place: table.price(layer, place) for place, layer in design.places}


def predicted_ms(design: Design, table: LatencyTable) -> float:
    """Returns the milliseconds of a network: the sum over its layers, and the table's constant. Raises TableError as
    `predicted_layers` does, and if the sum is not above 0."""
    ms = sum(predicted_layers(design, table).values()) + table.constant_ms
    if ms <= 0:
        raise TableError("", f"the table's sum is {ms:.4g} ms")
    return ms
