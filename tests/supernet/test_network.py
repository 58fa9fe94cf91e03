"""The derived network computes what the supernet computed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supernet import Architecture, Network, Supernet


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["small", "cifar"])
def test_derived_network_equals_the_supernet_on_its_path(load_space, random_paths, name, seed):
    """In train mode, with batch statistics, logits and gradients are the same bit for bit."""
    space = load_space(name)
    supernet, paths = Supernet(space, seed=seed), random_paths(space, seed)
    with torch.no_grad():  # off their starting values, so that a BN weight that is not copied shows
        for p in supernet.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    network = Network.inherit(supernet, Architecture(space, paths)).train()
    size = space.config.input_size
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(4)
    outputs = supernet(images, paths), network(images)
    assert torch.equal(*outputs)
    for logits in outputs:
        F.cross_entropy(logits, labels).backward()
    used = [p for p in supernet.parameters() if p.grad is not None]
    assert len(used) == len(list(network.parameters()))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(used, network.parameters(), strict=True))


def test_inherit_copies_the_weights_and_leaves_the_supernet_unchanged(load_space, random_paths):
    space = load_space("small")
    supernet = Supernet(space)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    state = torch.get_rng_state()
    network = Network.inherit(supernet, Architecture(space, random_paths(space, 0)))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        network(torch.randn(4, 3, 17, 17))
        for p in network.parameters():
            p.fill_(7)
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())


def test_derived_network_equals_the_supernet_with_every_skip(load_space):
    """It does with no skip, too; random paths lie between these two cases."""
    space = load_space("small", dropout=0.3)
    supernet = Supernet(space)
    assert sum(not edge.searchable for edge in space.edges) == 1
    images = torch.randn(4, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    for skips in (True, False):
        paths = tuple(
            next((i for i, name in enumerate(edge.candidates) if (name == "skip") == skips), 0)
            for edge in space.searchable
        )
        architecture = Architecture(space, paths)
        assert ("skip" in architecture.names) == skips
        network = Network.inherit(supernet, architecture).train()
        outputs = []
        for run in (lambda: supernet(images, paths), lambda: network(images)):  # noqa: B023
            torch.manual_seed(0)  # the same dropout
            outputs.append(run())
        assert torch.equal(*outputs)


def test_construction_does_not_seed_accelerators(load_space, random_paths, monkeypatch):
    """The random state that must survive an evaluation in the middle of a run includes that of every GPU."""

    def refuse(seed: int) -> None:
        raise AssertionError("the CUDA generators were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    space = load_space("small")
    Network(Architecture(space, random_paths(space, 0)))
    Supernet(space)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_inherit_leaves_the_gpus_random_state_alone(load_space, random_paths):
    space = load_space("small")
    supernet = Supernet(space).cuda()
    state = torch.cuda.get_rng_state()
    network = Network.inherit(supernet, Architecture(space, random_paths(space, 0)))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert next(network.parameters()).is_cuda


def test_inherit_follows_the_supernets_dtype(load_space, random_paths):
    space = load_space("small")
    network = Network.inherit(Supernet(space).double(), Architecture(space, random_paths(space, 0)))
    assert {p.dtype for p in network.parameters()} == {torch.float64}


def test_inherit_starts_with_fresh_statistics(load_space, random_paths):
    space = load_space("small", bn={"eps": 1e-4, "momentum": 0.03})
    network = Network.inherit(Supernet(space), Architecture(space, random_paths(space, 1)))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((m.eps, m.momentum, m.track_running_stats) == (1e-4, 0.03, True) for m in norms)
    assert all((m.running_mean == 0).all() and (m.running_var == 1).all() for m in norms)
    assert all(m.num_batches_tracked == 0 for m in norms)


def test_inherit_refuses_another_space(load_space, random_paths):
    space, other = load_space("small"), load_space("small", classes=6)
    with pytest.raises(ValueError, match="space"):
        Network.inherit(Supernet(space), Architecture(other, random_paths(other, 0)))


def test_the_seed_determines_the_weights_and_the_random_state_is_unchanged(load_space, random_paths):
    architecture = Architecture(load_space("small"), random_paths(load_space("small"), 0))
    state = torch.get_rng_state()
    a, b, c = (Network(architecture, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["stem.conv.weight"], c["stem.conv.weight"])


def test_skip_costs_nothing(load_space):
    """A residual edge that takes skip returns its input itself and has no parameters."""
    space = load_space("small")
    skipping = tuple(edge.candidates.index("skip") if edge.residual else 0 for edge in space.searchable)
    network = Network(Architecture(space, skipping))
    for edge, block in zip(space.edges, network.edges, strict=True):
        if edge.residual:
            x = torch.randn(1, edge.c_in, 3, 3)
            assert block(x) is x
            assert not list(block.parameters())


def test_a_network_has_the_dropout_of_its_space(load_space, random_paths):
    space = load_space("small", dropout=0.5)
    network = Network(Architecture(space, random_paths(space, 0)))
    x = torch.randn(2, 32, 2, 2)
    assert not torch.equal(network.classifier(x), network.classifier(x))
    network.eval()
    assert torch.equal(network.classifier(x), network.classifier(x))
