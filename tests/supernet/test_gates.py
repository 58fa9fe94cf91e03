"""The gradient dL/dg of binarized gates equals finite differences of L(sum_i g_i o_i(x)) (Sec. 3.2)."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from supernet import Space, Supernet
from supernet.gates import inner_product
from supernet.ops import InputMoments, Zero

RESIDUAL = ["skip", "mbconv_k3_e2", "sepconv_k3"]
CHANGING = ["mbconv_k3_e2_se", "proj", "conv_k3"]


@pytest.fixture(params=["residual", "changing"])
def space(request, make_space) -> Space:
    """Two searchable edges, both residual; or one that changes size and width, then one without skip."""
    if request.param == "residual":
        stages = [{"width": 6, "depth": 2, "candidates": RESIDUAL}]
    else:
        stages = [
            {"width": 8, "stride": 2, "candidates": CHANGING},
            {"width": 8, "candidates": ["maxpool_k3", "mbconv_k5_e1", "skip"], "residual": True},
        ]
    return make_space(
        *stages, input_size=7, classes=4, stem={"width": 6, "stride": 1}, feature_mix=8, activation="hswish"
    )


@pytest.fixture(params=[False, True], ids=["expanded", "folded"])
def folded(request, monkeypatch) -> bool:
    """Whether candidates evaluated in the backward pass fold BN into their expansion, as they do on large maps."""
    monkeypatch.setattr(InputMoments, "PIXELS_PER_CHANNEL", 0 if request.param else 10**9)
    return request.param


def batch(dtype: torch.dtype = torch.float64, size: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, size, size, dtype=torch.float64, generator=generator).to(dtype), torch.tensor([0, 1, 2, 3])


def one_hot(space: Space, paths: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    gates = torch.zeros(space.mask.shape, dtype=dtype)
    gates[torch.arange(len(paths)), list(paths)] = 1
    return gates.requires_grad_()


def d_gates_of(net: Supernet, paths: tuple[int, ...], **mode: object) -> Tensor:
    """Returns dL/dg as an architecture step computes it."""
    images, labels = batch(next(net.parameters()).dtype, net.space.config.input_size)
    gates = one_hot(net.space, paths, images.dtype)
    (d_gates,) = torch.autograd.grad(F.cross_entropy(net(images, paths, gates, **mode), labels), [gates])
    return d_gates


def gated_sum(net: Supernet, images: Tensor, gates: Tensor) -> Tensor:
    """Computes Eq. 2 for any gates, edge by edge: x <- sum_i g_i o_i(x), plus x if the edge is residual."""
    x, rows = net.stem(images), iter(gates)
    for edge, mixed in zip(net.space.edges, net.edges, strict=True):
        g = next(rows) if edge.searchable else torch.ones(1, dtype=x.dtype)
        terms = [g[i] * op(x) for i, op in enumerate(mixed.ops) if not isinstance(op, Zero)]
        x = sum(terms, x if edge.residual else 0)
    return net.classifier(net.feature_mix(x))


def slopes(net: Supernet, loss_of: Callable[[Tensor], Tensor], gates: Tensor, h: float = 1e-6) -> Tensor:
    """Returns central differences in each entry that is not padding."""
    result = torch.zeros_like(gates)
    for e, i in zip(*net.space.mask.nonzero(), strict=True):
        shift = torch.zeros_like(gates)
        shift[e, i] = h
        result[e, i] = (loss_of(gates + shift) - loss_of(gates - shift)) / (2 * h)
    return result


@pytest.mark.parametrize("paths", list(product(range(3), repeat=2)))
def test_gate_gradient_matches_finite_differences(space, folded, paths):
    """The test goes through every pair of active candidates, with and without skip, in float64; mode `full` gives the
    same gradient."""
    net = Supernet(space).double()
    images, labels = batch()
    with torch.no_grad():
        expected = slopes(
            net, lambda g: F.cross_entropy(gated_sum(net, images, g), labels), one_hot(space, paths).detach()
        )
    d_gates = d_gates_of(net, paths)
    torch.testing.assert_close(d_gates, expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(d_gates_of(net, paths, keep_outputs=True), d_gates, rtol=1e-10, atol=1e-12)
    can_be_zero = torch.tensor([[name == "skip" for name in edge.candidates] for edge in space.searchable])
    assert torch.equal(d_gates == 0, can_be_zero)  # o = 0 for skip, whether it ran or not


@pytest.mark.parametrize("compared", [[(0, 1), (2, 0)], [(1, 2), (1, 2)], [(2,), ()]])
def test_only_compared_candidates_get_a_gate_gradient(space, compared):
    """The compared entries equal those of the full gradient; the others are exactly 0 and are not evaluated."""
    net = Supernet(space).double()
    paths = (compared[0][0], 1)
    full = d_gates_of(net, paths)
    ran = watch(net)
    restricted = d_gates_of(net, paths, compared=compared)
    chosen = torch.tensor([[i in row for i in range(3)] for row in compared])
    assert torch.equal(restricted[chosen], full[chosen])
    assert (restricted[~chosen] == 0).all()
    run = {(e, i) for e, row in enumerate(compared) for i in row} | set(enumerate(paths))
    assert sorted(ran) == sorted((e, i) for e, i in run if space.edges[e].candidates[i] != "skip")


def test_full_v2_evaluates_each_candidate_once(space):
    """The sampled path runs in the forward pass, the others in the backward pass, and skip in neither."""
    net = Supernet(space).double()
    ran = watch(net)
    d_gates_of(net, (1, 1))
    names = [(e, i) for e, edge in enumerate(space.edges) for i, name in enumerate(edge.candidates) if name != "skip"]
    assert sorted(ran) == names
    assert ran[:2] == [(0, 1), (1, 1)]


def test_backward_evaluates_candidates_without_graph(space):
    """The memory is that of a single path, since no output of the backward pass is kept."""
    net = Supernet(space).double()
    images, labels = batch()
    loss = F.cross_entropy(net(images, (0, 0), gates := one_hot(space, (0, 0))), labels)
    tracked = []
    for mixed in net.edges:
        for op in mixed.ops:
            op.register_forward_hook(lambda _, args, out: tracked.append(out.requires_grad))
    torch.autograd.grad(loss, [gates])
    assert tracked
    assert not any(tracked)


def watch(net: Supernet) -> list[tuple[int, int]]:
    """Records (edge, candidate) in the order in which they run."""
    ran: list[tuple[int, int]] = []
    for e, mixed in enumerate(net.edges):
        for i, op in enumerate(mixed.ops):
            op.register_forward_hook(lambda *_, at=(e, i): ran.append(at))
    return ran


@pytest.mark.parametrize("mode", [{}, {"keep_outputs": True}, {"compared": [(0, 1)] * 6}], ids=["v2", "full", "two"])
def test_an_architecture_step_leaves_weights_and_buffers_unchanged(load_space, random_paths, mode):
    """No weight gets a gradient, no state changes, bit for bit; nor does the run's random state."""
    net = Supernet(load_space("small", dropout=0.0))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    d_gates = d_gates_of(net, random_paths(net.space, 0), **mode)
    assert d_gates.isfinite().all()
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_gates_do_not_change_the_output(load_space, random_paths):
    """The logits and the weights' gradients with gates equal those without."""
    net = Supernet(load_space("small"))
    paths = random_paths(net.space, 1)
    images, _ = batch(torch.float32, 17)
    plain, gated = net(images, paths), net(images, paths, one_hot(net.space, paths, torch.float32))
    assert torch.equal(plain, gated)
    used = [p for edge, i in zip(searchable(net), paths, strict=True) for p in edge.ops[i].parameters()]
    for a, b in zip(torch.autograd.grad(plain.sum(), used), torch.autograd.grad(gated.sum(), used), strict=True):
        assert torch.equal(a, b)


