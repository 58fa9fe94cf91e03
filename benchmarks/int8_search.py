"""What a search for int8 gains over one for float32:  python benchmarks/int8_search.py --out runs/int8_search

Measures one int8 table of ONNX Runtime, which has the milliseconds of float32 beside. Searches a network under a limit
in float32, and one under the limit that the first one's int8 latency is: so both take equally long in int8 by the
table. Retrains both with each seed, and times both in int8 and in float32, in turn. Every finished part is kept below
--out and used by the next call; `--stage table`, `train` and `time` run one part (the table and the timing need an idle
machine, the training does not).

Prints one line of JSON: table (its error in percent, noise, Spearman), at_ms (the float32 limit), int8_ms (that of the
first network, the limit of the second), networks: name -> names (its ops), predicted (int8, float32), measured (int8,
float32; median and noise in ms), top1 of each seed, macs, params; gain: float32 latency of the first over int8 latency
of the second, as measured.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from engine.errors import run_command
from engine.progress import Stages, set_up_logging
from engine.runs.folder import run_begun
from latency.build import FLOAT32_MS
from latency.config import MeasureConfig
from latency.device import made_on
from latency.measure import Timing, measure_to_file, time_architectures
from latency.table import LatencyTable
from retrain.config import RetrainConfig
from retrain.loop import retrain
from search.loop import finish_search
from supernet.architecture import Architecture

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
INT8 = ["measure.runtime=onnxruntime", "measure.dtype=int8"]
STAGES = ("table", "train", "time")


def limit_of(metric: str, table: Path, at: str) -> str:
    """Returns the override of a search for one limit, by the table's predictions alone."""
    return f"limits=[{{metric: {metric}, table: {table}, at: {at}, measure: {{device: external}}}}]"


def searched(args: argparse.Namespace, name: str, metric: str, at: str) -> Architecture:
    """Returns the network that a search derives under a limit; of an earlier call if there is one."""
    out = args.out / f"search-{name}"
    finish_search(args.search, out, overrides=[*INT8, limit_of(metric, args.out / "table.yaml", at)])
    return Architecture.from_json((out / "architecture.json").read_text())


def trained(args: argparse.Namespace, name: str, architecture: Architecture, seed: int) -> float:
    """Returns the top-1 on the test images of a network trained from scratch."""
    out = args.out / f"{name}-seed{seed}"
    config = RetrainConfig.read(args.retrain, [f"run.seed={seed}", f"retrain.epochs={args.epochs}"])
    return retrain(config, architecture, out, resume=run_begun(out), shown=False).test.top1


def timed(networks: dict[str, Architecture]) -> dict[str, dict[str, Timing]]:
    """Returns the timing of each network in each precision, all networks of a precision in turn."""
    found: dict[str, dict[str, Timing]] = {name: {} for name in networks}
    for dtype in ("int8", "float32"):
        measure = MeasureConfig.model_validate({"runtime": "onnxruntime", "dtype": dtype})
        for name, timing in zip(networks, time_architectures(list(networks.values()), measure), strict=True):
            found[name][dtype] = timing
    return found


def run(args: argparse.Namespace) -> None:
    file = args.out / "table.yaml"
    if not file.exists():
        with Stages() as report:
            measure_to_file(args.search, file, overrides=INT8, verify=40, report=report)
    if args.stage == "table":
        return
    table = LatencyTable.load(file)
    first = searched(args, "float32", FLOAT32_MS, args.at)
    int8, float32 = table.cost(first.space), table.column_cost(first.space, FLOAT32_MS, str(file))
    at = int8.of(first.paths)
    networks = {"float32": first, "int8": searched(args, "int8", "latency", f"{at:.6g}")}
    top1 = {
        name: [trained(args, name, network, seed) for seed in range(args.seeds)] for name, network in networks.items()
    }
    if args.stage == "train":
        return
    timings = timed(networks)
    rows: dict[str, Any] = {
        name: {
            "names": list(network.names),
            "predicted": {"int8": int8.of(network.paths), "float32": float32.of(network.paths)},
            "measured": {dtype: [t.median_ms, t.noise_ms] for dtype, t in timings[name].items()},
            "top1": top1[name],
            "macs": network.complexity.macs,
            "params": network.complexity.params,
        }
        for name, network in networks.items()
    }
    verified = table.verification
    assert verified is not None
    record = {
        "table": [verified.table.mape_percent, verified.noise_mape_percent, verified.table.spearman],
        "at_ms": float32.of(first.paths), "int8_ms": at, "networks": rows,
        "gain": timings["float32"]["float32"].median_ms / timings["int8"]["int8"].median_ms,
        **made_on(),
    }  # fmt: skip
    print(json.dumps(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=Path, default=CONFIGS / "search" / "quickstart_cpu.yaml")
    parser.add_argument("--retrain", type=Path, default=CONFIGS / "retrain" / "quickstart.yaml")
    parser.add_argument("--at", default="40%", help="the limit of the first search, in float32")
    parser.add_argument("--epochs", type=int, default=6, help="of every retraining")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stage", choices=STAGES, default="time", help="stop after this part; default: the last one")
    parser.add_argument("--out", type=Path, default=Path("runs/int8_search"))
    args = parser.parse_args()
    set_up_logging()
    run(args)


if __name__ == "__main__":
    run_command(main)
