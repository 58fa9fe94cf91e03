"""Tests terms of alpha's loss: the entropy by finite differences, the user's own terms, and refused ones."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from engine.errors import UserError
from search.config import EntropyConfig, TermConfig
from search.learn.forms import AddLinear
from search.learn.gradient import softmax_jacobian
from search.learn.objective import Objective, alpha_gradient
from search.learn.terms import build_terms, entropy_term, mean_entropy, terms_gradient
from search.loop import run_search
from search.own import own_function
from supernet.alpha import Alpha


@pytest.fixture
def alpha(space):
    draws = torch.Generator().manual_seed(1)
    return Alpha.of_space(space, torch.randn(space.mask.shape, generator=draws, dtype=torch.float64))


def test_the_entropy_is_that_of_the_curves_and_its_gradient_by_finite_differences(space, alpha):
    assert float(mean_entropy(alpha.probabilities())) == pytest.approx(float(alpha.entropy()), rel=1e-12)
    term = entropy_term(EntropyConfig(start=0.3, end=-0.1))
    value, d_p = terms_gradient([term], alpha.probabilities(), 0.25)
    assert value == pytest.approx(-0.2 * float(alpha.entropy()), rel=1e-12)  # 0.3 + (-0.1 - 0.3) / 4
    gradient = softmax_jacobian(d_p, alpha.probabilities())
    for e, i in alpha.mask.nonzero().tolist():
        shift = torch.zeros_like(alpha.values)
        shift[e, i] = 1e-5
        up, down = (alpha.with_values(alpha.values + sign * shift).entropy() for sign in (1, -1))
        numeric = -0.2 * (up - down) / 2e-5
        torch.testing.assert_close(gradient[e, i], numeric, rtol=1e-6, atol=1e-9)


def test_terms_are_finite_if_a_probability_is_zero(space):
    alpha = Alpha.of_space(space)
    alpha.values[:, 0] = 1e4
    _, d_p = terms_gradient([entropy_term(EntropyConfig(start=1.0))], alpha.probabilities(), 0.0)
    assert torch.isfinite(softmax_jacobian(d_p, alpha.probabilities())).all()


def test_a_term_goes_through_the_jacobian_with_the_others(space, make_cost, make_limit, alpha):
    """The gradient with a term minus that without is the term's own, through the same Jacobian."""
    p, mask = alpha.probabilities(), alpha.mask
    limit, d_ce = make_limit(make_cost(space, 0), 0.5), torch.randn(mask.shape, dtype=torch.float64) * mask
    d_terms = torch.randn(mask.shape, dtype=torch.float64) * mask

    def jacobian(d):
        return softmax_jacobian(d, p)

    without = Objective([limit], AddLinear())
    own, other = (
        alpha_gradient(jacobian(d_ce), 1.0, p, objective, jacobian).gradient
        for objective in (replace(without, d_terms=d_terms), without)
    )
    difference = own - other
    torch.testing.assert_close(difference, jacobian(d_terms), rtol=1e-9, atol=1e-12)


