"""Imports a linear latency model of the ProxylessNAS space, as TuNAS has for the Pixel 1 (arXiv 2008.06120):

    bias_ms: 30.9                                        # stem, feature mix, classifier and all else that never changes
    first_block_sepconv_ms: {k3: 0.0, k5: 4.1, k7: 10.0}
    layers:                                              # one for each searched edge, in the order of the network
      - {in_hw: 112, in_ch: 16, out_hw: 56, out_ch: 32, stride: 2, ms: {k3e3: 0.0, k3e6: 4.3, ..., zero: 0.0}}

latency = bias_ms + first_block_sepconv_ms[k] + sum over the layers of ms[op]. A number holds for one edge, so the
entries name their edge. Only sums are determined: a constant may move between an edge's numbers and the bias (a gauge).
The file is JSON or YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.wording import shown
from latency.importers.source import STEM, Collected, Imported, SourceFile, finite, table_of, whole
from latency.table import Entry, TableError
from supernet.catalogue import FeatureMixSpec, MBConvSpec, PoolClassifierSpec, StemSpec
from supernet.space import Layer

_OP = re.compile(r"k([1-9])e([1-9])")
_FIRST = re.compile(r"k([1-9])")
_FIELDS = ("in_hw", "in_ch", "out_hw", "out_ch", "stride")
_STEM_WIDTH, _FEATURE_MIX, _CLASSES, _RGB = 32, 1280, 1000, 3  # as in the published space: the file has none of them
_OURS = {"bias_ms", "first_block_sepconv_ms", "layers"}
_NOTES = {"_about", "examples", "raw"}  # words, worked examples and the numbers before a gauge was chosen


def recognise(records: dict[str, object]) -> str | None:
    """Returns a key that shows this format, or None."""
    return next((key for key in records if key in _OURS), None)


@dataclass(frozen=True)
class EdgeTimes:
    """One edge of the file: its name in our spaces, its layers and milliseconds by op, and the file and place that
    errors name."""

    name: str
    layers: dict[str, Layer]
    ms: dict[str, float]
    file: str
    place: str

    def gauged(self) -> tuple[dict[str, float], float]:
        """Returns (milliseconds >= 0 with zero at 0, the part that moves into the bias). No network's sum changes.

        An edge that may be skipped has no freedom left, since `skip` is 0 by definition.
        """
        shift = self.ms.get("zero", min(0.0, *self.ms.values()))
        moved = {op: ms - shift for op, ms in self.ms.items()}
        op = min(moved, key=lambda op: moved[op])
        if moved[op] < 0:
            raise TableError(
                self.file,
                f"{self.place}.{op} is {self.ms[op]:g}, less than zero's {shift:g} of the same layer",
                "no op to be faster than none at all, since skip costs 0 ms",
                "correct the number, or remove the op",
            )
        return moved, shift


def translate(source: SourceFile) -> Imported:
    """Returns a table with an entry for each edge and a constant; its networks have ReLU.

    Raises TableError that names the field at fault.
    """
    activation = source.activation_of(("relu",))  # tunas/mobile_search_space_v3.py
    for name in sorted(_OURS - source.records.keys()):
        raise TableError(str(source.path), f"no key '{name}'", ", ".join(sorted(_OURS)), "complete the file")
    for name in sorted(source.records.keys() - _OURS - _NOTES):
        raise TableError(str(source.path), f"unknown key '{name}'", ", ".join(sorted(_OURS)), "remove it")
    collected = Collected(source)
    constant = finite(source.records["bias_ms"], str(source.path), "bias_ms")
    fastest, edges = constant, list(_edges(source))
    for edge in edges:
        moved, shift = edge.gauged()
        constant += shift
        fastest += min(edge.ms.values())
        for op, layer in edge.layers.items():
            entry = Entry(median_ms=moved[op])
            collected.add(f"{layer} @{edge.name}", entry, f"{edge.file}: {edge.place}.{op}")
    if fastest <= 0:
        raise TableError(
            f"{source.path}: bias_ms",
            f"the fastest network would take {fastest:g} ms",
            "more than 0",
            "correct the bias",
        )
    first, last = (next(iter(edge.layers.values())) for edge in (edges[0], edges[-1]))
    input_size = 2 * first.size
    inside_the_constant = (
        Layer(StemSpec(3), _RGB, _STEM_WIDTH, input_size, 2),
        Layer(FeatureMixSpec(), last.c_out, _FEATURE_MIX, last.size_out),
        Layer(PoolClassifierSpec(), _FEATURE_MIX, _CLASSES, last.size_out),
    )
    for layer in inside_the_constant:
        collected.add(str(layer), Entry(median_ms=0.0), str(layer.spec))
    how = (
        "imported from a linear model of whole networks (TuNAS); constant_ms includes stem, feature mix and "
        f"classifier, whose entries are 0 ms ({STEM}, {_FEATURE_MIX} channels and {_CLASSES} classes assumed); "
        "only sums over a network mean anything, one entry alone does not"
    )
    table = table_of(
        source, collected.entries, activation=activation, input_size=input_size, how=how, constant=constant
    )
    return Imported(table, tuple(collected.left_out))


def _edges(source: SourceFile) -> Iterator[EdgeTimes]:
    """Yields the edges of the file in order, each with its layers and their milliseconds (EdgeTimes).

    The first one, stage0.0, is `first_block_sepconv_ms` in the file; the others are its `layers`. A new stage begins
    after the first block, and at each layer that changes the shape. Raises TableError if the shapes of neighbours do
    not fit.
    """
    layers = source.records["layers"]
    if not isinstance(layers, list) or not layers:
        raise TableError(f"{source.path}: layers", f"got {shown(layers)}", "a list of layers", "complete the file")
    shapes = [_shape(layer, str(source.path), f"layers.{i}") for i, layer in enumerate(layers)]
    size, c_in = shapes[0]["in_hw"], shapes[0]["in_ch"]
    file, place = str(source.path), "first_block_sepconv_ms"
    ms = _numbers(source.records[place], file, place, _FIRST, "k3")
    specs = {op: MBConvSpec(int(op[1]), 1) for op in ms}
    yield EdgeTimes(
        "stage0.0", {op: Layer(spec, _STEM_WIDTH, c_in, size) for op, spec in specs.items()}, ms, file, place
    )

    stage, depth = 0, 0
    for i, (layer, shape) in enumerate(zip(layers, shapes, strict=True)):
        if (shape["in_hw"], shape["in_ch"]) != (size, c_in):
            raise TableError(
                f"{file}: layers.{i}",
                f"its input is {shape['in_hw']}x{shape['in_hw']}x{shape['in_ch']}",
                f"{size}x{size}x{c_in}, the output of the layer before",
                "correct the shapes",
            )
        residual = shape["stride"] == 1 and shape["in_ch"] == shape["out_ch"]
        stage, depth = (stage, depth + 1) if residual and stage else (stage + 1, 0)
        place = f"layers.{i}.ms"
        ms = _numbers(layer["ms"], file, place, _OP, "k3e3", zero=residual)
        chain = {
            op: Layer(MBConvSpec(int(op[1]), int(op[3])), c_in, shape["out_ch"], size, shape["stride"], residual)
            for op in ms
            if op != "zero"
        }
        yield EdgeTimes(f"stage{stage}.{depth}", chain, ms, file, place)
        size, c_in = shape["out_hw"], shape["out_ch"]


def _shape(layer: Any, file: str, place: str) -> dict[str, int]:
    """Returns the checked shape of a layer of the file. Raises TableError that begins with file and place."""
    where = f"{file}: {place}"
    accepted = f"a mapping with {', '.join(_FIELDS)} and ms"
    if not isinstance(layer, dict):
        raise TableError(where, f"got {shown(layer)}", accepted, "correct the file")
    for name in (*_FIELDS, "ms"):
        if name not in layer:
            raise TableError(where, f"no field '{name}'", accepted, "complete the file")
    for name in sorted(layer.keys() - {*_FIELDS, "ms", "zero_allowed", "gauge"}):
        raise TableError(where, f"unknown field '{name}'", accepted, "remove it")
    shape = {name: whole(layer[name], file, f"{place}.{name}") for name in _FIELDS}
    if shape["stride"] > 2 or -(-shape["in_hw"] // shape["stride"]) != shape["out_hw"]:
        raise TableError(
            where,
            f"stride {shape['stride']} from {shape['in_hw']} to {shape['out_hw']} pixels",
            "stride 1 or 2, and ceil(in_hw / stride) pixels",
            "correct the shapes",
        )
    return shape


def _numbers(
    ms: Any, file: str, place: str, op_format: re.Pattern[str], example: str, zero: bool = False
) -> dict[str, float]:
    """Returns the checked milliseconds by op. zero: whether `zero` is an op, since the edge may be skipped."""
    where = f"{file}: {place}"
    if not isinstance(ms, dict) or not set(ms) - {"zero"}:
        raise TableError(where, f"got {shown(ms)}", f"milliseconds per op, e.g. {{{example}: 1.5}}")
    for op in ms:
        if not op_format.fullmatch(op) and not (zero and op == "zero"):
            also = " or zero" if zero else "; zero is an op only where input and output have one shape" * (op == "zero")
            raise TableError(where, f"unknown op '{op}'", f"names like {example}{also}", "remove it")
    return {op: finite(value, file, f"{place}.{op}") for op, value in ms.items()}
