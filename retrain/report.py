"""Writes what TensorBoard shows of a retraining: curves, the architecture as text and graph, figures to compare.

Nothing here changes a retraining: the graph is drawn from a fresh network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.config import config_text
from engine.curves.comparison import ACCURACY_CHARTS, Curve
from engine.curves.graph import graph_of
from engine.curves.metrics import MetricsLog
from engine.data import Preprocessing
from engine.evaluation import ClassCounts, Evaluation, wilson
from retrain.config import RetrainConfig
from supernet.design import Design
from supernet.network import Network
from supernet.summary import as_markdown, table_of

IMAGES_IN_A_ROW, CLASSES_IN_PICTURE, PICTURE_SIDE, PAIRS = 8, 200, 400, 20

CURVES = {
    "train/loss": Curve("nats", "Cross entropy on training batches, label smoothing included."),
    "train/top1": Curve("%", "Accuracy on training batches."),
    "train/top5": Curve("%", "Share of training images whose class is among the five likeliest."),
    "lr/weights": Curve("", "Learning rate."),
    "gradient/norm": Curve("", "Norm of the gradient of all weights together, before `retrain.clip` bounds it."),
    "speed/images_per_second": Curve("images/s", "Speed of the training."),
    "test/loss": Curve("nats", "Cross entropy on the test images."),
    "test/top1": Curve("%", "Accuracy on the test images. Nothing is selected by it."),
    "test/top5": Curve("%", "Share of test images whose class is among the five likeliest."),
    "test_not_averaged/loss": Curve("nats", "The same of the weights before they are averaged."),
    "test_not_averaged/top1": Curve("%", "The same of the weights before they are averaged."),
    "test_not_averaged/top5": Curve("%", "The same of the weights before they are averaged."),
    "validation/loss": Curve("nats", "Cross entropy on the training images held out."),
    "validation/top1": Curve("%", "Accuracy on the training images held out. The best epoch is chosen by it."),
    "validation/top5": Curve("%", "Share of the images held out whose class is among the five likeliest."),
    "validation_not_averaged/loss": Curve("nats", "The same of the weights before they are averaged."),
    "validation_not_averaged/top1": Curve("%", "The same of the weights before they are averaged."),
    "validation_not_averaged/top5": Curve("%", "The same of the weights before they are averaged."),
    "train/images": Curve("", "Training images as the network sees them: cropped, augmented, mixed."),
    "confusion": Curve("", "A row for each class, a column for each that its images were taken for; darker: more."),
    "confused": Curve("", "The pairs of classes that were confused most often in the evaluation."),
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
    augment = settings.augment
    parts = {"erasing": augment.erasing, "mixup": augment.mixup, "cutmix": augment.cutmix}
    log.hyperparameters(
        str(out),
        {
            "kind": "retraining", "data": config.data.name, "architecture": architecture.name,
            "epochs": settings.epochs, "batch_size": settings.batch_size, "optimizer": settings.optimizer,
            "lr": settings.resolved_lr, "weight_decay": settings.resolved_weight_decay,
            "augmentation": ", ".join([augment.policy, *(f"{key} {value:g}" for key, value in parts.items() if value)]),
            "label_smoothing": settings.label_smoothing,
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


def log_images(log: MetricsLog, step: int, images: Tensor, preprocessing: Preprocessing) -> None:
    """Writes a grid of the first images (N, C, S, S) of a batch, with their normalisation undone."""
    from torchvision.utils import make_grid

    columns = min(IMAGES_IN_A_ROW, len(images))
    shown = images[: columns * (len(images) // columns)][: IMAGES_IN_A_ROW**2].float().cpu()
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = ((shown * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    log.image(step, "train/images", make_grid(pixels, columns, padding=1).permute(1, 2, 0).numpy())


def log_evaluation(log: MetricsLog, step: int, counts: ClassCounts, names: Sequence[str]) -> None:
    """Writes the confusion matrix as a picture, unless there are more than CLASSES_IN_PICTURE classes, and the pairs of
    classes that are confused most often."""
    if len(names) <= CLASSES_IN_PICTURE:
        shares = counts.confusions / counts.images.clamp(min=1)[:, None]  # (classes, classes), rows of sum 1
        side = max(1, PICTURE_SIDE // len(names))
        dark = (255 * (1 - shares)).round().to(torch.uint8).numpy().repeat(side, 0).repeat(side, 1)
        log.image(step, "confusion", np.stack([dark, dark, np.full_like(dark, 255)], axis=2))
    pairs = [
        f"| {names[own]} | {names[other]} | {amount} of {int(counts.images[own])} |"
        for amount, own, other in counts.most_confused(PAIRS)
    ]
    log.text("confused", "\n".join(["| class | taken for | images |", "|---|---|---|", *pairs]), step)


def result_of(test: Evaluation, counts: ClassCounts, names: Sequence[str]) -> dict[str, Any]:
    """Returns the figures of result.json: those of the test, with Wilson's 95 % intervals, and those of each class."""
    classes = [
        {
            "class": row.name, "images": row.images, "top1": row.top1, "top1_interval": list(row.interval),
            "taken_for": row.taken_for, "taken": row.taken,
        }
        for row in counts.rows(names)
        if row.images
    ]  # fmt: skip
    confused = [
        {"class": names[own], "taken_for": names[other], "images": amount}
        for amount, own, other in counts.most_confused(PAIRS)
    ]
    return {
        "test": asdict(test), "top1_interval": list(wilson(test.top1, test.images)), "classes": classes,
        "confused": confused,
    }  # fmt: skip


def predicted_latency(architecture: dict[str, Any]) -> float | None:
    """Returns the first latency in the content of an architecture.json; None if it has none."""
    records = architecture.get("predicted")
    for record in records if isinstance(records, list) else ():
        value = record.get("value") if isinstance(record, dict) and record.get("metric") == "latency" else None
        if isinstance(value, float) and math.isfinite(value):
            return value
    return None
