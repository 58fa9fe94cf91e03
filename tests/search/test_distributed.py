"""A search in two processes: the same alpha and weights in both, and the steps of one process on the joint batch."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import search.loop as loop
from engine.data import Batch
from engine.device import autocast
from engine.distributed import ALONE, Group, reduce_gradients
from engine.run_config import RunConfig
from search.config import ReinforceConfig
from search.learn.forms import AddLinear
from search.learn.gradient import architecture_step, share_of, weights_step
from search.learn.objective import Objective
from search.learn.regression import Evidence, regression_step
from search.learn.reinforce import reinforce_step
from search.limits.limit import AdditiveLimit
from search.state import SearchState
from supernet.alpha import Alpha
from supernet.cost import Cost
from supernet.space import Space, SpaceConfig
from supernet.supernet import Supernet
from tests.processes import together

MODES = ["full", "full_v2", "two_path", "two_path second_order", "reinforce", "regression"]
CPU = torch.device("cpu")


def frozen_supernet() -> Supernet:
    """A supernet whose BN has given statistics: what an image becomes then does not depend on its batch."""
    candidates = ["mbconv_k3_e1", "mbconv_k3_e2", "conv_k3", "skip"]
    stages = [{"width": 8, "depth": 2, "candidates": candidates}, {"width": 12, "stride": 2, "candidates": candidates}]
    space = Space(
        SpaceConfig.model_validate(
            {"input_size": 8, "input_channels": 1, "classes": 4, "stem": {"kernel": 3, "stride": 1, "width": 8},
             "stages": stages, "feature_mix": 16},
            strict=False,
        )
    )  # fmt: skip
    net = Supernet(space, seed=1)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean, m.running_var = torch.full((m.num_features,), 0.1), torch.full((m.num_features,), 1.5)
    return net.eval()


def a_limit(net: Supernet) -> AdditiveLimit:
    cost = Cost.of_space(net.space, lambda layer, _: float(layer.complexity.macs))
    low, high = cost.reachable
    return AdditiveLimit(
        name="macs", metric="macs", kind="at", bound=(low + high) / 2, unit="MACs", tolerance=0.02, cost=cost
    )


def steps(group: Group, mode: str) -> dict[str, Any]:
    """Six weights steps with an architecture step after each; the processes share batches of 8."""
    net = frozen_supernet()
    limit, alpha = a_limit(net), Alpha.of_space(net.space)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    arch_optimizer = torch.optim.Adam([alpha.values], lr=0.05, betas=(0.0, 0.999))
    evidence, baseline = Evidence.none(*alpha.mask.shape), None
    reduction = reduce_gradients(list(net.parameters()), group)
    plain = partial(autocast, RunConfig(), CPU)
    untouched, values = [], []
    mine = slice(group.rank * 8 // group.world_size, (group.rank + 1) * 8 // group.world_size)
    for step in range(6):
        random = torch.Generator().manual_seed(step)
        images, labels = torch.randn(8, 1, 8, 8, generator=random), torch.randint(4, (8,), generator=random)
        batch = Batch(images[mine], labels[mine])
        before = {name: value.clone() for name, value in net.state_dict().items()}
        paths = alpha.sample_paths(random)
        weights_step(net, batch, [paths], optimizer, 0.1, plain, reduction)
        moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
        learned = {name for name, p in net.named_parameters() if p.grad is not None}
        ran = tuple(f"edges.{e}.ops.{path}." for e, path in enumerate(paths))
        idle = {name for name in before if name.startswith("edges.") and not name.startswith(ran)}
        untouched.append(bool(moved & learned) and not idle & (moved | learned))
        if mode == "reinforce":
            update = reinforce_step(
                net, batch, alpha, arch_optimizer, ReinforceConfig(samples=4), [limit], baseline,
                random, plain, group=group,
            )  # fmt: skip
            value, baseline = update.reward, update.baseline
        elif mode == "regression":
            update = regression_step(
                net, batch, Alpha.of_space(net.space), evidence, 6, random, plain, group=group
            )  # fmt: skip
            value, evidence = update.ce, update.evidence
            alpha.values.copy_(update.effects.alpha())
        else:
            arch_update, _, order = mode.partition(" ")
            done = architecture_step(
                net, batch, alpha, arch_optimizer, arch_update, share_of(order or "first_order"),
                Objective([limit], AddLinear()), random, plain, group=group,
            )  # fmt: skip
            value = done.ce
        values.append(value)
    return {
        "alpha": alpha.values, "net": net.state_dict(), "values": values, "baseline": baseline,
        "evidence": asdict(evidence), "untouched": untouched,
    }  # fmt: skip


def run(group: Group, config_file: Path, out: Path, resume: bool = False) -> dict[str, Any]:
    """A whole search; the state that this process ends with."""
    states: list[SearchState] = []
    fresh = SearchState.fresh
    SearchState.fresh = lambda *a: states.append(fresh(*a)) or states[-1]  # type: ignore[method-assign, assignment]
    seeds: list[int] = []
    seed = torch.manual_seed
    torch.manual_seed = lambda value: seeds.append(value) or seed(value)  # type: ignore[assignment]
    try:
        result = loop.run_search(config_file, out, resume=resume, group=group)
    finally:
        SearchState.fresh, torch.manual_seed = fresh, seed  # type: ignore[method-assign]
    assert len(states) == 1
    content = states[0].to_checkpoint()
    return {
        "state": content, "paths": result.architecture.paths, "score": result.accuracy, "met": result.measured.met,
        "dropout": seeds,
    }  # fmt: skip


def job(group: Group, config_file: Path, folder: Path) -> dict[str, Any]:
    ended = {mode: steps(group, mode) for mode in MODES}
    return ended | {"run": run(group, config_file, folder / "run")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def outcomes(folder, write_yaml):
    config = {
        "space": {
            "input_size": 8, "input_channels": 1, "classes": 4, "stem": {"kernel": 3, "stride": 1, "width": 4},
            "stages": [{"width": 4, "depth": 2, "candidates": ["mbconv_k3_e1", "mbconv_k3_e2", "skip"]}],
            "feature_mix": 8, "dropout": 0.2,
        },
        "data": {"name": "fake", "fake_images": 80, "fake_classes": 4, "validation": 0.4},
        "limits": [{"metric": "macs", "at": "50%", "tolerance": 0.5}],  # random networks meet it, too
        "search": {
            "warmup_epochs": 1, "epochs": 1, "batch_size": 8, "arch_every": 2, "arch_lr": 0.05, "bn_batches": 2,
            "regression": {"samples": 4, "final_steps": 2},
        },
        "run": {"seed": 3, "threads": 1, "log_every": 1, "checkpoint_every": 3},
    }  # fmt: skip
    return together(job, folder / "job", write_yaml(folder / "search.yaml", config), folder)


def tensors(value: Any) -> list[torch.Tensor]:
    """Every tensor of a nested state, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in inside for tensor in tensors(part)]


