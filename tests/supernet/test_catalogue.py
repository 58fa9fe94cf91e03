"""Candidates of the user's own, registered from a file that the YAML names."""

import pytest
import torch

from supernet import CANDIDATES, Architecture, Network, Supernet
from supernet.catalogue import SkipSpec, import_candidates

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


def test_a_name_is_what_its_candidate_prints():
    assert all(str(candidate) == name for name, candidate in CANDIDATES.items())
    assert len(set(CANDIDATES.values())) == len(CANDIDATES)


def test_the_methods_candidates_are_there():
    assert {f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (1, 3, 6)} | {"skip", "proj"} <= CANDIDATES.keys()
    assert CANDIDATES["skip"] == SkipSpec()


def test_own_candidates_build_count_and_train(own_space, count):
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


def test_own_candidates_survive_architecture_json(own_space, own_file):
    architecture = Architecture(own_space, (0, 0))
    text = architecture.to_json()
    for name in ("plain_k3", "plain_k5"):
        assert f'"{name}"' in text
    assert str(own_file) in text
    assert Architecture.from_json(text) == architecture


def test_importing_twice_registers_once(own_file):
    import_candidates(str(own_file))
    first = CANDIDATES["plain_k3"]
    import_candidates(str(own_file))
    import_candidates(str(own_file.parent / ".." / own_file.parent.name / own_file.name))  # the same file
    assert CANDIDATES["plain_k3"] is first


def test_a_taken_name_is_refused(tmp_path, own_file, make_space):
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


def test_a_refused_file_registers_nothing(tmp_path):
    """Corrected and imported again, it must not clash with its own first half."""
    path = tmp_path / "half.py"
    path.write_text(OWN.format(cls="HalfSpec", name="half") + "\nraise ImportError('later')\n")
    with pytest.raises(ValueError, match="later"):
        import_candidates(str(path))
    path.write_text(OWN.format(cls="HalfSpec", name="half"))
    import_candidates(str(path))
    assert "half_k3" in CANDIDATES


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no/such/file.py", r"no such file 'no/such/file\.py'"),
        ("no_such_package.ops", r"cannot import 'no_such_package\.ops'"),
    ],
)
def test_an_absent_module_is_refused(make_space, module, message):
    with pytest.raises(ValueError, match=message):
        import_candidates(module)
    with pytest.raises(ValueError, match=message):
        make_space({"width": 8, "candidates": ["proj"]}, candidate_modules=[module])


def test_a_file_that_does_not_parse_is_refused(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("class :")
    with pytest.raises(ValueError, match="cannot import"):
        import_candidates(str(path))


def test_a_dotted_module_is_found(tmp_path, monkeypatch, make_space):
    (tmp_path / "own_dotted_ops.py").write_text(OWN.format(cls="DottedSpec", name="dotted"))
    monkeypatch.syspath_prepend(tmp_path)
    space = make_space({"width": 8, "candidates": ["dotted_k5"]}, candidate_modules=["own_dotted_ops"])
    assert space.edges[0].candidates == ("dotted_k5",)
