"""Reads a run's event files as TensorBoard reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
from tensorboard.util import tensor_util


@dataclass
class Curves:
    metadata: dict[str, SummaryMetadata] = field(default_factory=dict)
    """The metadata of each tag's first point; those of later points are ignored."""
    points: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    """The points (step, value as an array) of each tag, in the order of the files."""
    graphs: list[GraphDef] = field(default_factory=list)

    def of(self, plugin: str) -> dict[str, list[tuple[int, Any]]]:
        """Returns the points of the tags that a page of TensorBoard shows: scalars, text, images, histograms,
        hparams."""
        return {tag: p for tag, p in self.points.items() if self.metadata[tag].plugin_data.plugin_name == plugin}

    @property
    def scalars(self) -> dict[str, list[tuple[int, float]]]:
        return {tag: [(step, value.item()) for step, value in points] for tag, points in self.of("scalars").items()}

    @property
    def texts(self) -> dict[str, list[tuple[int, str]]]:
        return {tag: [(step, value.item().decode()) for step, value in p] for tag, p in self.of("text").items()}


def curves_in(folder: Path) -> Curves:
    found = Curves()
    for path in sorted(folder.rglob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            if event.graph_def:
                found.graphs.append(GraphDef.FromString(event.graph_def))
            for value in event.summary.value:
                found.metadata.setdefault(value.tag, value.metadata)
                found.points.setdefault(value.tag, []).append((event.step, tensor_util.make_ndarray(value.tensor)))
    return found