def assert_identical(a: Any, b: Any) -> None:
    assert len(tensors(a)) == len(tensors(b)) > 0
    assert all(map(torch.equal, tensors(a), tensors(b)))


@pytest.mark.parametrize("mode", MODES)
def test_steps_are_the_same_in_both_processes_to_the_bit(outcomes, mode):
    first, second = (own[mode] for own in outcomes)
    for part in ("alpha", "net", "evidence"):
        assert_identical(first[part], second[part])
    assert (first["values"], first["baseline"]) == (second["values"], second["baseline"])


@pytest.mark.parametrize("mode", MODES)
def test_steps_equal_those_of_one_process_on_the_joint_batch(outcomes, mode):
    alone, shared = steps(ALONE, mode), outcomes[0][mode]
    assert shared["alpha"].abs().max() > 0.01
    for part in ("squares", "products"):
        torch.testing.assert_close(shared["evidence"][part], alone["evidence"][part], rtol=1e-5, atol=1e-5)
    # the likelihood is flat where it is largest, so the fit multiplies rounding
    rounding = 1e-3 if mode == "regression" else 1e-5
    torch.testing.assert_close(shared["alpha"], alone["alpha"], rtol=rounding, atol=rounding)
    for name, value in alone["net"].items():
        torch.testing.assert_close(shared["net"][name], value, rtol=1e-5, atol=1e-5)
    assert shared["values"] == pytest.approx(alone["values"], rel=1e-5)


def test_weights_of_paths_that_were_not_sampled_have_no_gradient_and_do_not_move(outcomes):
    for own in outcomes:
        assert own["two_path"]["untouched"] == [True] * 6


def test_a_whole_search_ends_with_the_same_state_in_both_processes(outcomes, folder):
    first, second = (own["run"] for own in outcomes)
    assert_identical(first["state"], second["state"])
    for key in ("paths", "score", "met"):
        assert first[key] == second[key], key
    assert first["state"]["pressures"] == second["state"]["pressures"] != [0.0]
    assert first["state"]["final_steps"] == second["state"]["final_steps"] == 2
    assert first["state"]["step"] == second["state"]["step"] == 12
    written = loop.Checkpoints(folder / "run" / "checkpoints").newest()
    assert written is not None
    assert_identical(written[1]["search"], first["state"])
    assert (folder / "run" / "architecture.json").exists()
    assert len(list((folder / "run").glob("events*"))) == 1  # one process writes


def test_each_process_drops_other_features(outcomes):
    first, second = (own["run"]["dropout"] for own in outcomes)
    assert len(first) == len(second) == 12
    assert not set(first) & set(second)