OWN = """
import torch

def prefers_first(p, space, progress):
    assert p.shape == space.mask.shape
    return p[:, 0].sum() * (1 + progress)

def wrong(p, space, progress):
    return 3.0

def broken(p, space, progress):
    return p.no_such_thing()

def last_edge(p, space, progress):
    return p[-1, 0]

def entropy(p, space, progress):
    return -(p[:, :2] * p[:, :2].log()).sum()

def root(p, space, progress):
    return p[:, :2].sqrt().sum()

def elsewhere(p, space, progress):
    return p.new_ones((), requires_grad=True) * 2

def none(p, space, progress):
    return None

def text(p, space, progress):
    return "0.3"

def row(p, space, progress):
    return p.sum().reshape(1)

def complex_value(p, space, progress):
    return p.sum() * 1j

def truth(p, space, progress):
    return p.sum() > 0

def detached(p, space, progress):
    return p.detach().sum()

def on_meta(p, space, progress):
    return p.sum().to("meta")

def two_arguments(p, space):
    return p.sum()

async def awaited(p, space, progress):
    return p.sum()

def changes_p(p, space, progress):
    p.data.mul_(2)
    return p.sum()

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p):
        return p.sum()
    @staticmethod
    def backward(ctx, d):
        raise SystemExit(4)

def no_backward(p, space, progress):
    return Backward.apply(p)

kept = []

def kept_graph(p, space, progress):
    kept.append(p.square().sum())
    return kept[0]
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return str(path)


def test_a_users_term_enters_with_its_weight(space, own, alpha):
    terms = build_terms(None, [TermConfig(function=f"{own}:prefers_first", weight=0.5)], space)
    p = alpha.probabilities()
    value, gradient = terms_gradient(terms, p, 1.0)
    assert value == pytest.approx(float(p[:, 0].sum()))
    expected = torch.zeros_like(p)
    expected[:, 0] = 1.0
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{own}:wrong", "returned float, expected a 0-dim tensor computed from p"),
        ("{own}:broken", "broken() failed: own.py, line 12: AttributeError: 'Tensor' object has no attribute"),
        ("{own}:elsewhere", "returned a tensor that does not depend on p, expected a 0-dim tensor computed from p"),
        ("{own}:none", "returned NoneType, expected a 0-dim tensor computed from p"),
        ("{own}:text", "returned str, expected"),
        ("{own}:row", "returned a tensor of shape (1,), expected"),
        ("{own}:complex_value", "returned a tensor of type complex128, expected"),
        ("{own}:truth", "returned a tensor of type bool, expected"),
        ("{own}:detached", "returned a tensor that does not depend on p, expected"),
        ("{own}:on_meta", "returned a tensor on the device meta, expected"),
        ("{own}:two_arguments", "takes (p, space), expected it to take (p, space, progress): too many positional"),
        ("{own}:awaited", "is an `async def`, expected a plain function that returns its result"),
        ("{own}:changes_p", "changed p in place, expected p as it was"),
        ("{own}:no_backward", "no_backward failed: own.py, line 63: SystemExit: 4; correct it"),
        ("{own}:missing", "has no function 'missing'"),
        ("{own}", "expected path/to/file.py:name or package.module:name"),
        ("nowhere.py:f", "no such file 'nowhere.py'"),
        ("no_such_package.x:f", "cannot import 'no_such_package.x': ModuleNotFoundError"),
    ],
)
def test_a_term_that_cannot_be_used_is_refused_in_one_line(space, own, alpha, reference, message):
    def use():
        terms = build_terms(None, [TermConfig(function=reference.format(own=own))], space)
        terms_gradient(terms, alpha.probabilities(), 0.0)

    with pytest.raises(UserError) as error:
        use()
    assert message in str(error.value)
    assert str(error.value).startswith("search.terms")


def test_a_term_that_keeps_its_graph_is_refused_at_the_second_step(space, own, alpha):
    terms = build_terms(None, [TermConfig(function=f"{own}:kept_graph")], space)
    p = alpha.probabilities()
    terms_gradient(terms, p, 0.0)
    with pytest.raises(UserError, match=r"kept_graph (failed: RuntimeError|returned a tensor that does)"):
        terms_gradient(terms, p, 0.5)


@pytest.mark.parametrize(("name", "what"), [("entropy", "value"), ("root", "gradient in p")])
def test_a_term_that_is_not_finite_where_a_probability_is_zero_is_refused_there(space, own, alpha, name, what):
    terms = build_terms(None, [TermConfig(function=f"{own}:{name}")], space)
    terms_gradient(terms, alpha.probabilities(), 0.0)
    decided = Alpha.of_space(space)
    decided.values[:, 0] = 1e4
    with pytest.raises(UserError, match=f"{name} has a {what} that is not finite 50% into the search"):
        terms_gradient(terms, decided.probabilities(), 0.5)


def test_a_module_that_fails_is_named_with_its_line_and_can_be_mended(tmp_path):
    path = tmp_path / "fails.py"
    path.write_text("x = 1\ny = x / 0\n")
    with pytest.raises(UserError, match=r"fails\.py, line 2: ZeroDivisionError: division by zero"):
        own_function(f"{path}:f", "search.terms.function")
    path.write_text("def f():\n    return 7\n")
    assert own_function(f"{path}:f", "search.terms.function")() == 7


@pytest.mark.parametrize("arch_update", ["two_path", "reinforce"])
def test_a_search_follows_a_term(tmp_path, make_search_file, own, arch_update):
    """Under a large weight on p[-1, 0], the last edge's first candidate all but disappears."""
    import yaml

    search = {"warmup_epochs": 0, "epochs": 20, "batch_size": 8, "arch_every": 1, "bn_batches": 1, "arch_lr": 0.1}
    search |= {"arch_update": arch_update, "terms": [{"function": f"{own}:last_edge", "weight": 100.0}]}
    search |= {"entropy": {"start": 0.1}}
    rarely = {"threads": 1, "evaluate_every": 1000}  # an evaluation draws a picture
    config = make_search_file([{"metric": "macs", "below": "99%"}], search=search, run=rarely)
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    run_search(file, tmp_path / "run")
    checkpoint = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda f: f.stat().st_mtime)
    state = torch.load(checkpoint, weights_only=True)["search"]
    p = Alpha(state["alpha"], torch.ones_like(state["alpha"], dtype=torch.bool)).probabilities()
    assert p[-1, 0] < 0.05
    curves = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "arch/terms" in curves
    assert not math.isnan(float(p.sum()))
