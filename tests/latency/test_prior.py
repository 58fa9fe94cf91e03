"""Tables fitted to few networks with a prior: identities for few and many timings, and priors that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from latency.build import occurrences, predicted_ms
from latency.config import MeasureConfig
from latency.device import Device
from latency.fit import Fit, fit_table
from latency.importers import import_table
from latency.plan import Paths, network_job, timed_layers
from latency.prior import Prior, PriorError, macs_prior, predicted_alone, read_prior, table_prior
from latency.summary import print_fit
from latency.table import Entry, LatencyTable, TableError, UsedRuntime
from supernet.architecture import Architecture
from supernet.cost import Cost
from supernet.space import Space

DEVICE = Device(kind="phone", name="new phone", fingerprint="f")


@pytest.fixture
def space(space_of) -> Space:
    """6 searchable edges, 27 entries; the second and third edge of a stage share their keys."""
    ops = [f"mbconv_k{k}_e{e}" for k in (3, 5, 7) for e in (3, 6)]
    stages = [{"width": w, "depth": 3, "stride": 2, "candidates": [*ops, "skip"]} for w in (16, 24)]
    return space_of({"input_size": 64, "stem": {"width": 16}, "stages": stages, "feature_mix": 160})


def random_networks(space: Space, count: int, seed: int) -> list[Paths]:
    """Returns distinct random networks."""
    rng, networks = np.random.default_rng(seed), {}
    while len(networks) < count:
        networks[tuple(int(rng.integers(size)) for size in space.mask.sum(axis=1))] = None
    return list(networks)


def jobs_of(space: Space, networks):
    return [network_job(space, f"n{i}", "calibration", paths) for i, paths in enumerate(networks)]


def some_prior(space: Space, seed: int, **changes) -> Prior:
    """Entries that have nothing to do with their shapes."""
    entries = np.random.default_rng(seed).uniform(0.5, 2.0, len(timed_layers(space)))
    return Prior("p.yaml", entries, **({"device": "old phone"} | changes))


def sums(space: Space, prior: Prior, networks) -> np.ndarray:
    counts = occurrences(jobs_of(space, networks), [str(layer) for layer in timed_layers(space)])
    return prior.constant + counts @ prior.entries


def fitted(space: Space, networks, ms, prior: Prior | None) -> Fit:
    runtime = UsedRuntime(name="x", version="1")
    return fit_table(
        space,
        MeasureConfig(device="external"),
        list(zip(networks, ms.tolist(), strict=True)),
        device=DEVICE,
        runtime=runtime,
        source="t.csv",
        prior=prior,
    )


# ---- identities ----


def test_timings_that_are_multiples_of_the_prior_give_the_scaled_prior(space):
    """12 networks determine 27 entries: predictions of all other networks are the scaled sums of the prior, even with
    ops that none of the 12 holds."""
    prior = some_prior(space, 0, constant=3.0)
    networks = random_networks(space, 12, 1)
    fit = fitted(space, networks, 7.0 * sums(space, prior, networks), prior)
    assert fit.identified.unseen
    assert fit.table.calibration.prior.scale == pytest.approx(7.0)
    fresh = random_networks(space, 200, 2)
    np.testing.assert_allclose(
        predicted_ms(fit.table, jobs_of(space, fresh)), 7.0 * sums(space, prior, fresh), rtol=1e-3
    )
    without = fitted(space, networks, 7.0 * sums(space, prior, networks), None)
    errors = predicted_ms(without.table, jobs_of(space, fresh)) / (7.0 * sums(space, prior, fresh)) - 1
    assert np.abs(errors).mean() > 0.02


def test_with_many_networks_the_prior_does_not_matter(space):
    truth = some_prior(space, 3, constant=1.0)
    networks, fresh = random_networks(space, 600, 1), random_networks(space, 100, 2)
    ms = sums(space, truth, networks)
    for prior in (None, some_prior(space, 4), macs_prior(space)):
        fit = fitted(space, networks, ms, prior)
        np.testing.assert_allclose(predicted_ms(fit.table, jobs_of(space, fresh)), sums(space, truth, fresh), rtol=2e-3)


@pytest.mark.parametrize("scale", [1e-6, 1e9])
def test_the_unit_of_the_prior_does_not_matter(space, scale):
    truth, prior = some_prior(space, 3), some_prior(space, 3, constant=2.0)
    prior = Prior("p.yaml", prior.entries * np.random.default_rng(0).uniform(0.8, 1.2, len(prior.entries)), 2.0)
    scaled = Prior("p.yaml", scale * prior.entries, scale * prior.constant)
    networks = random_networks(space, 25, 1)
    one, other = (fitted(space, networks, sums(space, truth, networks), p).table for p in (prior, scaled))
    for key, entry in one.entries.items():
        assert other.entries[key].ms == pytest.approx(entry.ms, rel=1e-6, abs=1e-9)
    assert other.constant_ms == pytest.approx(one.constant_ms, rel=1e-6)
    assert other.calibration.prior.scale == pytest.approx(one.calibration.prior.scale / scale)


def test_an_entry_of_0_ms_in_the_prior_can_become_more(space):
    """A linear model gives the cheapest op of an edge 0 ms."""
    prior, truth = some_prior(space, 0), some_prior(space, 0)
    k = timed_layers(space).index(space.edges[1].layers[0])
    prior.entries[k] = 0.0
    networks = random_networks(space, 300, 1)
    fit = fitted(space, networks, sums(space, truth, networks), prior)
    entry = list(fit.table.entries.values())[k]
    assert entry.median_ms < 1e-5
    assert entry.ms == pytest.approx(truth.entries[k], rel=0.02)


def test_the_table_holds_the_scaled_prior_beside_the_fitted_entries(space, tmp_path):
    prior = some_prior(space, 0, sha256="abc")
    networks = random_networks(space, 30, 1)
    table = fitted(space, networks, 2.0 * sums(space, prior, networks), prior).table
    medians = [entry.median_ms for entry in table.entries.values()]
    np.testing.assert_allclose(medians, 2.0 * prior.entries, rtol=1e-9)
    table.save(tmp_path / "t.yaml")
    read = LatencyTable.load(tmp_path / "t.yaml").calibration.prior
    assert (read.source, read.device, read.sha256, read.scale) == ("p.yaml", "old phone", "abc", 2.0)
    assert "prior: the table of old phone (p.yaml)" in table.how
    assert "prior" not in fitted(space, networks, sums(space, prior, networks), None).table.how


def test_predictions_by_the_prior_alone_are_a_line_through_its_sums(space):
    """The line of each network is fitted to the others: if the times are on a line, predictions are exact."""
    prior = some_prior(space, 0)
    networks = random_networks(space, 30, 1)
    counts = occurrences(jobs_of(space, networks), [str(layer) for layer in timed_layers(space)])
    measured = 5.0 + 0.3 * sums(space, prior, networks)
    np.testing.assert_allclose(predicted_alone(prior, counts, measured, 0), measured, rtol=1e-9)


# ---- which prior ----


def test_macs_are_those_of_the_layers(space):
    prior = macs_prior(space)
    for layer, entry in zip(timed_layers(space), prior.entries, strict=True):
        assert entry == layer.complexity.macs
    assert str(prior) == "MACs"


def test_entries_of_single_edges_count_as_their_mean(space, formula_table):
    """The mean is over the edges of the space that have the layer, not over others in the table."""
    table = formula_table(space)
    layer = space.edges[1].layers[0]
    assert layer == space.edges[2].layers[0]
    own = {f"{layer} @{space.edges[1].name}": Entry(median_ms=100.0)}
    prior = table_prior(table.model_copy(update={"entries": table.entries | own}), space, "p.yaml")
    expected = (100.0 + table.price(layer)) / 2
    assert prior.entries[timed_layers(space).index(layer)] == pytest.approx(expected)
    others = [table.price(other) for other in timed_layers(space) if other != layer]
    assert sorted([*others, expected]) == pytest.approx(sorted(prior.entries))
    assert (prior.source, prior.device, prior.sha256 is None) == ("p.yaml", "formula", False)


def test_calibrated_milliseconds_count(space, formula_table):
    networks = random_networks(space, 30, 1)
    table = fitted(space, networks, sums(space, some_prior(space, 0), networks), None).table
    prior = table_prior(table, space, "p.yaml")
    assert prior.entries.tolist() == [entry.calibrated_ms for entry in table.entries.values()]
    assert prior.constant == table.constant_ms


def test_a_prior_that_lacks_an_op_is_refused(space, formula_table):
    table = formula_table(space)
    key = str(space.edges[1].layers[3])
    entries = {k: entry for k, entry in table.entries.items() if k != key}
    with pytest.raises(
        PriorError, match=rf"^--prior p.yaml: has 26 of the 27 ops .* '{key.replace('+', '.')}'.*complete"
    ):
        table_prior(table.model_copy(update={"entries": entries}), space, "p.yaml")


def test_a_prior_of_another_space_is_refused(space, space_of, formula_table):
    section = space.config.model_dump(mode="json")
    other = space_of(section | {"input_size": 32})
    with pytest.raises(PriorError, match=r"^--prior p.yaml: has 0 of the 27 ops .* it is of another space"):
        table_prior(formula_table(other), space, "p.yaml")


def test_a_prior_of_zeros_and_one_with_negative_networks_are_refused(space, formula_table):
    zeros = formula_table(space, price=lambda layer: 0.0).model_copy(update={"constant_ms": 1.0})
    with pytest.raises(PriorError, match="all its entries are 0 ms"):
        table_prior(zeros, space, "p.yaml")
    with pytest.raises(TableError, match="constant_ms is -1e"):
        table_prior(formula_table(space).model_copy(update={"constant_ms": -1e6}), space, "p.yaml")


def test_a_prior_that_explains_nothing_is_refused(space):
    """By this prior, the slower networks are faster."""
    truth = some_prior(space, 0)
    networks = random_networks(space, 30, 1)
    ms = 3.0 * sums(space, truth, networks)
    counts = occurrences(jobs_of(space, networks), [str(layer) for layer in timed_layers(space)])
    against = Prior("q.yaml", np.linalg.pinv(counts) @ (2 * ms.mean() - ms))
    assert np.corrcoef(sums(space, against, networks), ms)[0, 1] < -0.99
    with pytest.raises(
        PriorError, match=r"^--prior q.yaml: explains nothing of these timings: .* one number for all by"
    ):
        fitted(space, networks, ms, against)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, ("no such file", "or the word macs")),
        (lambda text: text.replace("unit: ms", "unit: us"), ("unit: got 'us', expected 'ms'",)),
        (lambda text: "Conv-input:8x8x3-output:4x4x8: {count: 1, mean: 1.0}", ("proxyless-nas import", "unknown key")),
    ],
)
def test_a_file_that_is_no_table_is_one_line(change, words, space, formula_table, tmp_path):
    path = tmp_path / "p.yaml"
    if change:
        formula_table(space).save(path)
        path.write_text(change(path.read_text()))
    with pytest.raises(PriorError) as refused:
        read_prior(path, space)
    for word in ("--prior", "p.yaml", *words):
        assert word in str(refused.value)


# ---- what is printed ----


def test_the_report_names_what_the_prior_decides(space, capsys):
    prior = some_prior(space, 0)
    networks = random_networks(space, 12, 1)
    ms = 1.5 * sums(space, prior, networks)
    print_fit(fitted(space, networks, ms, prior), Path("t.yaml"))
    said = " ".join(capsys.readouterr().out.split())
    assert "the prior alone, scaled, misses them by 0.0 %; the networks take 1.5 times as long as on old phone" in said
    assert "their milliseconds are the prior, scaled and moved as ops like them" in said
    assert "the prior decides the rest" in said
    assert "in milliseconds?" not in said
    print_fit(fitted(space, networks, 1e3 * ms, prior), Path("t.yaml"))
    said = capsys.readouterr().out
    assert "1.5e+03 times as long as on old phone: are the timings and that table in milliseconds?" in said
    print_fit(fitted(space, networks, ms, None), Path("t.yaml"))
    said = capsys.readouterr().out
    assert "prior" not in said
    assert "a guess from shapes decides the rest" in said


@pytest.fixture
def files(space, write_yaml, tmp_path) -> tuple[Path, Path]:
    """Writes a config and timings of 20 networks."""
    prior = Prior("", some_prior(space, 0).entries + macs_prior(space).entries / 1e5)
    networks = random_networks(space, 20, 1)
    lines = [
        f"{' '.join(Architecture(space, paths).names)},{ms}"
        for paths, ms in zip(networks, sums(space, prior, networks), strict=True)
    ]
    timings = tmp_path / "t.csv"
    timings.write_text("\n".join(["architecture,ms", *lines]))
    config = write_yaml(tmp_path / "c.yaml", {"space": space.config.model_dump(mode="json")})
    return config, timings


def test_the_script_takes_a_table_or_macs(files, space, door, formula_table, tmp_path):
    config, timings = files
    table = formula_table(space, price=lambda layer: 1.0 + layer.complexity.macs / 1e5)
    table.save(tmp_path / "p.yaml")
    for prior, device in ((tmp_path / "p.yaml", "formula"), ("macs", None)):
        ended = door("fit_latency", config, timings, "--prior", prior, "--out", tmp_path / "out.yaml")
        assert ended.status in (0, 3), ended.err
        used = LatencyTable.load(tmp_path / "out.yaml").calibration.prior
        assert (used.source, used.device) == (str(prior), device)
        assert "the prior alone, scaled, misses them by" in ended.out


# ---- phones ----


@pytest.mark.parametrize(("new", "old"), [("mobile_trim", "pixel_trim"), ("pixel_trim", "mobile_trim")])
def test_30_networks_and_another_phones_table_rank_the_networks_of_a_phone(new, old, shared_data, imagenet_space):
    """Networks of the ImageNet space, uniformly random, whose milliseconds are sums of a published table times noise of
    2 %: mean Spearman of held-out networks' sums over 3 draws."""
    folder = shared_data / "latency_tables"
    if not (folder / f"{new}.yaml").exists():
        pytest.skip("no latency_tables in `shared/data` beside the checkout")
    table, other = (import_table(folder / f"{name}.yaml", device_name=name).table for name in (new, old))
    cost = Cost.of_space(imagenet_space, table.price)
    correlations = []
    for seed in range(100, 103):
        networks = random_networks(imagenet_space, 330, seed)
        rng = np.random.default_rng(seed)
        timed, fresh = networks[:30], networks[30:]
        ms = np.array([cost.of(paths) for paths in timed]) * np.exp(0.02 * rng.normal(size=30))
        fit = fitted(imagenet_space, timed, ms, table_prior(other, imagenet_space, "old.yaml"))
        predicted = predicted_ms(fit.table, jobs_of(imagenet_space, fresh))
        correlations.append(spearmanr(predicted, [cost.of(paths) for paths in fresh]).statistic)
    assert np.mean(correlations) >= 0.97, correlations


@pytest.fixture(scope="module")
def imagenet_space(checkout, space_of) -> Space:
    from engine.config import load_config

    return space_of(load_config(checkout / "configs" / "latency" / "imagenet_cpu.yaml")["space"])
