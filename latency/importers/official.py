"""Imports the key format of the official ProxylessNAS tables: `expanded_conv-input:...: {count, mean, var}`, in ms."""

from __future__ import annotations

import re

from latency.importers.source import NUMBER, STEM, Collected, Imported, Shape, SourceFile, hwc, mean_and_count, table_of
from latency.table import TableError

_BLOCK = re.compile(
    "expanded_conv-input:" + hwc("i") + "-output:" + hwc("o")
    + rf"-expand:(?P<expand>{NUMBER})-kernel:(?P<kernel>{NUMBER})-stride:(?P<stride>{NUMBER})-idskip:(?P<idskip>[01])"
)  # fmt: skip
_CONV = re.compile(r"(?P<name>Conv|Conv_1)-input:" + hwc("i") + "-output:" + hwc("o"))
_LOGITS = re.compile("Logits-input:" + hwc("i") + rf"-output:(?P<oc>{NUMBER})")


def recognise(records: dict[str, object]) -> str | None:
    """Returns a key that shows this format, or None."""
    return next((key for key in records if "-input" in key), None)


def translate(source: SourceFile) -> Imported:
    """Returns the table of a file; its networks have ReLU6 (arXiv 1812.00332).

    Raises TableError that names the first key that is not of this format.
    """
    activation = source.activation_of(("relu6",))
    collected, input_size = Collected(source), 0
    for key in source.records:
        ours, size = _our_key(key, source)
        input_size = size or input_size
        collected.add(ours, mean_and_count(source, key, "var"), key)
    if not input_size:
        raise TableError(
            str(source.path),
            "no key 'Conv-input:...', the first convolution, which states the input size",
            remedy="add it",
        )
    how = "imported from the official ProxylessNAS key format; median_ms holds means"
    table = table_of(source, collected.entries, activation=activation, input_size=input_size, how=how)
    return Imported(table, tuple(collected.left_out))


def _our_key(official: str, source: SourceFile) -> tuple[str, int]:
    """Returns (our key, input size in pixels if this is the first convolution, else 0)."""
    if m := _BLOCK.fullmatch(official):
        shape = Shape.of(m.groupdict(), source, official)
        op = f"mbconv_k{int(m['kernel'])}_e{int(m['expand'])}"
        return shape.key(op, int(m["stride"]), m["idskip"] == "1", source, official), 0
    if m := _CONV.fullmatch(official):
        shape = Shape.of(m.groupdict(), source, official)
        is_stem = m["name"] == "Conv"
        key = shape.key(STEM if is_stem else "feature_mix", None, False, source, official)
        return key, shape.size if is_stem else 0
    if m := _LOGITS.fullmatch(official):
        shape = Shape.of(m.groupdict() | {"oh": m["ih"], "ow": m["iw"]}, source, official)
        return shape.key("pool_classifier", 1, False, source, official), 0
    raise TableError(
        str(source.path),
        f"key '{official}' is not official",
        "Conv-, Conv_1-, Logits- or expanded_conv-input:...",
        "choose another --format, or remove the key",
    )
