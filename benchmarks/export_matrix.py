"""Exports networks to every runtime that is installed, checks and times the files, and plants faults of exporters:

    python benchmarks/export_matrix.py
    python benchmarks/export_matrix.py --networks efficientnet_lite0,mobilenet_v2 --run runs/quickstart/retrained
    python benchmarks/export_matrix.py --faults-only

EfficientNet-Lite0 has its published weights, proxyless-w0.3 (a trained int8 network) is taken as float; networks whose
weights are not to be had here are left out, with the reason. --run adds the network of a retraining. --table adds
what a latency table predicts for it. Files of all runtimes are timed in turn, one image at a time on one thread. The
last line is JSON: runtimes -> networks -> max_abs_diff, argmax_agreement, ms, predicted_ms, bytes; planted; caught.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from engine.data import Preprocessing
from engine.errors import UserError
from export.formats import FORMATS, onnx_file
from export.fresh_process import FreshProcess
from export.job import export_network
from export.parity import Reference, check, prepared
from export.photographs import photographs
from export.program import make_program, metadata_of
from exporter_faults import FAULTS, Good
from latency.table import LatencyTable
from proxyless_nas.sources import Source, trained_network

NETWORKS = "efficientnet_lite0,../shared/data/tiny_training/proxyless-w0.3.pkl,mobilenet_v2"
ROUNDS, PASSES = 15, 5
"""Each file is timed in so many rounds, in each so many passes."""
PHOTO = 8
"""The photograph that is timed: a flower."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=NETWORKS, help="published names, or files; default: %(default)s")
    parser.add_argument("--run", type=Path, action="append", default=[], help="folder of a retraining")
    parser.add_argument("--path", type=Path, help="labelled images of the networks' classes, for the accuracies")
    parser.add_argument("--table", type=Path, help="latency table, for predicted_ms")
    parser.add_argument("--faults-only", action="store_true")
    args = parser.parse_args()
    sources: dict[str, Source] = {}
    for name in [*filter(None, args.networks.split(",")), *map(str, args.run)]:
        try:
            found = trained_network(name)
            sources[found.network.architecture.name] = found
        except UserError as error:
            print(f"{name}: left out: {error}", flush=True)
    result: dict[str, Any] = {"runtimes": {}, "left_out": {}}
    first = next(iter(sources.values()))
    result |= planted(first)
    if not args.faults_only:
        table = LatencyTable.load(args.table) if args.table else None
        result |= matrix(sources, args.path, table)
    print(json.dumps(result))


def matrix(sources: dict[str, Source], images: Path | None, table: LatencyTable | None) -> dict[str, Any]:
    """Returns the figures of every runtime and network."""
    runtimes: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    installed = []
    for name, format in FORMATS.items():
        try:
            format.refuse_if_missing()
            installed.append(name)
        except UserError as error:
            left_out[name] = str(error)
    for network, source in sources.items():
        with tempfile.TemporaryDirectory() as folder:
            for name in installed:
                try:
                    (file,) = export_network(
                        source.network, source.preprocessing, source.classes, [name], Path(folder), images=images,
                        folder_names=source.folder_names,
                    )  # fmt: skip
                except UserError as error:
                    left_out[f"{name}, {network}"] = str(error)
                    continue
                photos, accuracy = file.parity.photographs, file.parity.folder
                runtimes.setdefault(name, {})[network] = {
                    "runtime": file.parity.runtime,
                    "max_abs_diff": max(file.parity.random.max_abs_diff, photos.max_abs_diff if photos else 0),
                    "argmax_agreement": photos.argmax_agreement if photos else file.parity.random.argmax_agreement,
                    "top1": [accuracy.top1_pytorch, accuracy.top1_file] if accuracy else None,
                    "bytes": file.bytes,
                    "predicted_ms": predicted_ms(source, table),
                }
                print(file, flush=True)
            for name, ms in timed(Path(folder), source.preprocessing).items():
                runtimes[name][network]["ms"] = ms
    return {"runtimes": runtimes, "left_out": left_out}


def timed(folder: Path, preprocessing: Preprocessing) -> dict[str, float]:
    """Returns the median milliseconds of one image for each file in a folder of exported ones, timed in turn."""
    files = json.loads((folder / "export.json").read_text())["files"]
    image = prepared(photographs()[PHOTO : PHOTO + 1], preprocessing)
    times: dict[str, list[float]] = {name: [] for name in files}
    with ExitStack() as stack:
        opened = {}
        for name, entry in files.items():
            file = stack.enter_context(FreshProcess(FORMATS[name], folder / entry["file"]))
            own = image if entry["input"]["layout"] == "nchw" else image.permute(0, 2, 3, 1)
            file(np.ascontiguousarray(own.numpy()))
            file.times(PASSES)
            opened[name] = file
        for _ in range(ROUNDS):
            for name, file in opened.items():
                times[name].append(statistics.median(file.times(PASSES)))
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def predicted_ms(source: Source, table: LatencyTable | None) -> float | None:
    """Returns what a table predicts for a network; None if it lacks an entry."""
    if table is None:
        return None
    try:
        places = source.network.architecture.places
        return round(table.constant_ms + sum(table.price(layer, place) for place, layer in places), 3)
    except UserError as error:
        print(error, flush=True)
        return None


def planted(source: Source) -> dict[str, Any]:
    """Plants every fault into a good ONNX file, and returns how many there are and which the check has caught."""
    network, preprocessing = source.network, source.preprocessing
    metadata = metadata_of(network, "network", preprocessing, source.classes, 0, "nchw", False)
    program = make_program(network, "network", preprocessing, 0, "nchw", False, metadata)
    good = Good(network, preprocessing, metadata, onnx_file.model_of(program))
    reference = Reference(network, preprocessing, False)
    messages: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(good.model, path)
        check(path, FORMATS["onnx"], reference, metadata)  # the good file passes
        for name, fault in FAULTS.items():
            onnx.save(fault(good), path)
            try:
                check(path, FORMATS["onnx"], reference, metadata)
                messages[name] = ""
            except UserError as error:
                messages[name] = str(error)
            print(f"{name}: {messages[name] or 'NOT CAUGHT'}", flush=True)
    caught = [name for name, message in messages.items() if message]
    return {"planted": len(FAULTS), "caught": len(caught), "missed": sorted(FAULTS.keys() - set(caught))}


if __name__ == "__main__":
    main()
