"""What a step of the search costs, as ratios to training the derived network:  python benchmarks/supernet_step.py

Space: the published ImageNet space, on this CPU. Baseline: the derived network of the same paths, in training mode:
forward, cross-entropy, backward, SGD step (Nesterov 0.9, weight decay 4e-5), channels_last. Against it:

    weights      the same step on the supernet, which runs the sampled paths only
    two_path     architecture step: forward with gates, cross-entropy, dL/dgates for two candidates an edge, to the CPU
    full_v2      the same for all candidates of an edge, recomputed in the backward pass
    full         the same with all candidates' outputs kept
    contiguous   the supernet's weights step in contiguous layout, against the same in channels_last
    noise        a second copy of the baseline's network against the first: what the ratio is worth

Time: median of per-pair ratios. A pair is one step of each side, in random order, one right after the other; pairs of
all variants take turns, over several uniform random draws of paths. Bytes: storages saved for the backward pass,
parameters and buffers excluded, each counted once; median over draws. Noise: |median - 1| of the noise pairs plus
the bootstrap standard error of that median. While it exceeds 0.03 all is measured again, at most 3 times; `valid` says
whether it came below, with at least 15 pairs and 5 draws.

Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.device import keep_freed_memory
from latency.device import made_on
from supernet import Architecture, Network, Space, SpaceConfig, Supernet
from supernet.alpha import Alpha, PairSample

ANY = ("mbconv_k3_e3", "mbconv_k3_e6", "mbconv_k5_e3", "mbconv_k5_e6", "mbconv_k7_e3", "mbconv_k7_e6", "skip")
STAGES = (  # width, depth, stride, candidates
    (16, 1, 1, ("mbconv_k3_e1",)),
    (24, 4, 2, ANY),
    (40, 4, 2, ANY),
    (80, 4, 2, ANY),
    (96, 4, 1, ANY),
    (192, 4, 2, ANY),
    (320, 1, 1, ANY),
)
VARIANTS = ("weights", "two_path", "full_v2", "full", "contiguous", "noise")
BYTES = ("weights", "two_path", "full_v2", "full")
MOST_NOISE = 0.03
MOST_ATTEMPTS = 3
FEWEST_PAIRS, FEWEST_DRAWS = 15, 5
MOST_SECONDS = 25 * 60
SPARE_BYTES = 2 * 2**30
"""Left to the weights, the workspace of one op, and the system when choosing the batch of `full`."""

Step = Callable[[], object]


def imagenet_space(size: int) -> Space:
    keys = ("width", "depth", "stride", "candidates")
    stages = [dict(zip(keys, stage, strict=True)) for stage in STAGES]
    return Space(SpaceConfig.model_validate({"input_size": size, "stages": stages}))


@dataclass(frozen=True)
class LabelledImages:
    images: Tensor
    labels: Tensor

    def first(self, n: int) -> LabelledImages:
        return LabelledImages(self.images[:n], self.labels[:n])


def sgd(module: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=4e-5)


def one_hot(space: Space, paths: tuple[int, ...]) -> Tensor:
    gates = torch.zeros(space.mask.shape)
    gates[torch.arange(len(paths)), list(paths)] = 1
    return gates.requires_grad_()


def learn(forward: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, batch: LabelledImages) -> None:
    """Makes a step: forward, cross-entropy, backward, SGD. The baseline and the weights step share it."""
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(forward(batch.images), batch.labels).backward()
    optimizer.step()


def gated_loss(net: Supernet, draw: PairSample, mode: str, gates: Tensor, batch: LabelledImages) -> Tensor:
    compared = draw.pairs.tolist() if mode == "two_path" else None
    logits = net(batch.images, draw.paths, gates, compared=compared, keep_outputs=mode == "full")
    return F.cross_entropy(logits, batch.labels)


def architecture_step(net: Supernet, draw: PairSample, mode: str, batch: LabelledImages) -> Tensor:
    gates = one_hot(net.space, draw.paths)
    (d_gates,) = torch.autograd.grad(gated_loss(net, draw, mode, gates, batch), [gates])
    return d_gates.cpu()


def saved_bytes(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages that `forward` saves for its backward pass.

    Parameters and BN's running statistics are excluded: they exist anyway.
    """
    lasting = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept = []  # holding them keeps their addresses from being used again
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> None:  # returning t would tie a cycle around every output that is saved, and never free it
        storage = t.untyped_storage()
        if storage.data_ptr() not in lasting:
            kept.append(storage)
            sizes[storage.data_ptr()] = storage.nbytes()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda _: None):  # type: ignore[arg-type, return-value]
        forward()
    return sum(sizes.values())


