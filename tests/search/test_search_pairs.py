"""What benchmarks/search_pairs.py, pair_images.py and truth.py compute; that truth.json is of the space."""

from __future__ import annotations

import json

import numpy as np
import pytest

import search_pairs
from bands import BAND
from engine.errors import UserError
from pair_images import APART, GARMENT, SIZE, SLACK, composed
from search.config import SearchConfig
from search_pairs import CONFIG, RETRAIN, TARGETS, TRUTH, effects, known_networks, spreads
from supernet.space import Space
from truth import Trainings, Truth, alike, all_paths, key


@pytest.fixture(scope="module")
def pairs_space():
    return Space(SearchConfig.read(CONFIG).space)


@pytest.fixture(scope="module")
def short_space(pairs_space):
    """The space with three of its edges: 48 paths, 39 networks."""
    (stage,) = pairs_space.config.stages
    return Space(pairs_space.config.model_copy(update={"stages": (stage.model_copy(update={"depth": 3}),)}))


@pytest.fixture
def trainings(short_space, monkeypatch):
    """Trainings whose accuracies are made up: 50 + 10 seeds + the number of its first candidate."""
    made = []

    def top1(self, paths, seed):
        made.append((paths, seed))
        return 50.0 + 10 * seed + paths[0], 1.0

    monkeypatch.setattr(Trainings, "top1", top1)
    return Trainings(short_space, RETRAIN, ()), made


def test_the_truth_has_every_network_of_the_space(pairs_space):
    truth = Truth.load(TRUTH, pairs_space)
    known = known_networks(truth, pairs_space)
    assert len(known.networks) == len(known.accuracy) == 192
    assert ((truth.top1 > 20) & (truth.top1 <= 100)).all()  # four classes
    accuracy = dict(zip(truth.paths, truth.accuracy, strict=True))
    groups = alike(pairs_space, truth.paths)
    assert len(groups) == 120  # what is left of three edges of three ops: 40 sequences of at most three
    assert all(len({accuracy[paths] for paths in group}) == 1 for group in groups)
    for target, spread in zip(TARGETS, spreads(known, TARGETS), strict=True):
        band = known.band(1e3 * target)
        assert ((known.macs[band.indices] <= 1e3 * target) & (known.macs[band.indices] >= BAND * 1e3 * target)).all()
        assert spread["networks"] >= 10
        best = int(band.indices[band.accuracies.argmax()])
        assert known.judged(band, known.networks[best])["gap"] == 0
        chances = [known.judged(band, known.networks[i])["percentile"] for i in band.indices]
        assert np.mean(chances) == pytest.approx(50)


def test_the_effects_of_an_edge_are_differences_from_the_mean(pairs_space):
    paths = all_paths(pairs_space)
    worth = np.array([0.0, 1.0, 4.0, 9.0])
    truth = Truth(paths, np.array([[worth[p[1]] + 2 * worth[p[3]]] for p in paths]), {})
    found = effects(truth, pairs_space)
    first, second, _, last = found.values()
    assert list(first.values()) == pytest.approx([0, 0, 0])
    np.testing.assert_allclose(list(second.values()), worth - worth.mean())
    np.testing.assert_allclose(list(last.values()), 2 * (worth - worth.mean()))


def test_a_truth_is_made_once_and_goes_on_where_it_stopped(trainings, short_space, tmp_path):
    ours, made = trainings
    file = tmp_path / "truth.json"
    ours.make_truth(file, 1, {"format": "x"})
    record = json.loads(file.read_text())
    assert record["format"] == "x"
    assert len(made) == len(record["seconds"]) == 39
    dropped = key(short_space, all_paths(short_space)[7])
    del record["top1"][dropped]
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match="not complete"):
        Truth.load(file, short_space)
    made.clear()
    ours.make_truth(file, 1, {"format": "y"})
    assert made == [(all_paths(short_space)[7], 0)]
    assert json.loads(file.read_text())["format"] == "x"
    truth = Truth.load(file, short_space)
    assert truth.accuracy.tolist() == [50.0 + paths[0] for paths in truth.paths]


def test_seeds_that_only_some_networks_have_tell_the_noise_and_no_accuracy(pairs_space, tmp_path):
    paths = all_paths(pairs_space)
    top1 = {key(pairs_space, p): [float(i)] for i, p in enumerate(paths)}
    for i, p in enumerate(paths[:50]):
        top1[key(pairs_space, p)].append(i + (2.0 if i % 2 else -2.0))
    file = tmp_path / "truth.json"
    file.write_text(json.dumps({"top1": top1}))
    truth = Truth.load(file, pairs_space)
    assert truth.accuracy.tolist() == list(range(len(paths)))
    assert truth.seed_noise == pytest.approx(2 / 2**0.5)  # of two numbers whose difference is 2
    assert 0.98 < truth.reliability < 1


def test_the_class_is_that_of_the_garment_on_the_left():
    garments = np.stack([np.full((28, 28), 60 * (k + 1), np.uint8) for k in range(4)])
    pictures, labels = composed(garments, np.arange(4), 40, seed=0)
    assert pictures.shape == (40, SIZE, SIZE, 1)
    for picture, label in zip(pictures[..., 0], labels, strict=True):
        columns = np.flatnonzero(picture.any(axis=0))
        assert picture[:, columns[0]].max() == 60 * (label + 1)
        assert APART + GARMENT <= np.ptp(columns) + 1 <= APART + SLACK + GARMENT
    assert np.bincount(labels).tolist() == [10, 10, 10, 10]


def test_without_fashion_mnist_it_skips_and_says_why(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["search_pairs.py", f"data.root={tmp_path}"])
    assert search_pairs.main() == 0
    assert f"skipped: {tmp_path}: found no FashionMNIST" in capsys.readouterr().out
