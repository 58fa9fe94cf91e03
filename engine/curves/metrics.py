"""Writes curves: metrics.jsonl and TensorBoard's event files with the same scalars, and all else that TensorBoard
shows."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layouts
from tensorboard.plugins.histogram import metadata as histograms
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.image import metadata as images
from tensorboard.plugins.scalar import metadata as scalars
from tensorboard.plugins.text import metadata as texts
from tensorboard.util import tensor_util

from engine.curves.comparison import FINAL, HYPERPARAMETERS, Curve
from engine.curves.event_files import EventFile, write_all
from engine.curves.truncation import event_paths, truncate_events, truncate_lines
from engine.files import writing
from engine.quantities import TOP5_CLASSES

MOST_COLOURS = 256


UNDESCRIBED = Curve("", "")
NO_CURVES: Mapping[str, Curve] = MappingProxyType({})


def accuracy_curves(group: str, figures: Sequence[float], classes: int) -> dict[str, float]:
    """Returns the curves `<group>/loss`, `<group>/top1` and, for more than five classes, `<group>/top5`.

    figures: the loss, then top-1 and top-5 in percent.
    """
    loss, top1, top5 = figures
    values = {f"{group}/loss": loss, f"{group}/top1": top1}
    return values | ({f"{group}/top5": top5} if classes >= TOP5_CLASSES else {})


class MetricsLog:
    """Writes `metrics.jsonl` (one object a line: step and tags) and an event file into a run folder.

    resume_step: the step of the checkpoint from which a run continues; later points, which the resumed run makes again,
    are removed from both first. None for a new run. curves: a description of each tag.
    """

    def __init__(self, folder: Path, *, resume_step: int | None, curves: Mapping[str, Curve] = NO_CURVES):
        self._path = folder / "metrics.jsonl"
        if resume_step is not None:
            truncate_lines(self._path, resume_step)
            truncate_events(folder, resume_step, _is_of_the_end)
        else:
            with writing(folder):
                for path in event_paths(folder):
                    path.unlink()
        with writing(self._path):
            self._jsonl = self._path.open("ab" if resume_step is not None else "wb", buffering=0)
        self._events = EventFile(folder)
        self._curves = curves
        self._described: set[str] = set()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point of each tag. NaN and infinity become null in metrics.jsonl, because JSON lacks them."""
        self.numbers(step, values)
        self._write(step, *(self._scalar(tag, value) for tag, value in values.items()))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers into metrics.jsonl alone: TensorBoard has no curve of them. NaN and infinity become null."""
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
        with writing(self._path):
            write_all(self._jsonl.fileno(), (json.dumps({"step": step, **finite}) + "\n").encode())

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Writes a picture with at most 256 colours. pixels: (height, width, 3) uint8."""
        encoded = io.BytesIO()
        picture = Image.fromarray(pixels).quantize(MOST_COLOURS)
        picture.save(encoded, format="PNG", optimize=True)
        height, width, _ = pixels.shape
        content = np.array([str(width).encode(), str(height).encode(), encoded.getvalue()], dtype=np.object_)
        self._write(step, self._value(images, tag, tensor_util.make_tensor_proto(content)))

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Writes a text in Markdown; bytes of a path that are no UTF-8 are escaped. A resume keeps what was written at
        step 0."""
        content = text.encode(errors="backslashreplace")
        self._write(step, self._value(texts, tag, tensor_util.make_tensor_proto(content, dtype=np.object_)))

    def histogram(self, step: int, tag: str, values: np.ndarray, bins: int = 30) -> None:
        """Writes the distribution of the finite `values`, in bins of equal width from the smallest to the largest."""
        values = values[np.isfinite(values)]
        if len(values) and np.ptp(values) > 0:
            numbers, edges = np.histogram(values, bins=bins)
            buckets = np.stack([edges[:-1], edges[1:], numbers], axis=1)  # (bins, 3): left, right, count
        else:
            buckets = np.array([[values[0], values[0], len(values)]]) if len(values) else np.empty((0, 3))
        self._write(step, self._value(histograms, tag, tensor_util.make_tensor_proto(buckets.astype(np.float64))))

    def charts(self, layout: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Writes the layout of the page CUSTOM SCALARS: {heading: {title of a chart: patterns of the tags that it
        shows}}."""
        categories = [
            layout_pb2.Category(
                title=heading,
                chart=[
                    layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=patterns))
                    for title, patterns in of_heading.items()
                ],
            )
            for heading, of_heading in layout.items()
        ]
        content = layout_pb2.Layout(category=categories).SerializeToString()
        tensor = tensor_util.make_tensor_proto(content, dtype=np.object_)
        metadata = layouts.create_summary_metadata()
        self._write(0, Summary.Value(tag=layouts.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=metadata))

    def hyperparameters(self, run: str, values: Mapping[str, float | str]) -> None:
        """Writes the run's row of the page HPARAMS, called `run`. values: by the names in
        engine.curves.comparison.HYPERPARAMETERS."""
        kinds = {float: api_pb2.DATA_TYPE_FLOAT64, str: api_pb2.DATA_TYPE_STRING}
        columns = [
            # The page first shows the columns that are declared to differ
            api_pb2.HParamInfo(name=name, type=kinds[h.kind], description=h.meaning, differs=h.prominent)
            for name, h in HYPERPARAMETERS.items()
        ]
        metrics = [
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(tag=tag), display_name=f"{tag} [{curve.unit}]", description=curve.meaning
            )
            for tag, curve in FINAL.items()
        ]
        start = SessionStartInfo(group_name=_encodable(run), start_time_secs=time.time())
        for name, value in values.items():
            if isinstance(value, str):
                start.hparams[name].string_value = _encodable(value)
            else:
                start.hparams[name].number_value = value
        experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics)
        tags = hparams_metadata.EXPERIMENT_TAG, hparams_metadata.SESSION_START_INFO_TAG
        contents = HParamsPluginData(experiment=experiment), HParamsPluginData(session_start_info=start)
        self._write(0, *map(_of_hparams, tags, contents))

    def final(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the results that the page HPARAMS compares, under the names in
        engine.curves.comparison.FINAL, and ends the run's row.

        They are not in metrics.jsonl, because result.json has them. A resume removes all that the end of a run writes,
        and then writes it again.
        """
        self._write(step, *(self._scalar(tag, value) for tag, value in values.items()))
        end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        self._write(step, _of_hparams(hparams_metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)))

    def graph(self, graph: GraphDef) -> None:
        """Writes the graph of the page GRAPHS. It belongs to the end of a run, as `final` does."""
        self._events.write(Event(graph_def=graph.SerializeToString()))

    def flush(self) -> None:
        """Forces everything written so far to the disk. Called before each checkpoint, so that no point is lost."""
        with writing(self._path):
            os.fsync(self._jsonl.fileno())
        self._events.flush()

    def close(self) -> None:
        self._jsonl.close()
        self._events.close()

    def _write(self, step: int, *values: Summary.Value) -> None:
        self._events.write(Event(summary=Summary(value=values)), step)

    def _scalar(self, tag: str, value: float) -> Summary.Value:
        # As a tensor, since TensorBoard's fast reader ignores the description beside a `simple_value`
        return self._value(scalars, tag, tensor_util.make_tensor_proto(np.float32(value)))

    def _value(self, plugin, tag: str, tensor: TensorProto) -> Summary.Value:  # type: ignore[no-untyped-def]
        return Summary.Value(tag=_encodable(tag), tensor=tensor, metadata=self._metadata(plugin, tag))

    def _metadata(self, plugin, tag: str) -> SummaryMetadata | None:  # type: ignore[no-untyped-def]
        """Returns the metadata of a tag, which TensorBoard takes from the tag's first point."""
        if tag in self._described:
            return None
        self._described.add(tag)
        curve = self._curves.get(tag) or FINAL.get(tag, UNDESCRIBED)
        return plugin.create_summary_metadata(display_name="", description=curve.description)


def _encodable(text: str) -> str:
    """Returns the text with bytes that are no UTF-8 escaped: the name of a file can have some, but a protocol buffer
    cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _of_hparams(tag: str, content: HParamsPluginData) -> Summary.Value:
    metadata = hparams_metadata.create_summary_metadata(content)
    return Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)


def _is_of_the_end(event: Event) -> bool:
    """Returns whether the end of a run writes an event of this kind: final figures, the graph."""
    tags = [value.tag for value in event.summary.value]
    ended = any(tag.startswith("final/") or tag == hparams_metadata.SESSION_END_INFO_TAG for tag in tags)
    return ended or bool(event.graph_def)