class Draw:
    """One random choice of paths: its baseline, and the steps to compare."""

    def __init__(
        self, nets: dict[str, Supernet], optimizers: dict[str, torch.optim.SGD], batch: LabelledImages, seed: int
    ):
        net = nets["channels_last"]
        self.space, self.net, self.batch = net.space, net, batch
        self.sample = Alpha.of_space(self.space).sample_pairs(torch.Generator().manual_seed(seed))
        paths = self.sample.paths
        architecture = Architecture(self.space, paths)
        self.skips = architecture.names.count("skip")
        self.baseline, twin = (self._derive(architecture) for _ in range(2))
        baseline_sgd, twin_sgd = sgd(self.baseline), sgd(twin)
        contiguous = LabelledImages(batch.images.contiguous(), batch.labels)

        def train(layout: str, batch: LabelledImages) -> None:
            learn(lambda images: nets[layout](images, paths), optimizers[layout], batch)

        def baseline(batch: LabelledImages) -> Step:
            return lambda: learn(self.baseline, baseline_sgd, batch)

        self._baseline = baseline
        self.pairs: dict[str, tuple[Step, Step]] = {
            "weights": (baseline(batch), lambda: train("channels_last", batch)),
            "two_path": (baseline(batch), self._arch("two_path", batch)),
            "full_v2": (baseline(batch), self._arch("full_v2", batch)),
            "contiguous": (lambda: train("channels_last", batch), lambda: train("contiguous", contiguous)),
            "noise": (baseline(batch), lambda: learn(twin, twin_sgd, batch)),
        }

    def add_full(self, n: int) -> None:
        """`full` at batch n, against a baseline of the same batch."""
        batch = self.batch.first(n)
        self.pairs["full"] = (self._baseline(batch), self._arch("full", batch))

    def bytes_of(self, mode: str, batch: LabelledImages) -> int:
        if mode == "baseline":
            return saved_bytes(self.baseline, lambda: F.cross_entropy(self.baseline(batch.images), batch.labels))
        if mode == "weights":
            loss = lambda: F.cross_entropy(self.net(batch.images, self.sample.paths), batch.labels)  # noqa: E731
            return saved_bytes(self.net, loss)
        gates = one_hot(self.space, self.sample.paths)
        return saved_bytes(self.net, lambda: gated_loss(self.net, self.sample, mode, gates, batch))

    def _arch(self, mode: str, batch: LabelledImages) -> Step:
        return lambda: architecture_step(self.net, self.sample, mode, batch)

    def _derive(self, architecture: Architecture) -> Network:
        return Network.inherit(self.net, architecture).to(memory_format=torch.channels_last).train()


def seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def ratio(pair: tuple[Step, Step], coin: random.Random) -> tuple[float, float]:
    """(variant over baseline, seconds of the baseline) of one pair of steps, in random order."""
    reference, variant = pair
    if coin.random() < 0.5:
        t, t_variant = seconds(reference), seconds(variant)
    else:
        t_variant, t = seconds(variant), seconds(reference)
    return t_variant / t, t


def measure(draws: list[Draw], pairs: int, coin: random.Random) -> tuple[dict[str, list[float]], float]:
    """Ratios of each variant over all draws, and the median seconds of a baseline step."""
    ratios: dict[str, list[float]] = {name: [] for name in VARIANTS}
    baselines = []
    for d, draw in enumerate(draws):
        for pair in draw.pairs.values():
            ratio(pair, coin)  # warm-up, thrown away
        for _ in range(len(range(d, pairs, len(draws)))):
            for name in coin.sample(VARIANTS, len(VARIANTS)):
                value, t = ratio(draw.pairs[name], coin)
                ratios[name].append(value)
                if name == "noise":
                    baselines.append(t)
        print(f"  draw {d + 1} of {len(draws)}: {draw.skips} skips", flush=True)
    return ratios, float(np.median(baselines))


def noise_of(ratios: list[float]) -> float:
    """|median - 1| plus the bootstrap standard error of the median."""
    medians = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    return abs(float(np.median(ratios)) - 1) + float(medians.std())


