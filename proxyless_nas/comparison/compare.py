"""Compares networks: sizes, accuracies, and latencies that are published, predicted and measured."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.files import as_list, as_path, as_texts
from engine.nearest import nearest
from engine.progress import Report, silent
from engine.wording import shown
from latency.config import MOST_REPEATS
from latency.device import made_on
from latency.measure import TIMING_ROUNDS
from latency.table import LatencyTable
from proxyless_nas.comparison.accuracy import check_images, measured_accuracies, read_accuracies, with_measured
from proxyless_nas.comparison.devices import (
    Figures,
    measured_columns,
    named_tables,
    predicted_columns,
    published_columns,
    targets_of,
)
from proxyless_nas.comparison.networks import Compared, networks_of
from proxyless_nas.comparison.result import Accuracy, Column, Row
from proxyless_nas.comparison.table import Comparison


def compare(
    networks: Sequence[Any] | Mapping[str, Any],
    *,
    tables: Sequence[LatencyTable | Path | str] = (),
    devices: Sequence[str] | str = (),
    at: float | Mapping[str, float] | None = None,
    accuracy: Path | str | None = None,
    images: Path | str | None = None,
    threads: int = 1,
    batch: int = 1,
    rounds: int = TIMING_ROUNDS,
    input_size: int = 224,
    allow_modules: Collection[str] = (),
    report: Report = silent,
) -> Comparison:
    """Compares networks on devices: parameters, MACs, accuracy, predicted and measured latency, and which is best.

    networks: names of published networks, `torchvision:NAME`, files (architecture.json, net.config), folders of
    searches and retrainings, architectures, chains, networks, or any modules that take (N, 3, S, S) images with S being
    `input_size`; a mapping gives them names. tables: latency tables, or their files. devices: the runtimes of this
    machine in which the networks are timed: cpu (PyTorch), cuda, pytorch_compile, onnxruntime, litert. at: a latency in
    ms, or one for some columns by their names; the most accurate network at or below it is found. accuracy: a file of
    measured accuracies (see `read_accuracies`). images: a folder of images on which every network with trained weights
    is evaluated now. threads, batch, rounds: of the timings, each network having a timing in each round. allow_modules:
    the user's modules that the files may import.

    A network that a table does not cover, or a runtime cannot run, has an empty cell with the reason. Raises a
    UserError for anything else that is wrong, before anything is measured.
    """
    found = networks_of(networks, as_texts(allow_modules, "allow_modules"), _count(input_size, "input_size"))
    given = [
        table if isinstance(table, LatencyTable) else as_path(table, "tables") for table in as_list(tables, "tables")
    ]
    named = named_tables(given)
    words = devices.split(",") if isinstance(devices, str) else as_texts(devices, "devices")
    threads, batch = _count(threads, "threads"), _count(batch, "batch")
    targets = targets_of([word.strip() for word in words if word.strip()], threads, batch)
    rounds = _count(rounds, "rounds", least=2)
    published = published_columns(found)
    columns = [column.name for column, _ in published] + [name for name, _ in named] + [t.name for t in targets]
    bounds = _bounds(at, columns)
    accuracies, reasons = _accuracies(found, accuracy, images, report)
    latencies = [*published, *predicted_columns(found, named), *measured_columns(found, targets, rounds, report)]
    return Comparison(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        made_on=made_on(),
        columns=tuple(column for column, _ in latencies),
        rows=tuple(_row(n, accuracies[n.name], reasons.get(n.name, ""), latencies) for n in found),
        at=bounds,
    )


def _accuracies(
    found: Sequence[Compared], file: Path | str | None, images: Path | str | None, report: Report
) -> tuple[dict[str, tuple[Accuracy, ...]], dict[str, str]]:
    """Returns the accuracies of each network, and the reason for each that was not evaluated, by their names. file,
    images: `accuracy` and `images` of compare."""
    measured = {} if file is None else read_accuracies(as_path(file, "accuracy"), [network.name for network in found])
    reasons: dict[str, str] = {}
    if images is not None:
        folder = as_path(images, "images")
        check_images(folder)
        scores, reasons = measured_accuracies(found, folder, report)
        measured |= {name: (score,) for name, score in scores.items()}
    return with_measured(found, measured), reasons


def _row(
    network: Compared, accuracies: tuple[Accuracy, ...], no_accuracy: str, latencies: Sequence[tuple[Column, Figures]]
) -> Row:
    """Returns the row of a network. latencies: each column with the figures of all networks, by their names."""
    return Row(
        name=network.name,
        params=network.complexity.params,
        macs=network.complexity.macs,
        channels=network.channels,
        input_size=network.input_size,
        classes=network.classes,
        accuracies=accuracies,
        no_accuracy=no_accuracy,
        latencies={column.name: figures[network.name] for column, figures in latencies},
    )


def _count(value: object, where: str, least: int = 1) -> int:
    """Returns a whole number of at least `least`. Raises ConfigError if it is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_REPEATS:
        raise ConfigError(where, f"got {shown(value)}", f"a whole number from {least} to {MOST_REPEATS}")
    return value


def _bounds(at: Any, columns: Sequence[str]) -> dict[str, float]:
    """Returns the latency in ms for each column for which one is given. Raises ConfigError."""
    given = at if isinstance(at, Mapping) else {} if at is None else dict.fromkeys(columns, at)
    for name, ms in given.items():
        if name not in columns:
            listed = ", ".join(columns) or "a device or a table beside it"
            raise ConfigError("at", f"got '{str(name)[:80]}'", listed, suggestion=nearest(str(name), columns))
        if not isinstance(ms, int | float) or isinstance(ms, bool) or not 0 < ms < float("inf"):
            raise ConfigError("at", f"got {shown(ms)}", "milliseconds above 0")
    if at is not None and not columns:
        raise ConfigError("at", "got a latency, but no network has one", "a device or a table beside it")
    return {name: float(ms) for name, ms in given.items()}