def searchable(net: Supernet) -> list[nn.Module]:
    return [mixed for edge, mixed in zip(net.space.edges, net.edges, strict=True) if edge.searchable]


def test_padding_gets_no_gradient(load_space, random_paths):
    space = load_space("small")
    d_gates = d_gates_of(Supernet(space), random_paths(space, 2))
    assert (d_gates[~torch.from_numpy(space.mask)] == 0).all()


def test_candidates_with_folded_bn_share_the_moments_of_their_edge(make_space, monkeypatch):
    """BN is folded if the map is large for its channels, from moments that are computed once an edge."""
    names = ["mbconv_k3_e2", "mbconv_k5_e3", "mbconv_k3_e3", "mbconv_k3_e1"]
    stages = [{"width": 32, "candidates": names, "stride": 2}, {"width": 32, "candidates": names}]
    net = Supernet(make_space(*stages, input_size=32, classes=4, stem={"width": 6, "stride": 1})).double()
    seen, moments_of = [], InputMoments.of
    monkeypatch.setattr(InputMoments, "of", lambda x: seen.append(x.shape) or moments_of(x))
    expanded = []
    for e, mixed in enumerate(net.edges):
        for i, op in enumerate(mixed.ops[:3]):  # the last one does not expand
            op.expand.register_forward_hook(lambda *_, at=(e, i): expanded.append(at))
    d_gates = d_gates_of(net, (1, 1))
    assert seen == [(4, 6, 32, 32)]  # not (4, 32, 16, 16), the input of edge 1
    assert sorted(expanded) == [(0, 1), (1, 0), (1, 1), (1, 2)]  # edge 0: the sampled one, in the forward pass
    torch.testing.assert_close(d_gates, d_gates_of(net, (1, 1), keep_outputs=True), rtol=1e-9, atol=1e-12)


