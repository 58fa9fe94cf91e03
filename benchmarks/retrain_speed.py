"""How fast a retraining runs, and what its loop and its images cost:  python benchmarks/retrain_speed.py

A round is: the model alone on fixed tensors, the whole loop on noise in memory, the model alone, the whole loop on JPEG
files, the model alone; all rounds are of one run. The loop is `retrain`, which logs its own images per second: those of
the steps between two points of the curves, without start, evaluation and checkpoints.

    model_alone           images per second: forward, loss, backward and optimizer on one batch of fixed tensors
    loop_fake             speed of the loop on noise in memory, over that of the model alone
    loop_jpeg             speed of the loop on JPEG files, over that of the model alone
    loader                images per second that the loader gives, over those of loader_plain; `images_per_second_*`
                          has both
    loader_plain          images per second of torchvision's ImageFolder and DataLoader, with the same transforms,
                          workers and batch size (float32 batches, normalised)
    loader_shards         as loader, from shards that `proxyless-nas data pack` makes of the same folder
    loader_cached         as loader, with data.cache=ram
    two_process_slowdown  seconds of a step of two processes of 16 images, over gloo, over one process of 16 images; one
                          thread each
    side_by_side_slowdown the same for two retrainings that know nothing of each other: what two busy processes cost
                          on this machine, whatever they are
    gpu_*                 the same on a GPU with batches of 256 in bfloat16, where there is one; gpu_loop_jpeg_decoded:
                          with data.decode=cuda, where TorchCodec is installed
    passes_*              images per second of forward, backward and optimizer: op by op (ops) and compiled (compiled),
                          of the network below (imagenet) with batches of 16, and of one of NAS-Bench-Macro's space at
                          32 px with batches of 32 (small); seconds_to_begin_*: of the first three steps
    gpu_passes_*          the same on a GPU with batches of 256 and 128 in bfloat16, and with cuDNN's trial of kernels
                          (cudnn), as a CUDA graph (graph), compiled and as a graph (compiled_graph)

The files are photographs of 500 x 375 pixels, 110 kB on average (benchmarks/jpeg_files.py); `jpeg_bytes` has the mean.
For a GPU, 22 of a class are distinct.
The network has mbconv_k3_e3 on every edge of the ImageNet space (20 classes), and 224 px. noise_*: half the range of
the middle half of the rounds' ratios. Blocks of the loaders: a pass over all files, which both read in processes that
run already; each starts with empty queues. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from engine.data import Batch, DataConfig, ImageSet, open_images
from engine.data.order import training_batches
from engine.data.preprocessing import CPU, MEAN_OF_PHOTOGRAPHS, STD_OF_PHOTOGRAPHS
from engine.data.readers import worker_count
from engine.data.shards import pack
from engine.data.stream import _loaded
from engine.device import autocast, memory_format, prepare_device
from engine.distributed import ALONE
from engine.run_config import RunConfig
from jpeg_files import write_photographs
from retrain.config import RetrainConfig, RetrainSettings
from retrain.passes import Passes
from retrain.recipe import Loss, optimizer_of
from retrain.run import retrain
from search.config import SearchConfig
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.space import Space
from timed_loop import ROOT, seconds, synchronise

CLASSES, SIZE = 20, 224
STEPS = 20
"""Steps of a block. The first step of a loop is not timed."""
LARGE = 256
"""The batch size on a GPU."""
PASSES = {"small": 128, "imagenet": LARGE}
PASSES_ON_CPU = {"small": 32, "imagenet": 16}
KINDS_ON_CPU = ("ops", "compiled")
KINDS = ("ops", "cudnn", "graph", "compiled", "compiled_graph")
SMALL = "mbconv_k5_e6"
BARS = {"loop_fake": 0.98, "loader": 1.5, "gpu_loop_fake": 0.98, "gpu_loop_jpeg": 0.95}


def architecture() -> Architecture:
    config = SearchConfig.read(ROOT / "configs/search/imagenet_cpu.yaml", [f"space.classes={CLASSES}"])
    space = Space(config.space)
    return Architecture(space, tuple(edge.candidates.index("mbconv_k3_e3") for edge in space.edges if edge.searchable))


def settings(data: dict[str, object], batch: int, run: dict[str, object]) -> RetrainConfig:
    """A retraining of one epoch whose curves have a point at step 1 and at step STEPS + 1, with one more step."""
    timing = {"log_every": STEPS + 1, "checkpoint_every": 10**6, "evaluate_every": 1}
    return RetrainConfig.model_validate(
        {"data": data, "retrain": {"epochs": 1, "batch_size": batch}, "run": timing | run}
    )


def fake(batch: int) -> dict[str, object]:
    return {"name": "fake", "fake_images": batch * (STEPS + 2), "fake_classes": CLASSES}


def loop_speed(config: RetrainConfig, out: Path) -> float:
    """Images per second of the loop, as it logs them."""
    retrain(config, architecture(), out, shown=False)
    return logged(out)


def logged(out: Path) -> float:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    speeds = {line["step"]: line["speed/images_per_second"] for line in lines if "speed/images_per_second" in line}
    return float(speeds[STEPS + 1])


class Alone:
    """The model on fixed tensors."""

    def __init__(self, config: RetrainConfig):
        self.device, self.config = prepare_device(config.run), config
        layout = memory_format(config.run)
        self.network = Network(architecture(), seed=0).to(device=self.device, memory_format=layout)  # type: ignore[call-overload]
        s = config.retrain
        self.optimizer = optimizer_of(self.network, s, self.device)
        images = torch.randn(s.batch_size, 3, SIZE, SIZE)
        self.images = images.to(self.device, memory_format=layout)
        self.labels = (torch.arange(s.batch_size) % CLASSES).to(self.device)
        self.network.train()
        self.steps(2)

    def steps(self, count: int) -> None:
        for _ in range(count):
            with autocast(self.config.run, self.device):
                loss = F.cross_entropy(self.network(self.images), self.labels, label_smoothing=0.1)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        synchronise(self.device)

    def speed(self) -> float:
        """Images per second."""
        return STEPS * len(self.labels) / seconds(partial(self.steps, STEPS))


def quartiles(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def of_loops(
    prefix: str, folder: Path, batch: int, run: dict[str, object], rounds: int, out: Path
) -> dict[str, object]:
    """The keys model_alone, loop_fake and loop_jpeg."""
    jpeg: dict[str, object] = {"name": "folder", "root": str(folder)}
    cases = {"loop_fake": settings(fake(batch), batch, run), "loop_jpeg": settings(jpeg, batch, run)}
    if run["device"] == "cuda" and importlib.util.find_spec("torchcodec") is not None:
        cases["loop_jpeg_decoded"] = settings(jpeg | {"decode": "cuda"}, batch, run)
    alone = Alone(cases["loop_fake"])
    alone_speeds = [alone.speed()]
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    for r in range(rounds):
        for name, config in cases.items():
            speed = loop_speed(config, out / f"{prefix}{name}{r}")
            alone_speeds.append(alone.speed())
            ratios[name].append(2 * speed / (alone_speeds[-2] + alone_speeds[-1]))
            speeds[name].append(speed)
            print(f"round {r}: {prefix}{name} {ratios[name][-1]:.4f}, {speed:.1f} images per second", flush=True)
    found: dict[str, object] = {f"{prefix}model_alone": round(statistics.median(alone_speeds), 1)}
    for name in cases:
        found[f"{prefix}{name}"] = round(statistics.median(ratios[name]), 4)
        found[f"noise_{prefix}{name}"] = round(quartiles(ratios[name]), 4)
        found[f"images_per_second_{prefix}{name}"] = round(statistics.median(speeds[name]), 1)
    return found


def ours(images: ImageSet, batch: int, workers: int) -> Callable[[], None]:
    """A pass over all images."""
    passes = iter(range(10**6))

    def run() -> None:
        lists = islice(training_batches(len(images), batch, next(passes)), len(images) // batch)
        for loaded in _loaded(images, lists, augment=True, workers=workers, device=CPU):
            assert loaded.images.dtype == torch.float32

    return run


def plain(folder: Path, batch: int, workers: int) -> Callable[[], None]:
    """A pass over all images by torchvision's and torch's own means."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.08, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=32 / 255, saturation=0.5),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN_OF_PHOTOGRAPHS[3], STD_OF_PHOTOGRAPHS[3]),
        ]
    )
    images = torchvision.datasets.ImageFolder(folder / "train", transform)
    loader: Iterable[list[torch.Tensor]] = DataLoader(
        images, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )

    def run() -> None:
        for pixels, _ in loader:
            assert pixels.dtype == torch.float32

    return run


