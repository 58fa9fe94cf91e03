"""How well latency tables predict whole networks:  python benchmarks/latency_accuracy.py

The ImageNet space, for each runtime that is here. A table is built as `proxyless-nas measure` does (build_seconds),
and then once more with 40 held-out networks, spread over the reachable range, timed twice in the same rounds. Their
latencies are compared with the sums of ops timed alone, of ops timed in context, of calibrated entries, of the
calibrated entries of the table built minutes earlier, and with a constant and a line in MACs fitted to these very
networks. ONNX Runtime and LiteRT are measured in float32 and in int8; for int8, the ops that are not faster than in
float32 are named. On a machine with a GPU the same at batch 8 and 32 in float16 and bfloat16. Ends with one line of
JSON; --picture draws predicted against measured. --config takes another file with a `space`.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.config import validate
from engine.errors import run_command
from engine.progress import Stages, set_up_logging
from latency.build import FLOAT32_MS, Origin, build_table, entries_alone, network_ms, predicted_ms
from latency.config import LatencyConfig, MeasureConfig
from latency.measure import measure_table, timed_jobs
from latency.plan import Counts, TimingJob, draw_plan, timed_layers
from latency.runtimes import open_runtime
from latency.table import Entry, LatencyTable, Scores
from latency.verification import draw_picture, fitted_line, scores
from search.limits.limit import TableSource
from search.limits.precision import compared
from supernet.space import Space

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "latency" / "imagenet_cpu.yaml"
Series = list[tuple[str, np.ndarray, np.ndarray]]


def targets() -> dict[str, dict[str, Any]]:
    """Returns the variants that can be measured here: name -> the settings of `measure` that differ from the
    config's."""
    found: dict[str, dict[str, Any]] = {"torch_cpu": {}}
    if importlib.util.find_spec("onnxruntime"):
        found["onnxruntime_cpu"] = {"runtime": "onnxruntime"}
        found["onnxruntime_cpu_int8"] = {"runtime": "onnxruntime", "dtype": "int8"}
    if importlib.util.find_spec("litert_torch"):
        found["litert_cpu"] = {"runtime": "litert"}
        found["litert_cpu_int8"] = {"runtime": "litert", "dtype": "int8"}
    if torch.cuda.is_available():
        for batch in (8, 32):
            for dtype in ("float16", "bfloat16"):
                found[f"torch_cuda_batch{batch}_{dtype}"] = {"device": "cuda", "batch": batch, "dtype": dtype}
    return found


def accuracy(space: Space, measure: MeasureConfig, networks: int, seed: int) -> tuple[dict[str, Any], Series]:
    """Build a table, and again with everything that it is compared with in the same rounds; score all predictions."""
    int8 = measure.dtype == "int8"
    counts = Counts(measure.coverings, measure.calibration_networks, networks, alone=True, float32=int8)
    jobs = draw_plan(space, counts, seed)
    with Stages() as progress:
        began = time.monotonic()
        earlier = measure_table(space, measure, seed=seed, report=progress)
        build_seconds = time.monotonic() - began
        with open_runtime(space, measure) as runner:
            if not runner.sees_inside:
                jobs = tuple(job for job in jobs if not job.inside)
            samples, _ = timed_jobs(runner, measure, jobs, seed, progress)
            origin = Origin(earlier.device, earlier.runtime, runner.how)
    table = build_table(space, measure, jobs, samples, origin, seed=seed)
    jobs = tuple(job for job in jobs if not job.in_float32)
    verification = [job for job in jobs if job.purpose == "verification"]
    first, again = verification[::2], verification[1::2]
    measured, repeated = network_ms(first, samples), network_ms(again, samples)
    alone = entries_alone([job for job in jobs if job.purpose == "layer"], samples)
    macs = np.array([sum(layer.complexity.macs for layer in job.layers) for job in first], dtype=float)
    predictions = {
        "isolated": _sums(alone, first),
        "in_context": _sums(table.entries, first),
        "calibrated": predicted_ms(table, first),
        "calibrated_earlier": predicted_ms(earlier, first),
        "constant": fitted_line(None, measured),
        "macs": fitted_line(macs / macs.mean(), measured),
    }
    noise = scores(repeated, measured)
    record: dict[str, Any] = {name: _record(scores(found, measured)) for name, found in predictions.items()}
    for name in ("calibrated", "calibrated_earlier"):
        record[name]["mape_percent_thirds"] = scores(predictions[name], measured).mape_percent_thirds
    record |= {
        "noise_mape_percent": noise.mape_percent,
        "noise_spearman": noise.spearman,
        "range_ms": [float(measured.min()), float(measured.max())],
        "build_seconds": build_seconds,
    }
    if int8:
        record["float32"] = against_float32(space, table, measure)
    series = [(name, predictions[name], measured) for name in ("isolated", "in_context", "calibrated")]
    return record, series


def against_float32(space: Space, table: LatencyTable, measure: MeasureConfig) -> dict[str, Any]:
    """Returns how an int8 table compares with float32: the ratio of a network's latencies, of its ops, by their name,
    the range of the ratios over all shapes, and the ops that are not faster."""
    source = TableSource(Path("table.yaml"), table, table.cost(space), measure)
    found = compared(space, source, [])
    assert found is not None
    ratios: dict[str, list[float]] = {}
    float32 = table.columns[FLOAT32_MS].values
    for layer in timed_layers(space):
        if float32[str(layer)] > 0:
            ratios.setdefault(str(layer.spec), []).append(table.price(layer) / float32[str(layer)])
    return {
        "int8_over_float32": found.ratio,
        "by_op": {name: [min(each), max(each)] for name, each in ratios.items()},
        "compared": found.layers,
        "not_faster": [str(one) for one in found.slower],
    }


def _sums(entries: dict[str, Entry], jobs: list[TimingJob]) -> np.ndarray:
    """(jobs,): sums of the entries as measured."""
    return np.array([sum(entries[str(layer)].median_ms for layer in job.layers) for job in jobs])


def _record(found: Scores) -> dict[str, Any]:
    return found.model_dump(include={"mape_percent", "rmse_ms", "spearman", "kendall", "bias_percent"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: the ImageNet space")
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(targets()), help="default: all that can be measured here")
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    args = parser.parse_args()
    set_up_logging()
    config = LatencyConfig.read(args.config)
    results: dict[str, Any] = {}
    panels: dict[str, Series] = {}
    for name, settings in targets().items():
        if args.only and name not in args.only:
            continue
        measure = validate(MeasureConfig, config.measure.model_dump(mode="json") | settings, name)
        results[name], panels[name] = accuracy(Space(config.space), measure, args.networks, args.seed)
        print(name, json.dumps(results[name]), flush=True)
    if args.picture:
        draw_picture(args.picture, panels)
    print(json.dumps(results))


if __name__ == "__main__":
    run_command(main)