def free_bytes() -> int:
    """Memory that this process may still take, as the kernel and the container's limit say."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        free = next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), free)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return free


def largest_full_batch(draw: Draw, batch: int) -> tuple[int, int]:
    """(batch of `full` that fits into memory, bytes it saves per image): `batch`, or half as often as needed."""
    n = min(2, batch)
    per_image = math.ceil(draw.bytes_of("full", draw.batch.first(n)) / n)
    room = free_bytes() - SPARE_BYTES
    chosen = batch
    while chosen > 1 and chosen * per_image * 1.15 > room:  # 15 %: gradients that live at one time, fragmentation
        chosen //= 2
    return chosen, per_image


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=15, help="timed pairs of each variant, over all draws")
    parser.add_argument("--draws", type=int, default=5, help="uniform random choices of paths")
    parser.add_argument("--size", type=int, default=224, help="input height and width in pixels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bytes-only", action="store_true", help="leave out the times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON line here too")
    args = parser.parse_args()
    if min(args.batch, args.pairs, args.draws) < 1 or args.pairs < args.draws:
        parser.error("--batch, --draws and --pairs must be positive, --pairs at least --draws")
    return args


def random_draws(space: Space, batch: int, size: int, draws: int, seed: int) -> list[Draw]:
    """Returns the random choices of paths, on the same supernets and the same random images."""
    torch.manual_seed(seed)
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labelled = LabelledImages(images, torch.randint(space.config.classes, (batch,)))
    nets = {"channels_last": Supernet(space).to(memory_format=torch.channels_last), "contiguous": Supernet(space)}
    optimizers = {layout: sgd(net) for layout, net in nets.items()}
    return [Draw(nets, optimizers, labelled, seed + d) for d in range(draws)]


def saved(draws: list[Draw], full_batch: int) -> dict[str, object]:
    """Returns the bytes that each step saves over those of the baseline, medians over the draws. full_batch: the batch
    of `full`."""
    table: dict[str, list[float]] = {name: [] for name in BYTES}
    for draw in draws:
        whole, part = draw.batch, draw.batch.first(full_batch)
        sizes = {len(b.labels): draw.bytes_of("baseline", b) for b in (whole, part)}
        for mode in BYTES:
            batch = part if mode == "full" else whole
            table[mode].append(draw.bytes_of(mode, batch) / sizes[len(batch.labels)])
    gc.collect()
    return {f"{mode}_bytes": round(float(np.median(ratios)), 4) for mode, ratios in table.items()}


def print_table(record: dict[str, object]) -> None:
    for mode in VARIANTS:
        words = [f"{mode:<10}"]
        for key in (f"{mode}_time", f"{mode}_bytes"):
            words.append(f"{key.split('_')[-1]} {record[key]:.3f}x" if key in record else "")
        if any(words[1:]):
            print("  ".join(words).rstrip())
    if "noise" in record:
        print(f"contiguous over channels_last {record['contiguous_over_channels_last']:.3f}x")
        print(f"noise of the ratio {record['noise']:.4f}: {'valid' if record['valid'] else 'NOT valid'}")


def main() -> None:
    args = arguments()
    start = time.perf_counter()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as every search and retraining does
    space = imagenet_space(args.size)
    draws = random_draws(space, args.batch, args.size, args.draws, args.seed)

    full_batch, full_bytes = largest_full_batch(draws[0], args.batch)
    for draw in draws:
        draw.add_full(full_batch)
    print(f"{len(space.searchable)} searchable edges, batch {args.batch}, {args.size} px, {args.threads} threads")
    print(f"full keeps {full_bytes / 2**20:.0f} MiB an image: its ratios are taken at batch {full_batch}", flush=True)

    record = saved(draws, full_batch)
    if not args.bytes_only:
        record |= timed(draws, args.pairs, random.Random(args.seed), start)
    print_table(record)
    record |= {
        "full_batch": full_batch,
        "batch": args.batch,
        "size": args.size,
        "pairs": args.pairs,
        "draws": args.draws,
        "skips": [draw.skips for draw in draws],
        "seed": args.seed,
        "threads": args.threads,
        "machine": platform.machine(),
        "elapsed_s": round(time.perf_counter() - start, 1),
        **made_on(),
    }
    line = json.dumps(record)
    if args.json:
        args.json.write_text(line + "\n")
    print(line)


def timed(draws: list[Draw], pairs: int, coin: random.Random, start: float) -> dict[str, object]:
    """Measure until the noise allows it or the attempts or the time run out; the calmest attempt counts."""
    enough = pairs >= FEWEST_PAIRS and len(draws) >= FEWEST_DRAWS  # fewer say too little about their own noise
    attempts = []
    for attempt in range(1, (MOST_ATTEMPTS if enough else 1) + 1):
        attempt_start = time.perf_counter()
        ratios, baseline_s = measure(draws, pairs, coin)
        attempts.append((noise_of(ratios["noise"]), ratios, baseline_s))
        print(f"attempt {attempt}: noise {attempts[-1][0]:.4f}", flush=True)
        now = time.perf_counter()
        if attempts[-1][0] <= MOST_NOISE or now + (now - attempt_start) - start > MOST_SECONDS:
            break
    noise, ratios, baseline_s = min(attempts, key=lambda a: a[0])
    medians = {name: round(float(np.median(values)), 4) for name, values in ratios.items()}
    return {
        **{f"{mode}_time": medians[mode] for mode in BYTES},
        "contiguous_over_channels_last": medians["contiguous"],
        "noise": round(noise, 4),
        "valid": enough and noise <= MOST_NOISE,
        "attempts": len(attempts),
        "baseline_s": round(baseline_s, 4),
    }


if __name__ == "__main__":
    main()
