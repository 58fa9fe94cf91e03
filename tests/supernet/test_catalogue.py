"""Candidates of the user's own, registered from a file that the YAML names."""

import pytest
import torch

from supernet import CANDIDATES, Architecture, Network, Supernet
from supernet.catalogue import SkipSpec, import_candidates
from supernet.own_candidates import check_running

pytestmark = pytest.mark.usefixtures("own_candidates")

OWN = """
from dataclasses import dataclass

from supernet.catalogue import Candidate, register
from supernet.complexity import conv_complexity
from supernet.ops import ConvBN


@register(kernel_size=(3, 5))
@dataclass(frozen=True)
class {cls}(Candidate):
    kernel_size: int

    def __str__(self):
        return f"{name}_k{{self.kernel_size}}"

    def build(self, c_in, c_out, stride, settings):
        return ConvBN(c_in, c_out, self.kernel_size, settings, stride=stride)

    def complexity(self, c_in, c_out, size, stride):
        return conv_complexity(c_in, c_out, self.kernel_size, -(-size // stride))
"""


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "own_ops.py"
    path.write_text(OWN.format(cls="PlainSpec", name="plain"))
    return path


@pytest.fixture
def own_space(own_file, make_space):
    return make_space(
        {"width": 8, "stride": 2, "candidates": ["plain_k3", "proj"]},
        {"width": 8, "candidates": ["plain_k5", "skip", "mbconv_k3_e2"]},
        candidate_modules=[str(own_file)],
        input_size=19,
        classes=4,
        stem={"width": 8},
        feature_mix=16,
    )


def test_a_candidates_key_is_its_text():
    assert all(str(candidate) == name for name, candidate in CANDIDATES.items())
    assert len(set(CANDIDATES.values())) == len(CANDIDATES)


def test_the_candidates_of_the_paper_are_registered():
    assert {f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (1, 3, 6)} | {"skip", "proj"} <= CANDIDATES.keys()
    assert CANDIDATES["skip"] == SkipSpec()


def test_own_candidates_are_built_counted_and_trained_like_others(own_space, count):
    supernet = Supernet(own_space)
    images = torch.randn(2, 3, 19, 19)
    for paths in [(0, 0), (1, 0), (0, 1)]:
        architecture = Architecture(own_space, paths)
        assert architecture.complexity == count(Network(architecture), images)
        gates = torch.zeros(own_space.mask.shape)
        gates[[0, 1], list(paths)] = 1
        gates.requires_grad_()
        (d_gates,) = torch.autograd.grad(supernet(images, paths, gates).square().sum(), [gates])
        assert (d_gates[0, :2] != 0).all()
        assert d_gates[1, 0] != 0
    assert not list(supernet.buffers())  # through supernet.ops, they follow the supernet's BN rule


def test_an_architecture_with_own_candidates_is_read_back_from_its_json(own_space, own_file):
    """Their module is named so that the file can be read elsewhere: without the folders of this machine."""
    architecture = Architecture(own_space, (0, 0))
    text = architecture.to_json()
    for name in ("plain_k3", "plain_k5", own_file.name):
        assert f'"{name}"' in text
    assert str(own_file.parent) not in text
    assert Architecture.from_json(text) == architecture


def test_a_module_that_is_imported_twice_registers_its_candidates_once(own_file):
    import_candidates(str(own_file))
    first = CANDIDATES["plain_k3"]
    import_candidates(str(own_file))
    import_candidates(str(own_file.parent / ".." / own_file.parent.name / own_file.name))  # the same file
    assert CANDIDATES["plain_k3"] is first


def test_a_candidate_whose_name_is_taken_is_refused(tmp_path, own_file, make_space):
    import_candidates(str(own_file))
    clash = tmp_path / "clash.py"
    clash.write_text(OWN.format(cls="OtherSpec", name="plain"))
    message = "candidate 'plain_k3' is already registered by PlainSpec"
    with pytest.raises(ValueError, match=message):
        import_candidates(str(clash))
    with pytest.raises(ValueError, match=f"candidate_modules.*\n.*{message}"):  # again, not silently skipped
        make_space({"width": 8, "candidates": ["plain_k3"]}, candidate_modules=[str(clash)])
    builtin = tmp_path / "builtin.py"
    builtin.write_text(OWN.format(cls="MineSpec", name="conv"))
    with pytest.raises(ValueError, match="'conv_k3' is already registered by ConvSpec"):
        import_candidates(str(builtin))