def of_loaders(folder: Path, batch: int, workers: int, rounds: int, work: Path) -> dict[str, object]:
    """The keys loader and loader_plain."""
    of_folder = DataConfig(name="folder", root=folder)
    pack(open_images(of_folder, input_size=SIZE, channels=3, classes=CLASSES), work / "shards")
    sets: dict[str, dict[str, object]] = {
        "loader": {"name": "folder", "root": folder},
        "loader_shards": {"name": "shards", "root": work / "shards"},
        "loader_cached": {"name": "folder", "root": folder, "cache": "ram"},
    }
    opened = {
        name: open_images(DataConfig.model_validate(data), input_size=SIZE, channels=3, classes=CLASSES).train
        for name, data in sets.items()
    }
    total = len(opened["loader"]) // batch * batch
    runs = {name: ours(images, batch, workers) for name, images in opened.items()}
    reference = plain(folder, batch, workers)
    for run in (*runs.values(), reference):
        run()  # processes start, files come into the cache of the system
    plain_speeds = [total / seconds(reference)]
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            speeds[name].append(total / seconds(run))
            plain_speeds.append(total / seconds(reference))
            ratios[name].append(2 * speeds[name][-1] / (plain_speeds[-2] + plain_speeds[-1]))
    for images in opened.values():
        if images.readers:
            images.readers.close()
    found: dict[str, object] = {
        "workers": workers,
        "images_per_second_loader_plain": round(statistics.median(plain_speeds), 1),
    }
    for name in runs:
        found[name] = round(statistics.median(ratios[name]), 4)
        found[f"noise_{name}"] = round(quartiles(ratios[name]), 4)
        found[f"images_per_second_{name}"] = round(statistics.median(speeds[name]), 1)
    return found


