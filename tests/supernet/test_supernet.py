"""A supernet runs one path at a time, trains its weights alone, and leaves all others unchanged."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet import Space, Supernet
from supernet.alpha import Alpha
from supernet.ops import Zero


def batch(space: Space, n: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    size, classes = space.config.input_size, space.config.classes
    return torch.randn(n, 3, size, size, generator=generator), torch.randint(classes, (n,), generator=generator)


def parameters_of(net: Supernet, paths: tuple[int, ...]) -> set[str]:
    """Names of the weights that `paths` uses: stem, head, fixed edges and the sampled candidates."""
    taken = iter(paths)
    chosen = [next(taken) if edge.searchable else 0 for edge in net.space.edges]
    unused = {
        f"edges.{e}.ops.{i}." for e, mixed in enumerate(net.edges) for i in range(len(mixed.ops)) if i != chosen[e]
    }
    return {name for name, _ in net.named_parameters() if not name.startswith(tuple(unused))}


def one_hot(space: Space, paths: tuple[int, ...]) -> Tensor:
    return F.one_hot(torch.tensor(paths), space.mask.shape[1]).float()


@pytest.mark.parametrize("seed", range(4))
def test_one_path_alone_equals_the_gated_sum_at_one_hot(load_space, random_paths, seed):
    space = load_space("small")
    net, paths = Supernet(space, seed=seed), random_paths(space, seed)
    images, _ = batch(space)
    gated = net(images, paths, one_hot(space, paths), keep_outputs=True)
    torch.testing.assert_close(net(images, paths), gated, rtol=1e-5, atol=1e-6)


def test_one_hot_outputs_averaged_with_p_give_the_darts_sum(make_space):
    """E_g[edge(x)] = x + sum_i p_i o_i(x), at the output of a residual edge with skip."""
    space = make_space(
        {"width": 8, "candidates": ["skip", "mbconv_k3_e2", "conv_k5"]}, stem={"width": 8}, input_size=12
    )
    net = Supernet(space).double()
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    x = torch.randn(3, 8, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    edge = net.edges[0]
    average = sum(p[i] * edge(x, i) for i in range(3))
    _, mbconv, conv = edge.ops
    torch.testing.assert_close(average, x + p[1] * mbconv(x) + p[2] * conv(x))
    torch.testing.assert_close(average, edge.keeping_all(x, p))


def test_only_the_sampled_path_runs_and_only_its_weights_get_gradients(load_space, random_paths):
    space = load_space("small")
    net = Supernet(space)
    ran = []
    for e, mixed in enumerate(net.edges):
        for i, op in enumerate(mixed.ops):
            op.register_forward_hook(lambda *_, at=(e, i): ran.append(at))
    images, labels = batch(space)
    for seed in range(4):
        paths = random_paths(space, seed)
        ran.clear()
        net.zero_grad(set_to_none=True)
        F.cross_entropy(net(images, paths), labels).backward()
        taken = iter(paths)
        chosen = enumerate(next(taken) if edge.searchable else 0 for edge in space.edges)
        assert ran == [(e, i) for e, i in chosen if not isinstance(net.edges[e].ops[i], Zero)]
        with_gradient = {name for name, p in net.named_parameters() if p.grad is not None}
        assert with_gradient == parameters_of(net, paths)


def test_momentum_and_decay_leave_unsampled_weights_alone(load_space):
    """Weights that have momentum from earlier steps do not change in a step in which they are not sampled."""
    space = load_space("small")
    net = Supernet(space)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
    images, labels = batch(space)

    def step(paths: tuple[int, ...]) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images, paths), labels).backward()
        optimizer.step()

    first, second = ((1,) * len(space.searchable), (0,) * len(space.searchable))
    step(first)
    step(first)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    idle = parameters_of(net, first) - parameters_of(net, second)
    weights = dict(net.named_parameters())
    assert idle
    assert all(optimizer.state[weights[name]]["momentum_buffer"].abs().sum() > 0 for name in idle)
    step(second)
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == parameters_of(net, second)


def test_batch_norm_keeps_no_statistics(load_space, random_paths):
    """Each forward pass normalises by its own batch, in train() and eval() alike, and changes nothing."""
    space = load_space("small")
    net, paths = Supernet(space), random_paths(space, 3)
    assert not list(net.buffers())
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    images, _ = batch(space)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        trained = net.train()(images, paths)
        net(100 * images + 7, paths)  # other statistics in between
        evaluated = net.eval()(images, paths)
    assert torch.equal(trained, evaluated)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    features = []
    net.stem.bn.register_forward_hook(lambda _, args, out: features.append(out))
    net.stem.act = nn.Identity()  # it works in place
    net(images, paths)
    torch.testing.assert_close(features[0].mean(dim=(0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-5)


def test_the_seed_determines_the_weights_and_the_random_state_is_unchanged(load_space):
    space = load_space("small")
    state = torch.get_rng_state()
    a, b, c = (Supernet(space, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_convolutions_start_kaiming_fan_out(make_space):
    """Variance 2 / (C_out k^2)."""
    net = Supernet(make_space({"width": 96, "candidates": ["conv_k5", "mbconv_k3_e6"]}, stem={"width": 64}))
    conv, mbconv = net.edges[0].ops
    for weight, fan_out in [(conv.conv.weight, 96 * 25), (mbconv.expand.conv.weight, 384)]:
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert weight.mean().item() == pytest.approx(0, abs=5 * (2 / fan_out / weight.numel()) ** 0.5)


def test_a_forward_pass_with_paths_that_do_not_fit_is_refused(load_space):
    space = load_space("small")
    net, (images, _) = Supernet(space), batch(space)
    with pytest.raises(ValueError, match="got 1 paths"):
        net(images, (0,))
    with pytest.raises(ValueError, match=r"edge stage0\.0: path 9"):
        net(images, (9,) + (0,) * (len(space.searchable) - 1))


def test_a_space_without_choices_is_a_supernet_with_one_path(load_space):
    space = load_space("mobilenet_v2", input_size=32, classes=3)
    alpha, generator = Alpha.of_space(space), torch.Generator()
    assert alpha.sample_paths(generator) == alpha.sample_pairs(generator).paths == ()
    with torch.no_grad():
        assert Supernet(space)(batch(space)[0], ()).shape == (4, 3)