def test_a_module_whose_import_fails_registers_nothing(tmp_path):
    """A corrected file that is imported again must not clash with the candidates of its first import."""
    path = tmp_path / "half.py"
    path.write_text(OWN.format(cls="HalfSpec", name="half") + "\nraise ImportError('later')\n")
    with pytest.raises(ValueError, match="later"):
        import_candidates(str(path))
    path.write_text(OWN.format(cls="HalfSpec", name="half"))
    import_candidates(str(path))
    assert "half_k3" in CANDIDATES


DECLARED = """
from dataclasses import dataclass
import torch
from torch import nn
from supernet.catalogue import Candidate, register
from supernet.complexity import Complexity

class Op(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.shape = c_out, stride
    def forward(self, x):
        n, (c_out, stride) = len(x), self.shape
        {forward}

@register()
@dataclass(frozen=True)
class Spec(Candidate):
    def __str__(self):
        {name}
    def build(self, c_in, c_out, stride, settings):
        {build}
    def complexity(self, c_in, c_out, size, stride):
        {complexity}
    def why_illegal(self, c_in, c_out, stride, residual):
        {why_illegal}
"""
GOOD = {
    "name": "return 'declared'",
    "build": "return Op(c_in, c_out, stride)",
    "complexity": "return Complexity(0, 5)",
    "why_illegal": "return None",
    "forward": "return x.mean() * x.new_ones(n, c_out, -(-x.shape[2] // stride), -(-x.shape[3] // stride))",
}


@pytest.fixture
def declared(tmp_path, make_space):
    """declared(build="return None"): the layers of a space with a candidate whose methods do this."""

    def make(**methods):
        path = tmp_path / "declared.py"
        path.write_text(DECLARED.format(**GOOD | methods))
        stages = ({"width": 8, "stride": 2, "candidates": ["declared", "proj"]}, {"width": 8, "candidates": ["proj"]})
        return make_space(*stages, candidate_modules=[str(path)], input_size=9, stem={"width": 4}).all_layers

    return make


def test_a_declared_candidate_is_accepted_and_leaves_torchs_random_numbers(declared):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_running(declared(build="torch.rand(9); return Op(c_in, c_out, stride)"), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("method", "code", "message"),
    [
        ("build", "return None", r"candidate 'declared': build\(\) returned None, expected a torch\.nn\.Module"),
        ("build", "return lambda x: x", r"build\(\) returned a value of type function, expected a torch\.nn\.Module"),
        ("build", "raise SystemExit(3)", r"build\(\) failed: declared\.py, line \d+: SystemExit: 3; correct it"),
        (
            "build",
            "return self.build(c_in, c_out, stride, settings)",
            r"build\(\) failed: declared\.py.*RecursionError",
        ),
        ("complexity", "return 3", r"complexity\(\) returned a value of type int for declared 5x5x4->8 s2, expected a"),
        ("complexity", "return None", r"complexity\(\) returned None"),
        ("complexity", "return Complexity(1.5, 2)", r"complexity\(\) returned Complexity\(params=1\.5, macs=2\)"),
        ("complexity", "return Complexity(True, 2)", r"complexity\(\) returned Complexity\(params=True, macs=2\)"),
        ("complexity", "return Complexity(3, -2)", r"complexity\(\) returned Complexity\(params=3, macs=-2\)"),
        ("complexity", "return c_in.no", r"complexity\(\) failed: declared\.py, line \d+: AttributeError"),
        ("why_illegal", r"return 'half \ud800\n a pair'", r"of this stage: half \\ud800 a pair"),
        ("why_illegal", "return True", r"why_illegal\(\) returned a value of type bool, expected the reason as text"),
        (
            "why_illegal",
            "raise GeneratorExit",
            r"why_illegal\(\) failed: declared\.py, line \d+: GeneratorExit; correct",
        ),
        ("name", "return 'two words'", r"Spec names itself 'two words', expected 1 to 100 characters without blanks"),
        ("name", "return 'two\\nlines'", r"Spec names itself 'two\\nlines'"),
        ("name", "return ''", r"Spec names itself ''"),
        ("name", "return 'a+residual'", r"Spec names itself 'a\+residual'"),
        ("name", "return 'x' * 10**6", r"Spec names itself 'x{100}', expected"),
        ("name", "return 'bell\\x07'", r"Spec names itself 'bell\\x07'"),
        ("name", "return str(self)", r"cannot import .*RecursionError"),
        ("name", "return 3", r"cannot import .*TypeError: __str__ returned non-string"),
    ],
)
def test_a_space_is_refused_if_a_candidates_declaration_is_wrong(declared, method, code, message):
    with pytest.raises(ValueError, match=message):
        declared(**{method: code})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x.mul_(2); " + GOOD["forward"], r"forward\(\) changed its input in place, which other candidates get too"),
        ("return x", r"forward\(\) made a tensor \(2, 4, 5, 5\) of float32 on cpu of .*, expected \(2, 8, 3, 3\)"),
        (GOOD["forward"] + " * 1j", r"forward\(\) made a tensor \(2, 8, 3, 3\) of complex64"),
        (GOOD["forward"] + ".double()", r"forward\(\) made a tensor \(2, 8, 3, 3\) of float64"),
        (GOOD["forward"] + ".to('meta')", r"forward\(\) made a tensor \(2, 8, 3, 3\) of float32 on meta"),
        ("return None", r"forward\(\) made None of a tensor"),
        ("raise KeyError(3)", r"forward\(\) failed: declared\.py, line \d+: KeyError: 3; correct it"),
    ],
)
def test_a_candidate_whose_output_is_wrong_is_refused_before_training(declared, code, message):
    layers = declared(forward=code)
    with pytest.raises(ValueError, match=f"candidate 'declared': {message}"):
        check_running(layers, torch.device("cpu"))


