"""A space has the edges, candidates, sizes and widths of its YAML; a wrong YAML is refused with its key."""

import json

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn

from supernet import Architecture, Network, Space, Supernet
from supernet.catalogue import make_divisible
from supernet.errors import InvalidError
from supernet.space import SpaceConfig, StageConfig


@pytest.mark.parametrize(("name", "first_stage"), [("imagenet", 24), ("imagenet_32", 32)])
def test_the_imagenet_space_is_the_published_one(load_space, name, first_stage):
    space = load_space(name)
    assert len(space.edges) == 22
    assert len(space.searchable) == 21
    assert space.edges[0].candidates == ("mbconv_k3_e1",)
    mbconvs = tuple(f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (3, 6))
    assert all(edge.candidates[:6] == mbconvs for edge in space.searchable)
    with_skip = [edge for edge in space.searchable if "skip" in edge.candidates]
    assert len(with_skip) == 15
    assert all(edge.residual and edge.candidates[6] == "skip" for edge in with_skip)
    assert [edge.residual for edge in space.searchable] == [len(edge.candidates) == 7 for edge in space.searchable]
    assert space.mask.shape == (21, 7)
    assert space.mask.sum() == 15 * 7 + 6 * 6
    assert [e.c_out for e in space.edges] == [16, *[first_stage] * 4, *[40] * 4, *[80] * 4, *[96] * 4, *[192] * 4, 320]
    assert [e.size for e in space.edges] == [112, 112, *[56] * 4, *[28] * 4, *[14] * 8, *[7] * 4]
    strided = [e.name for e in space.edges if e.stride == 2]
    assert strided == ["stage1.0", "stage2.0", "stage3.0", "stage5.0"]
    assert (str(space.stem.spec), space.stem.stride, space.stem.c_out) == ("stem_k3", 2, 32)
    assert (space.feature_mix.c_out, space.classifier.c_out, space.classifier.size) == (1280, 1000, 7)


def test_mobilenet_v2_has_the_published_complexity(load_space):
    c = load_space("mobilenet_v2").complexity(())
    assert (c.params, c.macs) == (3_504_872, 300_774_272)
    assert load_space("mobilenet_v2", width_multiplier=0.75).complexity(()).params == 2_636_424