def test_backward_runs_candidates_in_the_forwards_precision(autocast_space, folded):
    """bf16 autocast is restored in the backward pass, outside its context; the result is near that of float32."""
    net, paths = Supernet(autocast_space), (1, 0)
    float32 = d_gates_of(net, paths)
    images, labels = batch(torch.float32, 16)
    gates = one_hot(net.space, paths, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(net(images, paths, gates), labels)
    dtypes = []
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            m.register_forward_hook(lambda _, args, out: dtypes.append((args[0].dtype, out.dtype)))
    (d_gates,) = torch.autograd.grad(loss, [gates])
    assert not torch.is_autocast_enabled("cpu")
    # edge 1: mbconv (3 convolutions, one less as a module if folded), sepconv (2); edge 0: sepconv
    assert dtypes == [(torch.bfloat16, torch.bfloat16)] * (3 - folded + 2 + 2)
    assert d_gates.dtype == torch.float32
    assert (d_gates - float32).norm() <= 0.1 * float32.norm()

    dtypes.clear()
    d_gates_of(net, paths)  # and without autocast, nothing is cast
    assert set(dtypes) == {(torch.float32, torch.float32)}


@pytest.fixture
def autocast_space(make_space) -> Space:
    """Enough pixels in each batch for BN to be steady under bf16's rounding."""
    stage = {"width": 16, "depth": 2, "candidates": RESIDUAL}
    return make_space(stage, input_size=16, classes=4, stem={"width": 16, "stride": 1})


class Float32Made(TorchDispatchMode):
    """Counts the tensors of float32 with `elements` elements that ops make inside."""

    def __init__(self, elements: int):
        super().__init__()
        self.elements, self.count = elements, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else (out,)
        self.count += any(
            isinstance(t, Tensor) and t.dtype == torch.float32 and t.numel() == self.elements and not t.is_meta
            for t in made
        )
        return out


def test_moments_are_used_on_a_cpu_alone():
    """The size from which on they are faster was measured on a CPU, and they copy the input to float32."""
    shape = (64, 8, 32, 32)
    assert InputMoments.is_worth_it(torch.empty(shape))
    assert not InputMoments.is_worth_it(torch.empty(shape, device="meta"))


def test_without_moments_a_bf16_input_is_not_copied_to_float32(make_space, folded):
    """Candidates that did not run are evaluated in bf16 throughout, as on a GPU; only folding copies the input."""
    stage = {"width": 12, "candidates": ["mbconv_k3_e2", "mbconv_k5_e2"], "stride": 2}
    net = Supernet(make_space(stage, input_size=16, classes=4, stem={"width": 10, "stride": 1}))
    images, labels = batch(torch.float32, 16)
    gates = one_hot(net.space, (0,), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(net(images, (0,), gates), labels)
    with Float32Made(4 * 10 * 16 * 16) as made:  # as large as the edge's input, and nothing else is
        torch.autograd.grad(loss, [gates])
    assert (made.count > 0) == folded


def test_an_inner_product_of_bf16_widens_one_of_the_two():
    a, b = torch.randn(2, 50, dtype=torch.bfloat16)
    seen = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Copies():
        found = inner_product(a, b)
    assert seen.count("_to_copy") == 1
    assert torch.equal(found, (a.float() * b.float()).sum())


def test_channels_last_goes_through_an_architecture_step(load_space, random_paths, folded):
    """Every convolution, in the forward and in the backward pass, gets the layout that it is fastest in."""
    net = Supernet(load_space("small")).to(memory_format=torch.channels_last)
    paths = random_paths(net.space, 0)
    images, labels = batch(torch.float32, 17)
    seen = []
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            m.register_forward_hook(lambda m, args, _: seen.append((args[0].shape, args[0].stride())))
    gates = one_hot(net.space, paths, torch.float32)
    loss = F.cross_entropy(net(images.to(memory_format=torch.channels_last), paths, gates), labels)
    before = len(seen)
    torch.autograd.grad(loss, [gates])
    assert len(seen) > before > 0
    for shape, strides in seen:
        assert strides == torch.empty(shape, device="meta", memory_format=torch.channels_last).stride()


def test_inner_products_of_bf16_accumulate_in_float32():
    """4096 products of 1: a bf16 sum would stop growing at 256."""
    ones = torch.ones(4096, dtype=torch.bfloat16)
    assert inner_product(ones, ones).dtype == torch.float32
    assert inner_product(ones, ones).item() == 4096
    assert inner_product(ones + 1 / 128, ones).item() == pytest.approx(4096 * (1 + 1 / 128), rel=1e-6)
    assert inner_product(ones.double(), ones.double()).dtype == torch.float64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bf16_on_a_gpu_agrees_with_float64(autocast_space):
    net, paths = Supernet(autocast_space), (1, 2)
    float64 = d_gates_of(net.double(), paths)
    net = net.float().cuda()
    images, labels = batch(torch.float32, 16)
    gates = one_hot(net.space, paths, torch.float32).detach().cuda().requires_grad_()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = F.cross_entropy(net(images.cuda(), paths, gates), labels.cuda())
    (d_gates,) = torch.autograd.grad(loss, [gates])
    assert (d_gates.cpu().double() - float64).norm() <= 0.1 * float64.norm()
