"""Imports the key format of the once-for-all tables (arXiv 1908.09791): MobileNetV3 blocks, `{count, mean, std}` in ms.

    expanded_conv-input:HxWxC-output:HxWxC-expand:HIDDEN-kernel:K-stride:S-idskip:0/1-se:0/1-hs:0/1

HIDDEN counts channels, hs:1 is hswish and hs:0 is ReLU. A table of ours has one activation, so an import takes the
entries of one. The spread has no place in a table: std is not an interquartile range.
"""

from __future__ import annotations

import re

from latency.importers.source import (
    NUMBER,
    STEM,
    Collected,
    Imported,
    LeftOut,
    Shape,
    SourceFile,
    hwc,
    mean_and_count,
    table_of,
)
from latency.table import TableError

_BLOCK = re.compile(
    "expanded_conv-input:" + hwc("i") + "-output:" + hwc("o")
    + rf"-expand:(?P<hidden>{NUMBER})-kernel:(?P<kernel>{NUMBER})-stride:(?P<stride>{NUMBER})"
    + "-idskip:(?P<idskip>[01])-se:(?P<se>[01])-hs:(?P<hs>[01])"
)  # fmt: skip
_CONV = re.compile(r"(?P<name>Conv|Conv_1)-input:" + hwc("i") + "-output:" + hwc("o"))
_HEAD = re.compile(r"(AvgPool2D|Conv_2|Logits)-input:\d+x\d+x\d+-output:[\dx]+")


def recognise(records: dict[str, object]) -> str | None:
    """Returns a key that shows this format, or None."""
    return next((key for key in records if "-input" in key and "-hs:" in key), None)


def translate(source: SourceFile) -> Imported:
    """Returns a table of the entries of one activation, hswish unless relu was asked for; all else is in `left_out`.

    Conv and Conv_1 run hswish in MobileNetV3 (arXiv 1905.02244, Table 1), so they come with it. Its head (pooling, a
    1x1 convolution, hswish, the classifier) is not our pool_classifier, one linear layer: left out.
    """
    activation = source.activation_of(("hswish", "relu"))
    collected, input_size = Collected(source), 0
    for key in source.records:
        entry = mean_and_count(source, key, "std")
        if m := _BLOCK.fullmatch(key):
            ours, own = _block(m, source, key), "hswish" if m["hs"] == "1" else "relu"
        elif m := _CONV.fullmatch(key):
            shape, own, is_stem = Shape.of(m.groupdict(), source, key), "hswish", m["name"] == "Conv"
            ours = shape.key(STEM if is_stem else "feature_mix", None, False, source, key)
            input_size = shape.size if is_stem else input_size
        elif _HEAD.fullmatch(key):
            collected.left_out.append(LeftOut(key, "MobileNetV3's head is not pool_classifier, one linear layer"))
            continue
        else:
            raise TableError(
                str(source.path),
                f"key '{key}' is not of the once-for-all format",
                "Conv-, Conv_1-, AvgPool2D-, Conv_2-, Logits- or expanded_conv-input:...-hs:0",
                "choose another --format, or remove the key",
            )
        if own == activation:
            collected.add(ours, entry, key)
        else:
            collected.left_out.append(LeftOut(key, f"runs {own}; --activation {own} takes these"))
    if not input_size:
        raise TableError(
            str(source.path),
            "no key 'Conv-input:...', the first convolution, which states the input size",
            remedy="add it",
        )
    how = f"imported from the once-for-all key format, its {activation} entries; median_ms holds means"
    table = table_of(source, collected.entries, activation=activation, input_size=input_size, how=how)
    return Imported(table, tuple(collected.left_out))


def _block(m: re.Match[str], source: SourceFile, key: str) -> str:
    """Returns our key of a block. Raises TableError if its number of hidden channels is no expansion of its input."""
    shape, hidden = Shape.of(m.groupdict(), source, key), int(m["hidden"])
    if not hidden or hidden % shape.c_in:
        raise TableError(
            f"{source.path}: key '{key}'",
            f"expand is {hidden} hidden channels",
            f"a multiple of the {shape.c_in} input channels",
            "correct the key",
        )
    op = f"mbconv_k{int(m['kernel'])}_e{hidden // shape.c_in}{'_se' if m['se'] == '1' else ''}"
    return shape.key(op, int(m["stride"]), m["idskip"] == "1", source, key)
