"""How well latency tables predict whole networks:  python benchmarks/latency_accuracy.py

The ImageNet space, for each runtime that is here: build a table as scripts/measure_latency.py does, then time 40
networks that had no part in it, spread over the reachable range, twice each, and compare with the sums of ops timed
alone, of ops timed in context, of calibrated entries, and with a constant and a line in MACs fitted to these very
networks. On a machine with a GPU the same at batch 8 and 32 in float16 and bfloat16. Ends with one line of JSON;
--picture draws predicted against measured.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.config import load_config, validate
from engine.errors import run_door
from engine.progress import Stages, set_up_logging
from latency.build import entries_alone, network_ms, predicted_ms
from latency.config import LatencyConfig, MeasureConfig
from latency.measure import measure_table, timed_jobs, used_networks
from latency.plan import Job, timed_layers, verification_jobs, verification_networks
from latency.runtimes import open_runtime
from latency.table import Scores
from latency.verification import draw_picture, fitted_line, scores
from supernet.space import Space

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "latency" / "imagenet_cpu.yaml"
Series = list[tuple[str, np.ndarray, np.ndarray]]


def targets() -> dict[str, dict[str, Any]]:
    """What can be measured here: name -> the settings of `measure` that differ from the config's."""
    found: dict[str, dict[str, Any]] = {"torch_cpu": {}}
    if importlib.util.find_spec("onnxruntime"):
        found["onnxruntime_cpu"] = {"runtime": "onnxruntime"}
    if importlib.util.find_spec("litert_torch"):
        found["litert_cpu"] = {"runtime": "litert"}
    if torch.cuda.is_available():
        for batch in (8, 32):
            for dtype in ("float16", "bfloat16"):
                found[f"torch_cuda_batch{batch}_{dtype}"] = {"device": "cuda", "batch": batch, "dtype": dtype}
    return found


def accuracy(space: Space, measure: MeasureConfig, networks: int, seed: int) -> tuple[dict[str, Any], Series]:
    """Build a table, time fresh networks, score every way to predict them."""
    with Stages() as progress:
        began = time.monotonic()
        table = measure_table(space, measure, seed=seed, progress=progress)
        build_seconds = time.monotonic() - began
        paths = verification_networks(space, networks, seed, avoid=used_networks(space, table))
        checked = verification_jobs(space, paths)
        alone = [Job(f"layer{i:03}", "layer", (layer,)) for i, layer in enumerate(timed_layers(space))]
        with open_runtime(space, measure) as runner:
            samples, _ = timed_jobs(runner, measure, [*alone, *checked], seed, progress)
    first, again = checked[::2], checked[1::2]
    measured, repeated = network_ms(first, samples), network_ms(again, samples)
    isolated = {key: entry.median_ms for key, entry in entries_alone(alone, samples).items()}
    in_context = {key: entry.median_ms for key, entry in table.entries.items()}
    macs = np.array([sum(layer.complexity.macs for layer in job.layers) for job in first], dtype=float)
    predictions = {
        "isolated": _sums(isolated, first),
        "in_context": _sums(in_context, first),
        "calibrated": predicted_ms(table, first),
        "constant": fitted_line(None, measured),
        "macs": fitted_line(macs / macs.mean(), measured),
    }
    noise = scores(repeated, measured)
    record: dict[str, Any] = {name: _record(scores(found, measured)) for name, found in predictions.items()}
    record["calibrated"]["mape_percent_thirds"] = scores(predictions["calibrated"], measured).mape_percent_thirds
    record |= {
        "noise_mape_percent": noise.mape_percent,
        "noise_spearman": noise.spearman,
        "range_ms": [float(measured.min()), float(measured.max())],
        "build_seconds": build_seconds,
    }
    series = [(name, predictions[name], measured) for name in ("isolated", "in_context", "calibrated")]
    return record, series


def _sums(prices: dict[str, float], jobs: list[Job]) -> np.ndarray:
    return np.array([sum(prices[str(layer)] for layer in job.layers) for job in jobs])


def _record(found: Scores) -> dict[str, Any]:
    return found.model_dump(include={"mape_percent", "rmse_ms", "spearman", "kendall", "bias_percent"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(targets()), help="default: all that can be measured here")
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    args = parser.parse_args()
    set_up_logging()
    config = validate(LatencyConfig, load_config(CONFIG), str(CONFIG))
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
    run_door(main)