@pytest.mark.parametrize("layer", ["torch.nn.Linear(2, 3)", "torch.nn.LazyLinear(3)"])
@pytest.mark.parametrize("right", [True, False])
def test_a_candidate_with_other_parameters_than_it_declares_is_refused_before_training(declared, layer, right):
    """Both layers have 2 x 3 + 3 parameters, the lazy one since its first forward pass."""
    layers = declared(
        build=f"op = Op(c_in, c_out, stride); op.more = {layer}; return op",
        forward="self.more(x.new_ones(1, 2)); " + GOOD["forward"],
        complexity=f"return Complexity({9 if right else 8}, 5)",
    )
    if right:
        check_running(layers, torch.device("cpu"))
        return
    message = r"complexity\(\) declares 8 parameters for declared 5x5x4->8 s2, its module has 9; correct the formula"
    with pytest.raises(ValueError, match=f"candidate 'declared': {message}"):
        check_running(layers, torch.device("cpu"))


@pytest.mark.parametrize("text", ["class Spec: pass", "def f(): pass"])
def test_registering_a_class_that_is_no_candidate_is_refused(tmp_path, text):
    path = tmp_path / "other.py"
    path.write_text(f"from supernet.catalogue import register\n@register()\n{text}\n")
    with pytest.raises(ValueError, match="is registered, expected a subclass of supernet"):
        import_candidates(str(path))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no/such/file.py", r"no such file 'no/such/file\.py'"),
        ("no_such_package.ops", r"cannot import 'no_such_package\.ops'"),
    ],
)
def test_a_candidate_module_that_does_not_exist_is_refused(make_space, module, message):
    with pytest.raises(ValueError, match=message):
        import_candidates(module)
    with pytest.raises(ValueError, match=message):
        make_space({"width": 8, "candidates": ["proj"]}, candidate_modules=[module])


def test_a_candidate_module_with_a_syntax_error_is_refused(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("class :")
    with pytest.raises(ValueError, match="cannot import"):
        import_candidates(str(path))


def test_a_candidate_module_with_a_dotted_name_is_imported(tmp_path, monkeypatch, make_space):
    (tmp_path / "own_dotted_ops.py").write_text(OWN.format(cls="DottedSpec", name="dotted"))
    monkeypatch.syspath_prepend(tmp_path)
    space = make_space({"width": 8, "candidates": ["dotted_k5"]}, candidate_modules=["own_dotted_ops"])
    assert space.edges[0].candidates == ("dotted_k5",)
