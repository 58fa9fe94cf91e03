"""Parameters and MACs by formula equal those of the modules."""

from itertools import product

import pytest
import torch

from supernet import CANDIDATES, Architecture, Network, Supernet
from supernet.blocks import build_op
from supernet.cost import macs_cost, params_cost
from supernet.ops import OpSettings
from supernet.space import Layer

SHAPES = [(16, 16, 7, 1), (16, 16, 7, 2), (16, 16, 8, 1), (16, 24, 8, 2), (24, 16, 9, 1), (12, 40, 11, 2)]


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("running_stats", [False, True])
def test_complexity_by_formula_equals_complexity_counted_by_hooks_for_every_candidate(count, name, running_stats):
    legal = 0
    for c_in, c_out, size, stride in SHAPES:
        residual = stride == 1 and c_in == c_out
        if CANDIDATES[name].why_illegal(c_in, c_out, stride, residual):
            continue
        legal += 1
        layer = Layer(CANDIDATES[name], c_in, c_out, size, stride, residual)
        op = build_op(layer, OpSettings("hswish", running_stats=running_stats))
        x = torch.randn(2, c_in, size, size)
        assert layer.complexity == count(op, x), layer
        assert op(x).shape == (2, c_out, layer.size_out, layer.size_out)
    assert legal >= 2


@pytest.mark.parametrize(("space_name", "size"), [("small", 17), ("small", 32), ("cifar", 32), ("imagenet", 65)])
@pytest.mark.parametrize("seed", range(3))
def test_complexity_by_formula_equals_complexity_counted_by_hooks_for_random_architectures(
    load_space, random_paths, count, space_name, size, seed
):
    space = load_space(space_name, input_size=size)
    architecture = Architecture(space, random_paths(space, seed))
    assert architecture.complexity == count(Network(architecture), torch.randn(2, 3, size, size))


def test_costs_add_up_to_the_complexity_of_any_path(load_space, random_paths):
    space = load_space("imagenet")
    macs, params = macs_cost(space), params_cost(space)
    for seed in range(20):
        paths = random_paths(space, seed)
        c = space.complexity(paths)
        assert (params.of(paths), macs.of(paths)) == (c.params, c.macs)
        assert macs.reachable[0] <= c.macs <= macs.reachable[1]
    largest = tuple(edge.candidates.index("mbconv_k7_e6") for edge in space.searchable)
    smallest = tuple(len(e.candidates) - 1 if e.residual else 0 for e in space.searchable)
    assert params.reachable == (space.complexity(smallest).params, space.complexity(largest).params)
    assert macs.reachable == (space.complexity(smallest).macs, space.complexity(largest).macs)


@pytest.mark.parametrize("name", ["small", "cifar"])
def test_reachable_costs_are_those_of_the_best_and_worst_of_all_architectures(load_space, name):
    space = load_space(name)
    every = [space.complexity(paths) for paths in product(*(range(len(edge.candidates)) for edge in space.searchable))]
    macs, params = [c.macs for c in every], [c.params for c in every]
    assert macs_cost(space).reachable == (min(macs), max(macs))
    assert params_cost(space).reachable == (min(params), max(params))


def test_a_space_without_choices_has_one_cost(load_space):
    space = load_space("mobilenet_v2")
    cost, macs = macs_cost(space), space.complexity(()).macs
    assert (cost.of(()), cost.reachable) == (macs, (macs, macs))


def test_counting_a_complexity_leaves_a_supernet_unchanged(load_space, random_paths):
    space = load_space("small")
    net = Supernet(space)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    space.complexity(random_paths(space, 0))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("name", ["proxyless_cpu", "proxyless_gpu", "proxyless_mobile", "proxyless_mobile_14"])
def test_published_networks_have_their_published_size(make_space, published, count, name):
    record = published[name]
    stages = [stage_of(block) for block in record["blocks"]]
    space = make_space(
        *stages,
        stem={"width": record["first_conv_out"]},
        feature_mix=record["feature_mix"][1],
        classes=record["classifier"]["out_features"],
    )
    assert [block_of(edge.layers[0]) for edge in space.edges] == record["blocks"]
    c = space.complexity(())
    assert {"params": c.params, "macs": c.macs} == record["computed"]
    assert c == count(Network(Architecture(space, ())), torch.randn(1, 3, 224, 224))


def stage_of(block: str) -> dict[str, object]:
    """Returns a stage with one fixed edge from a text such as 'mbconv k3 e6 24->32 s2 112' or 'skip 32'."""
    op, *rest = block.split()
    if op == "skip":
        return {"width": int(rest[0]), "candidates": ["skip"]}
    kernel, expand, channels, stride, _ = rest
    return {"width": int(channels.split("->")[1]), "stride": int(stride[1]), "candidates": [f"{op}_{kernel}_{expand}"]}


def block_of(layer: Layer) -> str:
    """Returns the text of a layer; the inverse of stage_of, with the channels and the size of the space."""
    if str(layer.spec) == "skip":
        return f"skip {layer.c_out}"
    return f"{str(layer.spec).replace('_', ' ')} {layer.c_in}->{layer.c_out} s{layer.stride} {layer.size}"
