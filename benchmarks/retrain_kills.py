"""Whether a retraining that is killed at any moment and resumed equals one that runs through, bit for bit:

    python benchmarks/retrain_kills.py

For each pair of options (averaged weights, mixup, cutmix, a teacher, bf16, accumulation, a bounded gradient, training
images that grow, two processes, shards of image files), with each of three optimizers and augmentation policies in
turn, a short retraining on a CPU runs through. A second one gets SIGKILL at random moments, of two processes first in a
random one, and is resumed each time; at the end, all tensors of its last checkpoint, its curves and its result.json are
compared with those of the first. Prints one line of JSON, and ends with status 1 if any pair differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from engine.config import validate
from engine.data import open_images
from engine.data.config import DataConfig
from engine.data.shards import pack
from engine.distributed import ALONE, WAIT, Group
from engine.runs.checkpoints import Checkpoints
from retrain.config import RetrainConfig
from retrain.run import retrain
from supernet.architecture import Architecture
from supernet.space import Space, SpaceConfig

SPACE = {
    "input_size": 8, "input_channels": 3, "classes": 4, "stem": {"kernel": 3, "stride": 1, "width": 8}, "dropout": 0.2,
    "stages": [{"width": 8, "depth": 2, "candidates": ["mbconv_k3_e3", "conv_k1", "skip"]}], "feature_mix": 16,
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "data": {"name": "fake", "fake_images": 64, "fake_classes": 4, "workers": 0},
    "retrain": {"epochs": 4, "batch_size": 8, "lr": 0.05},
    "run": {"seed": 0, "threads": 1, "log_every": 1, "checkpoint_every": 3},
}
STEPS = 32
PROCESSES, SHARDS = "processes", "shards"
OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"retrain": {"ema": 0.99}},
    "mixup": {"retrain": {"augment": {"mixup": 0.4}}},
    "cutmix": {"retrain": {"augment": {"cutmix": 1.0}}},
    "teacher": {"retrain": {"teacher": {"network": "TEACHER", "temperature": 2.0}}},
    "bf16": {"run": {"amp": "bf16"}},
    "accumulate": {"retrain": {"accumulate": 2}},
    "clip": {"retrain": {"clip": 0.5}},
    "sizes": {"retrain": {"augment": {"sizes": [6, 8]}}},
    PROCESSES: {},
    SHARDS: {},
}
OPTIMIZERS = ("sgd", "adamw", "rmsprop")
POLICIES = ("published", "randaugment", "trivialaugment")


def packed(folder: Path) -> Path:
    """Writes image files of noise, as many and of as many classes as the fake images, and packs them into shards, of
    which the training part has several. Returns the folder of the shards."""
    numbers = np.random.default_rng(0)
    for part, images in (("train", 64), ("test", 16)):
        for i in range(images):
            place = folder / "images" / part / f"class{i % 4}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = numbers.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{i:03}.png")
    data = DataConfig(name="folder", root=folder / "images")
    pack(open_images(data, input_size=8, channels=3, classes=4), folder / "shards", size=8 << 10)
    return folder / "shards"


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """Returns nested dictionaries merged into one; later values count."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


def start(config: dict[str, Any], out: Path, processes: int, *, resume: bool) -> list[int]:
    """Starts a retraining in forked processes and returns their ids."""
    store = out.parent / f"store-{time.monotonic_ns()}"
    ids = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with (out.parent / f"{out.name}-{rank}.log").open("a") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                    work(config, out, rank, processes, store, resume=resume)
                    status = 0
            except BaseException as error:  # noqa: BLE001  this process ends here, whatever it is
                print(type(error).__name__, error, file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        ids.append(child)
    return ids


def work(config: dict[str, Any], out: Path, rank: int, processes: int, store: Path, *, resume: bool) -> None:
    """Runs one process's part of a retraining."""
    torch.set_num_threads(1)
    group = ALONE
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes, timeout=WAIT)
        assert dist.group.WORLD is not None
        group = Group(rank, processes, rank, host=dist.group.WORLD)
    network = Architecture(Space(SpaceConfig.model_validate(SPACE, strict=False)), (0, 1), "killed")
    retrain(validate(RetrainConfig, config, "the config"), network, out, resume=resume, group=group, shown=False)