@pytest.mark.parametrize("multiplier", [0.75, 1.0])
def test_mobilenet_v2_computes_what_torchvisions_does(load_space, count, multiplier):
    """Same widths, weights in the same order, same outputs; `{exact: 1280}` survives a multiplier below 1."""
    space = load_space("mobilenet_v2", width_multiplier=multiplier, input_size=64)
    ours = Network(Architecture(space, ())).train()
    theirs = torchvision.models.mobilenet_v2(width_mult=multiplier, dropout=0.0).train()
    state = ours.state_dict()
    pairs = zip(state.values(), theirs.state_dict().values(), strict=True)
    assert all(a.shape == b.shape for a, b in pairs)
    ours.load_state_dict(dict(zip(state, theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = ours(images)
        assert logits.std() > 0.01  # something to compare: BN by batch statistics keeps the signal alive
        torch.testing.assert_close(logits, theirs(images), rtol=1e-4, atol=1e-5)
    assert space.complexity(()) == count(theirs, images)


def test_the_cifar_space_has_the_intended_widths_strides_and_candidates(load_space):
    space = load_space("cifar")
    assert [e.c_out for e in space.edges] == [64, 64, *[128] * 3, *[256] * 3]
    assert [e.stride for e in space.edges] == [2, 1, 2, 1, 1, 2, 1, 1]
    assert [e.size for e in space.edges] == [32, 16, 16, 8, 8, 8, 4, 4]
    assert [e.candidates[0] for e in space.edges] == ["skip" if e.residual else "proj" for e in space.edges]
    assert all(e.candidates[1:] == ("mbconv_k3_e3", "mbconv_k5_e6") for e in space.edges)
    assert (space.stem.stride, space.stem.size_out, space.stem.c_out) == (1, 32, 32)
    assert len(space.searchable) == 8
    network = Network(Architecture(space, (0,) * 8))
    assert any(isinstance(m, nn.ReLU) for m in network.modules())
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("size", [17, 33, 50, 64])
def test_layers_have_the_sizes_of_the_networks_feature_maps(load_space, random_paths, size):
    """Each size is ceil(size / stride), for odd maps too."""
    space = load_space("small", input_size=size)
    architecture = Architecture(space, random_paths(space, size))
    network = Network(architecture)
    shapes = []
    for module in (network.stem, *network.edges, network.feature_mix):
        module.register_forward_hook(lambda _, args, out: shapes.append((args[0].shape, out.shape)))
    network(torch.randn(2, 3, size, size))
    layers = architecture.layers[:-1]  # the classifier has no map
    assert [(x[1:], y[1:]) for x, y in shapes] == [
        ((layer.c_in, layer.size, layer.size), (layer.c_out, layer.size_out, layer.size_out)) for layer in layers
    ]
    assert architecture.layers[-1].size == layers[-1].size_out


def test_residual_false_turns_the_add_off_for_that_stage_alone(make_space):
    stage = {"width": 32, "depth": 2, "candidates": ["mbconv_k3_e3", "skip", "conv_k3"]}
    space = make_space(stage, stage | {"residual": False})
    assert [edge.residual for edge in space.edges] == [True, True, False, False]
    assert [len(edge.candidates) for edge in space.edges] == [3, 3, 2, 2]


def test_skip_is_dropped_from_edges_that_are_not_residual(make_space):
    space = make_space({"width": 16, "depth": 3, "candidates": ["skip", "mbconv_k3_e3", "proj"]})
    assert [edge.candidates for edge in space.edges] == [("mbconv_k3_e3", "proj")] + [
        ("skip", "mbconv_k3_e3", "proj")
    ] * 2
    space = make_space({"width": 16, "depth": 2, "candidates": ["skip", "mbconv_k3_e3"]})
    assert [edge.searchable for edge in space.edges] == [False, True]


def test_fixed_edges_have_no_path(make_space):
    fixed = {"width": 32, "candidates": ["mbconv_k3_e1"]}
    free = {"width": 32, "candidates": ["skip", "mbconv_k3_e1"]}
    space = make_space(fixed, free, fixed)
    assert space.mask.tolist() == [[True, True]]
    assert [str(layer.spec) for layer in space.edge_layers((0,))] == ["mbconv_k3_e1", "skip", "mbconv_k3_e1"]
    assert make_space(fixed).mask.size == 0


def test_each_layer_is_listed_once(load_space):
    space = load_space("imagenet")
    every = {layer for edge in space.edges for layer in edge.layers} | {space.stem, space.feature_mix, space.classifier}
    assert len(space.all_layers) == len(every)
    assert set(space.all_layers) == every
    assert len({str(layer) for layer in space.all_layers}) == len(every)  # tables are keyed by this string


def test_the_multiplier_leaves_exact_widths_unchanged(make_space):
    stages = [{"width": 40, "candidates": ["proj"]}, {"width": {"exact": 40}, "candidates": ["proj"]}]
    space = make_space(*stages, stem={"width": {"exact": 12}}, feature_mix=100, width_multiplier=1.4)
    assert space.stem.c_out == 12
    assert [edge.c_out for edge in space.edges] == [56, 40]
    assert space.feature_mix.c_out == 144
    # 1 leaves widths as written, also those that are no multiple of 8
    assert make_space({"width": 30, "candidates": ["proj"]}).edges[0].c_out == 30


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (1, 8),
        (8, 8),
        (11.9, 16),
        (12, 16),
        (19, 24),
        (20, 24),
        (24 * 0.75, 24),
        (32 * 0.35, 16),
        (33.6, 32),
        (44.8, 48),
    ],
)
def test_make_divisible_rounds_to_multiples_and_at_most_ten_percent_down(channels, expected):
    """It returns the nearest multiple of 8, half up, or the next one if that would lose more than a tenth."""
    assert make_divisible(channels) == expected


def test_spaces_are_equal_if_their_configs_are(load_space):
    assert load_space("small") == load_space("small")
    assert hash(load_space("small")) == hash(load_space("small"))
    assert load_space("small") != load_space("small", classes=6)


WIDEN = {"width": 64, "depth": 2, "candidates": ["proj"]}  # edge 0: 32 -> 64 channels, edge 1: residual


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": ["mbconv_k3_e33"]}, r"\.candidates: unknown candidate .*e33'.*Did you mean 'mbconv_k3_e3'"),
        ({"first": ["sepconv_3"]}, r"\.first: unknown candidate 'sepconv_3'.*Did you mean 'sepconv_k3'"),
        ({"candidates": ["avgpool_k3"]}, r"\.candidates: 'avgpool_k3' .* 32 channels into 64.*`first: \[\.\.\.\]`"),
        ({"first": ["maxpool_k3"]}, r"\.first: 'maxpool_k3' .*cannot change 32 channels into 64"),
        ({"first": ["skip", "proj"]}, r"\.first: 'skip' .*residual"),
        ({"first": ["proj", "proj"]}, r"\.first: 'proj' is listed twice"),
        ({"candidates": ["skip"], "first": ["proj"], "residual": False}, r"\.candidates: edge 1 is not residual"),
        ({"candidates": ["proj", "conv_k3", "proj"]}, r"\.candidates: 'proj' is listed twice"),
        ({"candidates": ["skip"]}, r"\.candidates: edge 0 is not residual.*no candidate is left"),
        ({"candidates": []}, r"\.candidates"),
        ({"stride": 3}, r"\.stride"),
        ({"dept": 3}, r"\.dept"),
        ({"width": 0}, r"\.width"),
        ({"width": "64"}, r"\.width"),
    ],
)
def test_a_wrong_stage_is_refused_with_its_key(make_space, change, message):
    with pytest.raises(ValueError, match=r"stages\.1" + message):
        make_space({"width": 32, "candidates": ["proj"]}, WIDEN | change)


