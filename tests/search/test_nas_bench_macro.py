"""What benchmarks/nas_bench_macro.py computes, on made-up figures, and how it skips."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nas_bench_macro
from bands import Band
from macro_images import chosen
from methods import cost_of, summary
from nas_bench_macro import MacroTruth, plan_of, write_images


@pytest.mark.parametrize(("n", "count"), [(5, 1), (5, 2), (5, 5), (3, 7)])
def test_chances_are_those_of_the_first_of_some_drawn(n, count):
    draws = list(combinations(range(n), min(n, count)))
    expected = [sum(min(draw) == i for draw in draws) / len(draws) for i in range(n)]
    np.testing.assert_allclose(Band.chances(n, count), expected)


def test_errors_are_of_seeds_since_their_targets_share_a_supernet():
    rows = [
        {"method": "default", "seed": seed, "target": target, "percentile": value, "gap": 0.1, "cost": 10}
        for seed, value in ((0, 80.0), (1, 90.0), (2, 100.0))
        for target in (45, 63)
    ]
    figures = summary(rows)
    assert figures["percentile"] == 90.0
    assert figures["percentile_error"] == pytest.approx(10 / 3**0.5)
    assert figures["gap_error"] == 0.0
    assert summary(rows[:2])["percentile_error"] is None


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "cifar" / "train" / name
        folder.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "cifar"


def test_each_seed_has_images_of_its_own_and_keeps_them(images, tmp_path):
    for seed in (0, 1):
        write_images(images, 8, seed, tmp_path / str(seed))
    first, other = (chosen(tmp_path / str(seed)) for seed in (0, 1))
    assert np.bincount(first.train.labels).tolist() == [4, 4]
    assert not np.array_equal(first.train.images, other.train.images)
    write_images(images, 4, 0, tmp_path / "0")
    assert len(chosen(tmp_path / "0").train.labels) == 8


def test_cost_counts_images_through_a_network(tmp_path):
    np.savez(
        tmp_path / "images.npz", images=np.random.default_rng(0).integers(0, 256, (12_000, 32, 32, 3), np.uint8),
        labels=np.arange(12_000) % 10,
        classes=np.array([str(c) for c in range(10)]),
    )  # fmt: skip
    more = ["search.regression={samples: 4, final_steps: 10}", "search.arch_every=5"]
    plan = plan_of(63, 0, "small", "cpu", tmp_path, more)
    assert plan.steps == 20 * 125
    assert cost_of(plan) == {"weights": 3 * 64 * 2500, "alpha": (14 * 125 // 5 + 10) * 4 * 64}


def test_without_images_it_skips_and_says_why(monkeypatch, capsys, tmp_path):
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"networks": {"00000000": [60.0, 0.1, 7e6, 1e5]}}))
    monkeypatch.setattr("sys.argv", ["nas_bench_macro.py", "--truth", str(truth), "--images", str(tmp_path / "no")])
    assert nas_bench_macro.main() == 0
    assert f"skipped: {tmp_path / 'no' / 'train'}" in capsys.readouterr().out


def test_a_network_is_judged_within_its_band():
    truth_file = Path(__file__).resolve().parents[3] / "shared" / "data" / "nas_bench_macro_part.json"
    if not truth_file.exists():
        pytest.skip(f"{truth_file} is absent")
    truth = MacroTruth.load(truth_file)
    band = truth.band(63e6)
    best = int(band.indices[band.accuracies.argmax()])
    judged = truth.judged(band, truth.networks[best])
    assert judged["percentile"] > 99.9  # another may be as good
    assert judged["gap"] == 0.0
    assert ((truth.macs[band.indices] >= 0.9 * 63e6) & (truth.macs[band.indices] <= 63e6)).all()