def ended(ids: list[int], patience_s: float) -> bool:
    """Waits for processes to end, and kills those that take longer. Returns whether all ended with status 0."""
    good, until = True, time.monotonic() + patience_s
    for child in ids:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                good &= status == 0
                break
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                good = False
                break
            time.sleep(0.005)
    return good


def points(out: Path) -> list[dict[str, float]]:
    """Returns the curves without the speeds."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [{tag: v for tag, v in json.loads(line).items() if not tag.startswith("speed/")} for line in lines]


def lines_of(out: Path) -> int:
    """Returns the number of points written so far."""
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_once(config: dict[str, Any], out: Path, processes: int, draw: random.Random) -> bool:
    """Runs or resumes a retraining and kills it at a random moment. Returns whether it was killed before its end."""
    resume = out.exists()
    ids = start(config, out, processes, resume=resume)
    begun = lines_of(out)
    wanted = draw.randint(0, max(0, STEPS - begun))  # further points before the kill; none: while it starts
    until = time.monotonic() + 120
    while lines_of(out) - begun < wanted and time.monotonic() < until:
        if os.waitid(os.P_PID, ids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        time.sleep(0.001)
    time.sleep(draw.random() * (0.02 if wanted else 0.5))
    alive = os.waitid(os.P_PID, ids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    victim = draw.randrange(processes)
    os.kill(ids[victim], signal.SIGKILL)
    ended(ids, 20 if processes > 1 else 5)  # the others notice that it is gone
    return alive


def equal(a: Any, b: Any) -> bool:
    """Returns whether two nested values are the same, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def differences(whole: Path, out: Path) -> list[str]:
    """Returns what differs between two runs that have ended."""
    found = []
    newest = [Checkpoints(folder / "checkpoints").newest() for folder in (whole, out)]
    if newest[0] is None or newest[1] is None or not equal(newest[0][1], newest[1][1]):
        found.append("last checkpoint")
    if points(whole) != points(out):
        found.append("curves")
    if (whole / "result.json").read_text() != (out / "result.json").read_text():
        found.append("result.json")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2, help="of each pair")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, help="the number of pairs; default: all")
    parser.add_argument("--only", choices=OPTIONS, help="the pairs with this option")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shards = {"name": "shards", "root": str(packed(folder)), "workers": 0}
        for teacher, settings in (("teacher", SETTINGS), ("teacher-shards", SETTINGS | {"data": shards})):
            if not ended(start(settings, folder / teacher, 1, resume=False), 300):
                parser.exit(1, (folder / f"{teacher}-0.log").read_text())
        kills, early, different = 0, 0, dict[str, list[str]]()
        pairs = [*enumerate(itertools.combinations(OPTIONS, 2))]
        pairs = [(i, pair) for i, pair in pairs if args.only in (None, *pair)][: args.pairs]
        for i, pair in pairs:
            recipe = {"retrain": {"optimizer": OPTIMIZERS[i % 3], "augment": {"policy": POLICIES[i // 3 % 3]}}}
            config = merged(SETTINGS, recipe, *(OPTIONS[name] for name in pair))
            if SHARDS in pair:
                config["data"] = shards
            if learned := config["retrain"].get("teacher"):  # from the images that it has seen
                learned["network"] = str(folder / ("teacher-shards" if SHARDS in pair else "teacher"))
            if config["retrain"]["optimizer"] != "sgd":
                config["retrain"]["lr"] = None
            processes, name = 2 if PROCESSES in pair else 1, " + ".join(pair)
            whole, out = folder / f"{i}-whole", folder / f"{i}-killed"
            if not ended(start(config, whole, processes, resume=False), 300):
                parser.exit(1, f"{name}:\n{(folder / f'{whole.name}-0.log').read_text()}")
            for _ in range(args.kills):
                kills += kill_once(config, out, processes, draw)
                early += not Checkpoints(out / "checkpoints").steps()
            finished = ended(start(config, out, processes, resume=out.exists()), 300)
            found = differences(whole, out) if finished else [(folder / f"{out.name}-0.log").read_text()]
            if found:
                different[name] = found
            print(f"{name}: {', '.join(found) or 'equal'}", file=sys.stderr)
            for used in (whole, out):
                shutil.rmtree(used)
        record = {"pairs": len(pairs), "kills": kills, "before_the_first_checkpoint": early, "different": different}
    print(json.dumps(record))
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
