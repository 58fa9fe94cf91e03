"""Exports networks to every runtime that is installed, checks and times the files, and plants faults of exporters:

    python benchmarks/export_matrix.py
    python benchmarks/export_matrix.py --networks efficientnet_lite0,mobilenet_v2 --run runs/quickstart/retrained
    python benchmarks/export_matrix.py --faults-only

EfficientNet-Lite0 has its published weights, proxyless-w0.3 (a trained int8 network) is taken as float; networks whose
weights are not to be had here are left out, with the reason. --run adds the network of a retraining. --table adds
what a latency table predicts for it; --measure measures one where none covers the network, of a small space around it.
Files of all runtimes are timed in turn, one image at a time on one thread. --int8 exports to int8 as well: the network
of a run with its own images, those of ImageNet with --photographs, a copy of
github.com/EliSchwartz/imagenet-sample-images, of which every other photograph calibrates and the rest is tested. The
last line is JSON: runtimes -> networks -> max_abs_diff, argmax_agreement, ms, predicted_ms, bytes; planted; caught;
int8 -> runtimes -> networks -> drop, interval, agreement, bytes; int8_planted; int8_caught.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from engine.config import validate
from engine.data.folder import FolderImages
from engine.errors import UserError
from export.calibration import Calibration, calibration_of_set
from export.formats import FORMATS, onnx_file
from export.int8 import check_int8
from export.job import RECORD, export_int8, export_network
from export.parity import Reference, check
from export.photographs import photographs
from export.program import INPUT, make_program, metadata_of
from export.quantisation import Int8, Quantisation
from export.timing import time_files
from exporter_faults import FAULTS, Good
from latency.config import MeasureConfig
from latency.measure import measure_table
from latency.prediction import predicted_ms
from latency.runtimes.int8_models import quantised_onnx
from latency.summary import summary
from latency.table import LatencyTable
from proxyless_nas.quantised import int8_settings
from proxyless_nas.sources import Source, trained_network
from quantiser_faults import FAULTS as QUANTISER_FAULTS
from quantiser_faults import FILE_FAULTS, GoodInt8
from supernet.design import Design
from supernet.space import Space, SpaceConfig

NETWORKS = "efficientnet_lite0,../shared/data/tiny_training/proxyless-w0.3.pkl,mobilenet_v2"
IMAGENET_CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=NETWORKS, help="published names, or files; default: %(default)s")
    parser.add_argument("--run", type=Path, action="append", default=[], help="folder of a retraining")
    parser.add_argument("--path", type=Path, help="labelled images of the networks' classes, for the accuracies")
    parser.add_argument("--table", type=Path, action="append", default=[], help="latency table, for predicted_ms")
    parser.add_argument("--measure", action="store_true", help="measure a table of ONNX Runtime where none is given")
    parser.add_argument("--faults-only", action="store_true")
    parser.add_argument("--int8", action="store_true", help="int8 files of the runtimes that have them, too")
    parser.add_argument("--int8-only", action="store_true", help="nothing but int8 files and their faults")
    parser.add_argument("--photographs", type=Path, help="imagenet-sample-images, for int8")
    parser.add_argument("--calibration-images", type=int, default=256)
    args = parser.parse_args()
    sources: dict[str, Source] = {}
    places: dict[str, Path] = {}
    for name in [*filter(None, args.networks.split(",")), *map(str, args.run)]:
        try:
            found = trained_network(name)
            sources[found.network.architecture.name] = found
            places[found.network.architecture.name] = Path(name)
        except UserError as error:
            print(f"{name}: left out: {error}", flush=True)
    result: dict[str, Any] = {"runtimes": {}, "left_out": {}}
    first = next(iter(sources.values()))
    if not args.int8_only:
        result |= planted(first)
    if args.int8 or args.int8_only:
        result |= planted_int8(first)
    if (args.int8 or args.int8_only) and not args.faults_only:
        result |= int8_matrix(sources, places, args.photographs, args.calibration_images)
    if not args.faults_only and not args.int8_only:
        result |= matrix(sources, args.path, args.table, args.measure)
    print(json.dumps(result))


def matrix(sources: dict[str, Source], images: Path | None, tables: Sequence[Path], measure: bool) -> dict[str, Any]:
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
                }
                print(file, flush=True)
            table = table_of(source, tables, measure, Path(folder))
            files = json.loads((Path(folder) / RECORD).read_text())["files"]
            paths = [Path(folder) / entry["file"] for entry in files.values()]
            for name, timing in zip(files, time_files(paths, table), strict=True):
                print(timing, flush=True)
                predicted = timing.prediction
                runtimes[name][network] |= {
                    "ms": round(timing.median_ms, 3),
                    "noise_ms": round(timing.noise_ms, 3),
                    "predicted_ms": None if predicted is None else round(predicted.ms, 3),
                    "verdict": timing.no_prediction if predicted is None else predicted.reason or predicted.verdict,
                    "drift": predicted.reference.drift if predicted and predicted.reference else None,
                }
    return {"runtimes": runtimes, "left_out": left_out}


def int8_matrix(sources: dict[str, Source], places: dict[str, Path], photos: Path | None, count: int) -> dict[str, Any]:
    """Returns the figures of int8 files of every runtime and network."""
    found: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    for network, source in sources.items():
        try:
            settings = int8_of(source, places[network], photos, count)
        except UserError as error:
            left_out[network] = str(error)
            continue
        for name, format in FORMATS.items():
            if format.int8 is None:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    (file,) = export_int8(
                        source.network, source.preprocessing, source.classes, [name], Path(folder), settings
                    )
                except UserError as error:
                    left_out[f"{name}, {network}"] = str(error)
                    print(error, flush=True)
                    continue
            found_drop, same = file.check.drop, file.check.agreement
            found.setdefault(name, {})[network] = {
                "runtime": file.check.runtime,
                "drop": found_drop.points if found_drop else None,
                "interval": found_drop.interval if found_drop else None,
                "top1": [found_drop.top1_float32, found_drop.top1_int8] if found_drop else None,
                "agreement": same.share,
                "images": same.images,
                "on": same.on,
                "max_abs_diff": same.max_abs_diff,
                "noise": file.check.noise,
                "simulated_noise": file.check.simulated_noise,
                "bytes": file.bytes,
            }
            print(file, flush=True)
    return {"int8": found, "int8_left_out": left_out}


def int8_of(source: Source, place: Path, photos: Path | None, count: int) -> Int8:
    """Returns the images of an int8 export. Raises UserError if there are none."""
    if photos is None or len(source.classes) != IMAGENET_CLASSES:
        return int8_settings(
            place, source, source.preprocessing, calibration=None, count=count, images=None, max_drop=100, keep=0
        )
    files = sorted(file.name for file in photos.glob("*.JPEG"))
    if len(files) != IMAGENET_CLASSES:
        raise UserError(str(photos), f"has {len(files)} photographs", f"{IMAGENET_CLASSES}, one of each class")
    labels = np.arange(len(files))
    names = np.array([name.encode() for name in files])
    every = [FolderImages(photos, names[part::2], labels[part::2], source.preprocessing, flip=False) for part in (0, 1)]
    calibration = calibration_of_set(every[0], count, "every other photograph of imagenet-sample-images")
    return Int8(calibration, 100, test=every[1], test_source="the other photographs of imagenet-sample-images")


def planted_int8(source: Source) -> dict[str, Any]:
    """Plants every fault of quantisers into a good int8 ONNX file, and returns how many there are and which the check
    has caught. The calibration images are photographs, as they are and mirrored."""
    network, preprocessing = source.network, source.preprocessing
    pixels = torch.stack([preprocessing.pixels_of(picture) for picture in photographs()])
    none = torch.empty(0, *pixels.shape[1:], dtype=torch.uint8)
    calibration = Calibration(torch.cat([pixels, pixels.flip(3)]), none, preprocessing, "photographs")
    metadata = metadata_of(network, "network", preprocessing, source.classes, 0, "nchw", False)
    program = make_program(network, "network", preprocessing, 0, "nchw", False, metadata)
    floats = onnx_file.model_of(program)
    feeds = ({INPUT: images} for images in calibration.inputs("nchw", False, 16))
    good = GoodInt8(floats, quantised_onnx(floats, feeds), calibration)
    quantisation = Quantisation(network, preprocessing, Int8(calibration), Reference(network, preprocessing, False))
    messages: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"

        def checked(model: onnx.ModelProto, before: onnx.ModelProto) -> str:
            """Returns the error of a file; before: the model in the quantiser's process."""
            onnx.save(model, path)
            try:
                check_int8(quantisation, FORMATS["onnx"], program, path, onnx_file.runner(before))
            except UserError as error:
                return str(error)
            return ""

        message = checked(good.model, good.model)  # the good file passes
        assert not message, message
        for name, fault in {**QUANTISER_FAULTS, **FILE_FAULTS}.items():
            model = fault(good)
            messages[name] = checked(model, good.model if name in FILE_FAULTS else model)
            print(f"{name}: {messages[name] or 'NOT CAUGHT'}", flush=True)
    missed = sorted(name for name, message in messages.items() if not message)
    return {"int8_planted": len(messages), "int8_caught": len(messages) - len(missed), "int8_missed": missed}


