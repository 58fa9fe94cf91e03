"""A metric for a limit: where a network attends, and how deep it is. See docs/extending/metric.md."""

from supernet import Layer


def attentions(layer: Layer, place: str) -> int:
    """1 for a layer with squeeze-excite, whose global average some accelerators compute on the CPU."""
    return int(str(layer.spec).endswith("_se"))


def late_layers(layer: Layer, place: str) -> int:
    """1 for each layer of the last two stages of a space of three that is not skipped."""
    return int(place.startswith(("stage1.", "stage2.")) and not layer.is_skip)
