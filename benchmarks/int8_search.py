"""What deriving for int8 gains over deriving for float32:  python benchmarks/int8_search.py RUN... --out runs/int8

RUN: folders of searches of one space, such as `runs/quickstart/search`, which are only read. Measures an int8 table of
ONNX Runtime, which has the milliseconds of float32 beside. Derives two networks from each search: one under a limit on
the float32 milliseconds, and one under the limit that the first one's int8 latency is, so that both take equally long
in int8 by the table. Trains both from scratch, and times all in int8 and in float32, in turn. What is finished is kept
below --out and used by the next call; `--stage` stops after a part (the training needs no idle machine).

Prints one line of JSON: table (its error in percent, noise, Spearman), pairs: for each search `float32` and `int8`,
the networks that were derived so, each with its ops, predicted and measured milliseconds and their noise in both
precisions, top1, macs, params.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from engine.errors import run_command
from engine.progress import Stages, set_up_logging
from engine.runs.folder import run_begun
from latency.build import FLOAT32_MS
from latency.config import LatencyConfig, MeasureConfig
from latency.device import made_on
from latency.measure import Timing, measure_to_file, time_architectures
from latency.table import Entry, LatencyTable
from retrain.config import RetrainConfig
from retrain.run import retrain
from search.many.family import derive_family
from supernet.architecture import Architecture

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
STAGES = ("table", "derive", "train", "time")


def in_float32(table: LatencyTable) -> LatencyTable:
    """Returns the table of float32 that an int8 table has as a column."""
    column = table.columns[FLOAT32_MS]
    entries = {key: Entry(median_ms=ms) for key, ms in column.values.items()}
    plain: dict[str, object] = {
        "calibration": None,
        "verification": None,
        "columns": {},
        "quantiser": None,
        "dtype": "float32",
    }
    return table.model_copy(update=plain | {"entries": entries, "constant_ms": column.constant})


def derived(args: argparse.Namespace, run: Path, k: int, table: LatencyTable) -> dict[str, Architecture]:
    """Returns the two networks of search number k, by the precision for which they were derived."""
    copy = args.out / f"search{k}"
    if not copy.exists():
        shutil.copytree(run, copy)
    float32 = in_float32(table)
    float32.save(copy / "float32.yaml")
    table.save(copy / "int8.yaml")
    first = _derived(copy, "float32", args.at)
    second = _derived(copy, "int8", f"{table.cost(first.space).of(first.paths):.6g}")
    return {"float32": first, "int8": second}


def _derived(run: Path, name: str, at: str) -> Architecture:
    """Returns the network that a search derives by the table `name` in its folder."""
    (member,) = derive_family(run, [at], table=run / f"{name}.yaml", scored=False).members
    return member.architecture


def trained(args: argparse.Namespace, name: str, architecture: Architecture) -> float:
    """Returns the top-1 on the test images of a network trained from scratch."""
    config = RetrainConfig.read(args.retrain, [f"retrain.epochs={args.epochs}"])
    out = args.out / name
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
    file, stage = args.out / "table.yaml", STAGES.index(args.stage)
    if not file.exists():
        space = LatencyConfig.read(args.runs[0] / "config.yaml").space
        measure = MeasureConfig(runtime="onnxruntime", dtype="int8")
        with Stages() as report:
            measure_to_file(LatencyConfig(space=space, measure=measure), file, verify=40, report=report)
    if stage < STAGES.index("derive"):
        return
    table = LatencyTable.load(file)
    pairs = [derived(args, folder, k, table) for k, folder in enumerate(args.runs)]
    networks = {f"{name}{k}": network for k, pair in enumerate(pairs) for name, network in pair.items()}
    if stage < STAGES.index("train"):
        return
    top1 = {name: trained(args, name, network) for name, network in networks.items()}
    if stage < STAGES.index("time"):
        return
    timings, float32 = timed(networks), in_float32(table)
    rows: dict[str, Any] = {
        name: {
            "ops": list(network.names),
            "predicted": {
                "int8": table.cost(network.space).of(network.paths),
                "float32": float32.cost(network.space).of(network.paths),
            },
            "measured": {dtype: [t.median_ms, t.noise_ms] for dtype, t in timings[name].items()},
            "top1": top1[name],
            "macs": network.complexity.macs,
            "params": network.complexity.params,
        }
        for name, network in networks.items()
    }
    record: dict[str, Any] = {"pairs": [{name: rows[f"{name}{k}"] for name in pair} for k, pair in enumerate(pairs)]}
    if verified := table.verification:
        record["table"] = [verified.table.mape_percent, verified.noise_mape_percent, verified.table.spearman]
    print(json.dumps(record | made_on()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of searches of one space")
    parser.add_argument("--retrain", type=Path, default=CONFIGS / "retrain" / "quickstart.yaml")
    parser.add_argument("--at", default="40%", help="the limit in float32")
    parser.add_argument("--epochs", type=int, default=6, help="of every retraining")
    parser.add_argument("--stage", choices=STAGES, default="time", help="stop after this part; default: the last one")
    parser.add_argument("--out", type=Path, default=Path("runs/int8"))
    args = parser.parse_args()
    set_up_logging()
    run(args)


if __name__ == "__main__":
    run_command(main)