def table_of(source: Source, tables: Sequence[Path], measure: bool, folder: Path) -> Path | None:
    """Returns the first table that covers a network; else, if `measure`, one that is measured now with ONNX Runtime, of
    a small space around it. None if there is neither."""
    design = source.network.architecture
    for path in tables:
        try:
            predicted_ms(design, LatencyTable.load(path))
        except UserError:
            continue
        return path
    if not measure:
        return None
    try:
        space = space_around(design)
    except UserError as error:
        print(f"{design.name}: no table is measured: {error}", flush=True)
        return None
    settings = MeasureConfig(runtime="onnxruntime", rounds=3, coverings=8, calibration_networks=20)
    table = measure_table(space, settings, verify=12)
    print(f"{design.name}: table measured: {summary(table.verification) if table.verification else ''}", flush=True)
    table.save(folder / "table.yaml")
    return folder / "table.yaml"


def space_around(design: Design) -> Space:
    """Returns a space that holds all layers of a network: a stage for each width, whose candidates are the ops that the
    network has there, and one more. Raises UserError if its ops have no names, or its blocks no such stages."""
    (_, stem), *edges, (_, mix), _ = design.places
    stages: list[dict[str, Any]] = []
    for _, layer in edges:
        if layer.is_skip:
            continue
        if not stages or layer.c_out != stages[-1]["width"]["exact"] or layer.stride == 2:
            stages.append({"width": {"exact": layer.c_out}, "stride": layer.stride, "first": [], "candidates": []})
            ops = stages[-1]["first"]
        else:
            ops = stages[-1]["candidates"]
        stages[-1]["depth"] = stages[-1].get("depth", 0) + 1
        ops += [str(layer.spec)] if str(layer.spec) not in ops else []
    for stage in stages:
        stage["candidates"] = stage["candidates"] or list(stage["first"])
        for ops in (stage["first"], stage["candidates"]):
            ops += [op for op in ("mbconv_k3_e6", "mbconv_k5_e3") if op not in ops][: 1 if len(ops) == 1 else 0]
    settings = design.op_settings
    config = {
        "input_size": design.input_size, "input_channels": design.input_channels, "classes": design.classes,
        "stem": {"kernel": stem.spec.kernel_size, "stride": stem.stride, "width": {"exact": stem.c_out}},  # type: ignore[attr-defined]
        "stages": stages, "feature_mix": {"exact": mix.c_out}, "activation": settings.activation,
    }  # fmt: skip
    space = Space(validate(SpaceConfig, config, design.name))
    every = {str(layer) for layer in space.all_layers}
    lacking = [str(layer) for layer in design.layers if not layer.is_skip and str(layer) not in every]
    if lacking:
        raise UserError(design.name, f"'{lacking[0]}' is in no space of stages", remedy="give a --table")
    return space


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
            model = fault(good)
            assert model != good.model, f"{name} changes nothing in this network"
            onnx.save(model, path)
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