def small_architecture() -> Architecture:
    space = Space(SearchConfig.read(ROOT / "configs/search/cifar10_macro.yaml").space)
    return Architecture(space, tuple(edge.candidates.index(SMALL) for edge in space.edges if edge.searchable))


@contextmanager
def trying_kernels(tried: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = tried
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def of_passes(
    prefix: str, run: RunConfig, rounds: int, batches: dict[str, int], kinds: Sequence[str]
) -> Iterator[dict[str, object]]:
    """The keys passes_*, one after the other, so that those that are measured are printed."""
    place = prepare_device(run)
    for name, batch in batches.items():
        design = architecture() if name == "imagenet" else small_architecture()
        size = design.input_size
        images = torch.randn(batch, 3, size, size).to(place, memory_format=memory_format(run))
        given = Batch(images, (torch.arange(batch) % design.classes).to(place))
        for kind in kinds:
            began = time.perf_counter()
            wanted = {"compile": "compiled" in kind, "cuda_graphs": "graph" in kind, "batch_size": batch}
            s = RetrainSettings.model_validate(wanted)
            network = Network(design, seed=0).to(device=place, memory_format=memory_format(run))  # type: ignore[call-overload]
            optimizer = optimizer_of(network, s, place)
            passes = Passes(network, Loss(s), s, partial(autocast, run, place), nullcontext(), lambda x: x, ALONE)
            network.train()

            def steps(
                count: int, passes: Passes = passes, given: Batch = given, optimizer: torch.optim.Optimizer = optimizer
            ) -> None:
                for _ in range(count):
                    passes(given)
                    optimizer.step()
                synchronise(place)

            with trying_kernels(kind == "cudnn"):
                steps(3)
                ready = time.perf_counter() - began
                speeds = [STEPS * batch / seconds(partial(steps, STEPS)) for _ in range(rounds)]
            key = f"passes_{name}_{kind}"
            yield {f"{prefix}{key}": round(statistics.median(speeds), 1)}
            yield {f"{prefix}seconds_to_begin_{key.removeprefix('passes_')}": round(ready, 1)}
            del passes, network, optimizer, steps
            gc.collect()


def of_two_processes(rounds: int, work: Path) -> dict[str, object]:
    """The keys two_process_slowdown and side_by_side_slowdown; each reading is of programs of their own."""

    def started(batch: int, processes: int, out: Path) -> subprocess.Popen[bytes]:
        config = settings(fake(batch), batch, {"threads": 1, "amp": "none", "device": "cpu"})
        out.mkdir()
        (out / "retrain.json").write_text(config.model_dump_json())
        words = [sys.executable]
        if processes > 1:
            words += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        words += [str(Path(__file__).resolve()), "--process", str(out)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(words, cwd=ROOT, env=environment)

    def speed_of(programs: dict[Path, subprocess.Popen[bytes]]) -> float:
        """The lowest images per second of programs that run at the same time."""
        if any(program.wait() for program in programs.values()):
            raise SystemExit("a process has failed")
        return min(logged(out / "run") for out in programs)

    def alone(r: int, name: str, count: int = 1) -> float:
        outs = [work / f"{name}{r}_{i}" for i in range(count)]
        return speed_of({out: started(16, 1, out) for out in outs})

    ratios: dict[str, list[float]] = {"two_process_slowdown": [], "side_by_side_slowdown": []}
    before = alone(0, "before")
    for r in range(rounds):
        out = work / f"two{r}"
        both = speed_of({out: started(32, 2, out)})
        middle = alone(r, "middle")
        side = alone(r, "side", 2)
        after = alone(r, "after")
        ratios["two_process_slowdown"].append((before + middle) / both)  # 2 x the mean of one, over both
        ratios["side_by_side_slowdown"].append((middle + after) / 2 / side)
        before = after
    found: dict[str, object] = {}
    for name, values in ratios.items():
        found |= {name: round(statistics.median(values), 4), f"noise_{name}": round(quartiles(values), 4)}
    return found


def process(out: Path) -> None:
    """One process of `of_two_processes`."""
    from engine.job import open_group

    with open_group() as group:
        config = RetrainConfig.read(out / "retrain.json")
        retrain(config, architecture(), out / "run", group=group, shown=False)


def verdicts(record: dict[str, object]) -> dict[str, str]:
    """Whether each aim that was measured is met or missed, or undecided within the noise."""
    found = {}
    for name, bar in BARS.items():
        value, noise = record.get(name), record.get(f"noise_{name}")
        if isinstance(value, float) and isinstance(noise, float):
            found[name] = "met" if value - noise >= bar else "missed" if value + noise < bar else "undecided"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("loops", "loader", "two_processes", "gpu", "passes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of gpu_passes_*")
    parser.add_argument("--workers", type=int, default=worker_count(None), help="processes that read images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON line here too")
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1 or args.workers < 1:
        parser.error("--rounds and --workers must be positive")
    if args.process:
        process(args.process)
        return
    record: dict[str, object] = {
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    prepare_device(RunConfig(device="cpu"))  # as a run does, so that all processes treat freed memory alike
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        gpu = "gpu" in args.only and torch.cuda.is_available()
        folder, large = work / "images", LARGE if gpu else 16
        parts = {"train": -(-large * (STEPS + 2) // CLASSES), "val": 4}
        if set(args.only) & {"loops", "loader", "gpu"}:
            record["jpeg_bytes"] = round(write_photographs(folder, parts=parts, classes=CLASSES, distinct=22))

        def add(found: dict[str, object]) -> None:
            print("\n".join(f"{key:40} {value}" for key, value in found.items()), flush=True)
            record.update(found)

        if "loader" in args.only:
            add(of_loaders(folder, 32, args.workers, args.rounds, work))
        if "loops" in args.only:
            add(of_loops("", folder, 16, {"device": "cpu", "amp": "none"}, args.rounds, work))
        if "two_processes" in args.only:
            add(of_two_processes(args.rounds, work))
        if gpu:
            add({"gpu": torch.cuda.get_device_name()})
            add(of_loops("gpu_", folder, LARGE, {"device": "cuda", "amp": "bf16"}, args.rounds, work))
        elif "gpu" in args.only:
            add({"gpu": "skipped: torch finds no CUDA device"})
        if "passes" in args.only:
            on_cpu = RunConfig(device="cpu"), args.rounds, PASSES_ON_CPU, [k for k in args.kinds if k in KINDS_ON_CPU]
            on_gpu = RunConfig(device="cuda", amp="bf16"), args.rounds, PASSES, args.kinds
            for found in of_passes("gpu_", *on_gpu) if torch.cuda.is_available() else of_passes("", *on_cpu):
                add(found)
    record["verdicts"] = verdicts(record)
    record["date"] = time.strftime("%Y-%m-%d")
    line = json.dumps(record)
    print(line)
    if args.json:
        args.json.write_text(line + "\n")


if __name__ == "__main__":
    main()