def test_paths_that_do_not_fit_the_space_are_refused(load_space):
    space = load_space("small")
    E = len(space.searchable)
    with pytest.raises(ValueError, match=f"got {E - 1} paths, expected one for each of {E}"):
        space.check_paths((0,) * (E - 1))
    for path in (-1, 4):
        with pytest.raises(ValueError, match=rf"edge stage0\.1: path {path} is not one of its 4"):
            space.check_paths((0, path) + (0,) * (E - 2))


STAGE = {"width": 8, "candidates": ["conv_k1", "conv_k3"], "first": ["conv_k3"]}


def test_a_space_built_in_python_takes_lists_and_dictionaries_as_yaml_does():
    stages = [STAGE, {"width": {"exact": 9}, "depth": 2, "candidates": ["conv_k1", "skip"]}]
    written = SpaceConfig.model_validate_json(json.dumps({"stages": stages}))
    assert SpaceConfig(stages=stages) == SpaceConfig.model_validate({"stages": stages}) == written
    assert written.stages[0].candidates == ("conv_k1", "conv_k3")
    models = [StageConfig(**stage) for stage in stages]
    assert SpaceConfig(stages=models, candidate_modules=[]) == SpaceConfig(stages=tuple(models)) == written


def test_a_space_takes_a_dictionary_and_refuses_what_is_no_configuration():
    assert Space({"stages": [STAGE]}) == Space(SpaceConfig(stages=[STAGE]))
    with pytest.raises(InvalidError, match=r"^space\.classes: Input should be a valid integer"):
        Space({"stages": [STAGE], "classes": "3"})
    for value in (None, "search.yaml", [STAGE]):
        with pytest.raises(InvalidError, match=r"^space: got a value of type .*, expected a SpaceConfig"):
            Space(value)
        with pytest.raises(InvalidError, match=r"^space: got a value of type .*, expected a Space$"):
            Supernet(value)


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"input_size": "8"}, ("input_size",)),
        ({"input_size": 8.0}, ("input_size",)),
        ({"classes": True}, ("classes",)),
        ({"width_multiplier": "1"}, ("width_multiplier",)),
        ({"stages": "abc"}, ("stages",)),
        ({"stages": {"a": STAGE}}, ("stages",)),
        ({"stages": iter([STAGE])}, ("stages",)),
        ({"stages": []}, ("stages",)),
        ({"stages": [STAGE | {"candidates": {"conv_k1"}}]}, ("stages", 0, "candidates")),
        ({"stages": [STAGE | {"candidates": "conv_k1"}]}, ("stages", 0, "candidates")),
        ({"stages": [STAGE | {"candidates": [1]}]}, ("stages", 0, "candidates", 0)),
        ({"stages": [STAGE | {"depth": True}]}, ("stages", 0, "depth")),
        ({"stages": [STAGE | {"residual": 1}]}, ("stages", 0, "residual")),
    ],
)
def test_a_space_built_in_python_refuses_values_of_other_types(keys, place):
    with pytest.raises(ValidationError) as error:
        SpaceConfig(**{"stages": [STAGE]} | keys)
    assert error.value.errors()[0]["loc"] == place
