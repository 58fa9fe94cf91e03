"""An architecture.json rebuilds the identical module, or is refused with the key that is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from supernet import Architecture, Network, Space
from supernet.errors import InvalidError


@pytest.fixture
def architecture(load_space, random_paths) -> Architecture:
    space = load_space("small", dropout=0.1, width_multiplier=1.25)
    return Architecture(space, random_paths(space, 0), "mine")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["small", "cifar", "imagenet"])
def test_round_trip_rebuilds_the_identical_module(load_space, random_paths, name, seed):
    space = load_space(name)
    architecture = Architecture(space, random_paths(space, seed), f"net {seed}")
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert again.to_json() == architecture.to_json()
    ours, theirs = Network(architecture, seed=1), Network(again, seed=1)
    assert str(ours) == str(theirs)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    images = torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(ours(images), theirs(images))  # train mode, then with the statistics that it left
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_the_file_states_paths_by_name_fixed_edges_included(architecture):
    record = json.loads(architecture.to_json([{"metric": "latency", "value": 1.5, "unit": "ms"}]))
    assert record["format"] == "proxylessnas/architecture@1"
    assert record["name"] == "mine"
    assert len(record["paths"]) == len(architecture.space.edges)
    assert record["paths"][2] == "mbconv_k3_e3_se"
    assert record["predicted"] == [{"metric": "latency", "value": 1.5, "unit": "ms"}]
    c = architecture.space.complexity(architecture.paths)
    assert record["complexity"] == {"params": c.params, "macs": c.macs}


def test_a_predicted_latency_in_the_file_does_not_change_the_network(architecture):
    assert Architecture.from_json(architecture.to_json([{"metric": "macs", "value": 3}])) == architecture


def test_an_architecture_from_names_has_the_paths_of_these_names(load_space, random_paths):
    space = load_space("imagenet")
    for seed in range(5):
        a = Architecture(space, random_paths(space, seed))
        assert Architecture.from_names(space, a.names) == a
        assert len(a.layers) == len(space.edges) + 3


def test_an_architecture_is_immutable_and_paths_that_do_not_fit_are_refused(architecture):
    with pytest.raises(AttributeError):
        architecture.paths = ()
    with pytest.raises(ValueError, match="paths"):
        Architecture(architecture.space, architecture.paths[1:])


def test_paths_of_any_kind_of_sequence_become_a_tuple(architecture):
    space, paths = architecture.space, architecture.paths
    for given in (list(paths), np.array(paths), torch.tensor(paths), iter(paths), map(np.int64, paths)):
        made = Architecture(space, given, architecture.name)
        assert made == architecture
        assert hash(made) == hash(architecture)
        assert made.to_json() == architecture.to_json()
    for wrong in (architecture.names, "000", None, 3, [0.0] * len(paths), np.zeros(len(paths))):
        with pytest.raises(InvalidError, match=r"^paths: got .*, expected a whole number for each"):
            Architecture(space, wrong)
    with pytest.raises(InvalidError, match=r"^space: got a value of type SpaceConfig, expected a Space$"):
        Architecture(space.config, paths)


def without(key: str):
    return lambda record: record.pop(key)


def put(value: object, *keys: str | int):
    def change(record: dict) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("proxylessnas/architecture@2", "format"), r"format: got 'proxylessnas/architecture@2', expected '.*@1'"),
        (without("format"), r"format: got None"),
        (put(1, "latency"), r"unknown key 'latency', expected .*paths"),
        (without("paths"), r"'paths' is missing"),
        (without("space"), r"'space' is missing"),
        (put("skip", "paths"), r"paths: expected a list"),
        (put(3, "paths", 0), r"paths: expected a list of candidate names"),
        (put(None, "paths"), r"paths: expected a list of candidate names"),
        (put(["skip"], "paths"), r"paths: got 1 names, expected 7"),
        (put("mbconv_k9_e9", "paths", 3), r"paths: edge stage2\.0 has no candidate 'mbconv_k9_e9', expected conv_k3, "),
        (put("skip", "paths", 2), r"paths: edge stage1\.0 has no candidate 'skip'"),
        (put(1, "complexity", "macs"), r"complexity: the file states .*'macs': 1.*compute to params \d+, macs \d+"),
        (put(1, "complexity", "params"), r"complexity: the file states .*'params': 1\b"),
        (put({}, "complexity"), r"complexity: the file states"),
        (put(None, "complexity"), r"complexity: the file states"),
        (put(["conv_k1"] * 7, "paths"), r"paths: edge stage0\.0 has no candidate 'conv_k1'"),
        (put(6, "space", "classes"), r"complexity: the file states"),  # the paths fit, the numbers do not
        (put(1, "space", "classes"), r"space\.classes: "),
        (put("relu7", "space", "activation"), r"space\.activation: "),
        (put(1, "space", "depth"), r"space\.depth: "),
        (put(["nothing"], "space", "stages", 1, "candidates"), r"space: stages\.1\.candidates: unknown candidate"),
        (put(None, "space"), r"space: "),
        (
            put(["no/such/file.py"], "space", "candidate_modules"),
            r"space\.candidate_modules: the file would run 'no/such/file\.py'",
        ),
        (put("x" * 10**6, "space", "stages", 0, "candidates", 0), r"unknown candidate 'xxx"),
    ],
)
def test_an_architecture_file_with_a_wrong_key_is_refused_with_that_key(architecture, change, message):
    record = json.loads(architecture.to_json())
    change(record)
    with pytest.raises(ValueError, match=message):
        Architecture.from_json(json.dumps(record))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{'a': 1}", "not JSON"),
        ("[]", "format: got 'list'"),
        ("3", "format"),
    ],
)
def test_a_text_that_is_no_architecture_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_json(text)


@pytest.mark.parametrize("value", [Path("architecture.json"), {"format": 1}, None])
def test_what_is_no_text_is_refused_by_its_type(value):
    with pytest.raises(
        InvalidError, match=r"^got a value of type \w+, expected the text of an architecture\.json; read"
    ):
        Architecture.from_json(value)
    with pytest.raises(
        InvalidError, match=r"^architecture: got a value of type \w+, expected an Architecture or a Chain"
    ):
        Network(value)


def test_an_architecture_file_without_complexity_is_read(architecture):
    """A file that is written by hand needs the space and the paths alone."""
    record = json.loads(architecture.to_json())
    short = {key: record[key] for key in ("format", "space", "paths")}
    again = Architecture.from_json(json.dumps(short))
    assert isinstance(again.space, Space)
    assert (again.paths, again.space) == (architecture.paths, architecture.space)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "has too many brackets inside each other"),
        ('{"a": ' * 100_000, "has too many brackets inside each other"),
        ('{"format": NaN}', "not JSON: NaN is not a finite number"),
        ('{"format": -1e999}', "not JSON: -1e999 is not a finite number"),
        ('{"format": 1, "format": 2}', "not JSON: key 'format' is given twice"),
        (f'{{"format": {"1" * 5000}}}', "not JSON: Exceeds the limit"),
        ("", "not JSON: Expecting value"),
    ],
)
def test_json_with_double_keys_or_numbers_that_are_not_finite_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        Architecture.from_json(text)


def test_a_space_that_would_fill_the_memory_is_refused(architecture):
    record = json.loads(architecture.to_json())
    record["space"]["stages"][0]["depth"] = 10**9
    with pytest.raises(ValueError, match=r"space\.stages\.0\.depth: Input should be less than or equal to 10000"):
        Architecture.from_json(json.dumps(record))
