"""Writes what TensorBoard shows of a retraining: curves, the architecture as text and graph, figures to compare.

Nothing here changes a retraining: the graph is drawn from a fresh network.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from engine.config import config_text
from engine.curves.comparison import ACCURACY_CHARTS, Curve
from engine.curves.graph import graph_of
from engine.curves.metrics import MetricsLog
from engine.evaluation import Evaluation
from retrain.config import RetrainConfig
from supernet.design import Design
from supernet.network import Network
from supernet.summary import as_markdown, table_of

CURVES = {
    "train/loss": Curve("nats", "Cross entropy on training batches, label smoothing included."),
    "train/top1": Curve("%", "Accuracy on training batches."),
    "train/top5": Curve("%", "Share of training images whose class is among the five likeliest."),
    "lr/weights": Curve("", "Learning rate."),
    "speed/images_per_second": Curve("images/s", "Speed of the training."),
    "test/loss": Curve("nats", "Cross entropy on the test images."),
    "test/top1": Curve("%", "Accuracy on the test images. Nothing is selected by it."),
    "test/top5": Curve("%", "Share of test images whose class is among the five likeliest."),
    "architecture": Curve("", "The network that is trained: each layer's op, shapes, parameters and MACs."),
    "config": Curve("", "The config of the run as given."),
}
"""Every tag that a retraining writes, except those of engine.curves.comparison.FINAL, which searches have too."""


def log_begin(log: MetricsLog, config: RetrainConfig, architecture: Design, out: Path) -> None:
    """Writes what stays the same during a retraining: config, architecture, its row of HPARAMS, charts of CUSTOM
    SCALARS."""
    log.text("config", f"```yaml\n{config_text(config)}```")
    log.text("architecture", as_markdown(table_of(architecture)))
    log.charts({"accuracy": ACCURACY_CHARTS})
    settings = config.retrain
    log.hyperparameters(
        str(out),
        {
            "kind": "retraining", "data": config.data.name, "architecture": architecture.name,
            "epochs": settings.epochs, "batch_size": settings.batch_size, "lr": settings.lr,
            "weight_decay": settings.weight_decay, "label_smoothing": settings.label_smoothing,
            "seed": config.run.seed,
        },
    )  # fmt: skip


def log_end(log: MetricsLog, step: int, architecture: Design, test: Evaluation, predicted_ms: float | None) -> None:
    """Writes the network as a graph, and its figures. predicted_ms: by the search's table, None if not known."""
    network = Network(architecture)
    images = torch.zeros(1, architecture.input_channels, architecture.input_size, architecture.input_size)
    log.graph(graph_of(network, images, network.reading_names))
    c = architecture.complexity
    values = {"final/top1": test.top1, "final/macs": c.macs, "final/params": c.params}
    log.final(step, values if predicted_ms is None else values | {"final/latency": predicted_ms})


def predicted_latency(architecture: dict[str, Any]) -> float | None:
    """Returns the first latency in the content of an architecture.json; None if it has none."""
    records = architecture.get("predicted")
    for record in records if isinstance(records, list) else ():
        value = record.get("value") if isinstance(record, dict) and record.get("metric") == "latency" else None
        if isinstance(value, float) and math.isfinite(value):
            return value
    return None
