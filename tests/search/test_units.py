"""A table in seconds or microseconds is noticed, whatever its device; one in milliseconds is not."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from engine.config import load_config
from latency.importers import import_table
from latency.table import Entry, LatencyTable
from search.limits.units import GPU, PER_THREAD, PHONE, Span, largest_network, speeds_of, unlikely_numbers
from supernet.space import Space


@pytest.fixture
def imagenet(checkout, space_of) -> Space:
    return space_of(load_config(checkout / "configs" / "search" / "imagenet_mobile.yaml")["space"])


def scaled(table: LatencyTable, factor: float) -> LatencyTable:
    """The same table in another unit."""
    entries = {}
    for key, entry in table.entries.items():
        other = None if entry.calibrated_ms is None else factor * entry.calibrated_ms
        entries[key] = entry.model_copy(update={"median_ms": factor * entry.median_ms, "calibrated_ms": other})
    return table.model_copy(update={"entries": entries, "constant_ms": factor * table.constant_ms})


def units(space: Space, table: LatencyTable) -> list[str]:
    """Returns the notes about the unit."""
    notes = (str(note) for note in unlikely_numbers(space, table, table.cost(space)))
    return [note for note in notes if "look" in note]


def told_apart(space: Space, table: LatencyTable) -> None:
    assert units(space, table) == []
    (seconds,) = units(space, scaled(table, 1e-3))
    assert "seconds" in seconds.replace("microseconds", "us")
    (microseconds,) = units(space, scaled(table, 1e3))
    assert "microseconds" in microseconds


def of_device(table: LatencyTable, kind: str, dtype: str, threads: int | None, batch: int = 1) -> LatencyTable:
    device = table.device.model_copy(update={"kind": kind, "cores": None})
    return table.model_copy(update={"device": device, "dtype": dtype, "threads": threads, "batch": batch})


@pytest.mark.parametrize("speeds", [*PER_THREAD.values(), *GPU.values(), *PHONE.values()])
def test_no_factor_of_1000_fits_between_the_bounds(speeds):
    assert 1 < speeds.fastest / speeds.slowest <= 1000
    assert 1 < speeds.overhead_max_ms / speeds.overhead_min_ms <= 1000


KINDS = [
    *product(["cpu", "phone"], ["float32", "bfloat16", "int8"], [1, 4, 64]),
    *product(["gpu", "phone"], ["float32", "float16", "int8"], [None]),
]


@pytest.mark.parametrize(("kind", "dtype", "threads"), KINDS)
@pytest.mark.parametrize("which", ["imagenet", "tiny"])
def test_every_table_within_its_bounds_is_distinguished_from_itself_in_other_units(
    kind, dtype, threads, which, imagenet, space, formula_table
):
    """Devices everywhere between the slowest and the fastest of a kind, with any overhead between its bounds."""
    space = imagenet if which == "imagenet" else space
    rng = np.random.default_rng(0)
    for share, batch in product((0.02, 0.5, 0.98), (1, 256)):
        table = of_device(formula_table(space), kind, dtype, threads, batch)
        speeds = speeds_of(table)
        overhead = speeds.overhead_min_ms * (speeds.overhead_max_ms / speeds.overhead_min_ms) ** rng.uniform(0.02, 0.98)
        speed = speeds.slowest * (speeds.fastest / speeds.slowest) ** share
        entries = {
            str(layer): Entry(median_ms=overhead + batch * layer.complexity.macs / 1e6 / speed)
            for layer in space.all_layers
            if not layer.is_skip
        }
        told_apart(space, table.model_copy(update={"entries": entries}))


@pytest.mark.parametrize(
    ("dtype", "batch", "ms"), [("float32", 1, 88.5), ("float32", 8, 540.2), ("bfloat16", 1, 71.3), ("bfloat16", 8, 374)]
)
def test_tables_of_a_cpu_thread_as_measured(dtype, batch, ms, imagenet, formula_table):
    """The largest ImageNet network on one thread of a Xeon with AMX, PyTorch eager."""
    table = of_device(formula_table(imagenet), "cpu", dtype, 1, batch)
    told_apart(imagenet, scaled(table, ms / table.cost(imagenet).of(largest_network(imagenet))))


def test_a_table_in_seconds_of_a_processor_with_matrix_units_is_noticed(imagenet, formula_table):
    """3.18 GMAC/s in milliseconds are 3180 in seconds, which is below the peak of int8 on such a core."""
    paths = largest_network(imagenet)
    gmacs = sum(layer.complexity.macs for layer in imagenet.layers(paths)) / 1e9
    for dtype in ("float32", "bfloat16", "int8"):
        table = of_device(formula_table(imagenet), "cpu", dtype, 1)
        told_apart(imagenet, scaled(table, 1e3 * gmacs / 3.18 / table.cost(imagenet).of(paths)))


def published_table(folder: Path, name: str) -> LatencyTable:
    path = folder / "latency_tables" / name
    if not path.exists():
        pytest.skip(f"no {name} in `shared/data` beside the checkout")
    return import_table(path, device_name="a phone").table


@pytest.mark.parametrize("name", ["mobile_trim.yaml", "pixel_trim.yaml"])
def test_the_units_of_the_authors_phone_tables_are_told_apart(name, shared_data, imagenet):
    table = published_table(shared_data, name)
    told_apart(imagenet, table)
    told_apart(imagenet, table.model_copy(update={"dtype": "int8"}))
    told_apart(imagenet, of_device(table, "phone", "float32", 4))


def test_the_units_of_the_phone_table_of_tunas_are_told_apart(shared_data, space_of):
    names = [f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (3, 6)]
    shapes = [(32, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)]
    stages = [{"width": w, "depth": d, "stride": s, "candidates": names} for w, d, s in shapes]
    first = {"width": 16, "candidates": [f"mbconv_k{k}_e1" for k in (3, 5, 7)]}
    space = space_of({"stages": [first, *stages], "activation": "relu"})
    told_apart(space, published_table(shared_data, "tunas_pixel1.json"))


def test_the_phone_table_of_once_for_all(shared_data, space_of):
    """Its stages at 224 pixels, with a head that it lacks."""
    table = published_table(shared_data, "ofa_note10_224.yaml")
    table = table.model_copy(update={"activation": "hswish"})
    ops = [f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (3, 4, 6)]
    stages = [
        {"width": w, "depth": 4, "stride": s, "candidates": [f"{op}{se}" for op in ops]}
        for w, s, se in [(96, 2, ""), (136, 1, "_se"), (192, 2, "_se")]
    ]
    space = space_of(
        {"input_size": 56, "stem": {"width": 48}, "stages": stages, "feature_mix": 1152, "activation": "hswish"}
    )
    head = {str(layer): Entry(median_ms=0.67) for layer in table.missing(space)}
    told_apart(space, table.model_copy(update={"entries": table.entries | head}))


def test_a_constant_in_other_units_does_not_hide_the_entries(imagenet, formula_table):
    """Entries in seconds, a constant of 30 ms: the sum of the largest network is what a CPU takes."""
    table = of_device(formula_table(imagenet, price=lambda layer: 1.0 + layer.complexity.macs / 1e7), "cpu", "int8", 1)
    assert units(imagenet, table) == []
    mixed = scaled(table, 1e-3).model_copy(update={"constant_ms": 30.0})
    (said,) = units(imagenet, mixed)
    assert "constant_ms is 30 ms; the entries look like seconds" in said


def test_the_span_of_a_network_is_the_sum_of_its_layers(imagenet, formula_table):
    speeds = speeds_of(of_device(formula_table(imagenet), "cpu", "float32", 2))
    assert (speeds.slowest, speeds.fastest) == (0.4, 400.0)
    layers = [layer for layer in imagenet.layers(largest_network(imagenet)) if not layer.is_skip]
    each = [Span.of([layer], 3, speeds) for layer in layers]
    whole = Span.of(layers, 3, speeds)
    assert whole.least == pytest.approx(sum(span.least for span in each))
    assert whole.most == pytest.approx(sum(span.most for span in each))
    assert whole.most > 3 * sum(layer.complexity.macs for layer in layers) / 0.4e6
