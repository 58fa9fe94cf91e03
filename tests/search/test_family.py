"""Tests architectures for several bounds from one search: scores, the front, and bounds that cannot be met."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import search.many.family
import search.scoring
from engine.data import Batch
from engine.errors import ConfigError
from engine.quantities import quantity
from engine.runs.checkpoints import Checkpoints
from search.config import SearchConfig
from search.derive.derivation import InfeasibleError, meets, smallest
from search.learn.regression import Evidence, fit
from search.loop import run_search
from search.many.family import MOST_BOUNDS, derive_family, expand_bounds
from search.result import load_result
from supernet.alpha import Alpha
from supernet.architecture import Architecture
from supernet.space import Space, SpaceConfig
from supernet.supernet import Supernet


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished search under a limit on MACs and one on parameters, and its result."""
    names = ["mbconv_k3_e1", "mbconv_k3_e2", "skip"]
    space = {
        "input_size": 8,
        "input_channels": 1,
        "classes": 4,
        "stem": {"kernel": 3, "stride": 1, "width": 4},
        "stages": [
            {"width": 4, "depth": 2, "candidates": names},
            {"width": 8, "depth": 2, "stride": 2, "candidates": ["mbconv_k3_e1", "conv_k3", "skip"]},
        ],
        "feature_mix": 8,
        "dropout": 0.2,
    }
    config = {
        "space": space,
        "data": {"name": "fake", "fake_images": 80, "fake_classes": 4, "validation": 0.4},
        "limits": [{"metric": "macs", "at": "50%", "tolerance": 0.1}, {"metric": "params", "below": "80%"}],
        "search": {
            "warmup_epochs": 1,
            "epochs": 3,
            "batch_size": 8,
            "arch_every": 2,
            "bn_batches": 2,
            "regression": {"final_steps": 5},
        },
        "run": {"seed": 3, "threads": 1, "checkpoint_every": 3},
    }
    folder = tmp_path_factory.mktemp("family")
    (folder / "search.yaml").write_text(yaml.safe_dump(config))
    return folder / "run", run_search(folder / "search.yaml", folder / "run")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def scored_networks(monkeypatch):
    """The paths of each network that is scored from here on."""
    paths, real = [], search.many.family.score
    monkeypatch.setattr(search.many.family, "score", lambda net, a, *more: paths.append(a.paths) or real(net, a, *more))
    return paths


def test_the_score_is_the_one_that_the_run_wrote_at_its_last_step(run, finished):
    """Both come from the same weights, BN batches and images: they are equal bit for bit, in the result and in the
    curves."""
    (member,) = derive_family(run)
    assert member.architecture.paths == finished[1].architecture.paths
    assert member.accuracy == finished[1].accuracy
    result = load_result(run)
    assert (member.accuracy.top1, member.accuracy.loss) == (result.top1, result.loss)
    assert not (run / "pareto.json").exists()  # a family of other bounds keeps its files


def test_a_regression_is_derived_from_before_its_projection(run, finished, monkeypatch):
    """The search itself does so. The projection would tilt by the limit's costs, on which networks of one bound
    agree."""
    wanted, real = [], search.many.family.derive
    monkeypatch.setattr(search.many.family, "derive", lambda alpha, *more: wanted.append(alpha) or real(alpha, *more))
    derive_family(run, scored=False)
    state = Checkpoints(run / "checkpoints").newest()[1]["search"]
    like = Alpha.of_space(finished[1].architecture.space)
    assert torch.equal(wanted[0].values, fit(Evidence(**state["evidence"]), like.mask, like.alike).alpha())
    assert not torch.equal(wanted[0].values.float(), state["alpha"])
    derive_family(run, method="argmax", scored=False)  # which looks at no limit, so the tilt has to
    assert torch.equal(wanted[1].values, state["alpha"])


def test_the_score_is_that_of_the_last_point_of_the_curves(run, finished):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if "derived/loss" in record][-1]
    assert (last["step"], last["derived/loss"]) == (25, finished[1].accuracy.loss)


def test_a_stopped_run_has_the_score_of_its_own_step(run, finished):
    """The checkpoint of step 21 gives what a search that had ended there would have written."""
    newest, before = Checkpoints(run / "checkpoints").steps()
    assert (newest, before) == (24, 21)
    own = derive_family(run)
    next((run / "checkpoints").glob("step-000000024-*")).unlink()
    earlier = derive_family(run)
    assert (own.step, earlier.step) == (24, 21)
    assert earlier.members[0].accuracy.loss != own.members[0].accuracy.loss


def test_scoring_leaves_the_run_as_it_was(run):
    def files():
        kept = (path for path in run.rglob("*") if path.is_file() and not path.name.startswith("architecture"))
        return {str(path.relative_to(run)): path.read_bytes() for path in kept}

    before = files()
    derive_family(run)
    assert files() == before
    derive_family(run, ["20%", "50%"])
    after = files()
    assert after.pop("pareto.png")[:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads(after.pop("pareto.json"))["step"] == 24
    assert after == before


def test_statistics_come_from_the_training_part_and_scores_from_the_validation_part(run, monkeypatch):
    """The very images: those that the search itself has used, in the same order."""
    seen: dict[str, list[torch.Tensor]] = {"statistics": [], "scores": []}
    real = {"statistics": search.scoring.statistics_batches, "scores": search.scoring.evaluation_batches}

    def watched(kind):
        def batches(*args, **settings):
            for batch in real[kind](*args, **settings):
                seen[kind].append(batch.images.clone())
                yield Batch(*batch)

        return batches

    monkeypatch.setattr(search.scoring, "statistics_batches", watched("statistics"))
    monkeypatch.setattr(search.scoring, "evaluation_batches", watched("scores"))
    derive_family(run)
    by_family = {kind: torch.cat(images) for kind, images in seen.items()}
    for images in seen.values():
        images.clear()
    run_search(run / "config.yaml", run.parent / "again", overrides=["search.epochs=1"])
    by_search = {kind: torch.cat(images)[: len(by_family[kind])] for kind, images in seen.items()}
    assert len(by_family["statistics"]) == 16
    assert len(by_family["scores"]) == 32
    pairs = itertools.product(by_family["statistics"], by_family["scores"])
    assert not any(torch.equal(a, b) for a, b in pairs)  # the parts are disjoint
    for kind, images in by_family.items():
        torch.testing.assert_close(images, by_search[kind], rtol=0, atol=0)


def test_each_member_is_the_likeliest_below_its_bound(run):
    """The test compares it with every architecture of the space."""
    family = derive_family(run, ["10%..90%x5"], scored=False)
    assert [m.asked for m in family] == ["10%", "30%", "50%", "70%", "90%"]
    space = family.members[0].architecture.space
    log_p = log_wanted(run, space)
    everything = list(itertools.product(*map(range, space.mask.sum(axis=1))))
    for member in family:
        allowed = [paths for paths in everything if meets(paths, member.limits)]
        if not allowed:  # an empty `at` window: the lower side is dropped, and a note says so
            assert "no architecture lies in" in member.derivation.notes[0]
            continue
        best = max(sum(log_p[e, i] for e, i in enumerate(paths)) for paths in allowed)
        assert member.derivation.log_probability == pytest.approx(best, abs=1e-9)


def log_wanted(run, space):
    """Returns the log probabilities (E, N) that a derivation from the newest checkpoint maximises."""
    evidence = Checkpoints(run / "checkpoints").newest()[1]["search"]["evidence"]
    like = Alpha.of_space(space)
    return like.with_values(fit(Evidence(**evidence), like.mask, like.alike).alpha()).log_probabilities().numpy()


def test_pareto_json_lists_each_member_with_its_file(run):
    family = derive_family(run, ["10%..90%x5"])
    record = json.loads((run / "pareto.json").read_text())
    assert (record["format"], record["step"], record["refused"]) == ("proxylessnas/pareto@1", 24, [])
    assert len(record["members"]) == len(family) == 5
    for member, m in zip(family, record["members"], strict=True):
        loaded = Architecture.from_json((run / m["file"]).read_text())
        assert loaded.paths == member.architecture.paths
        assert m["paths"] == list(loaded.names)
        assert m["predicted"] == json.loads((run / m["file"]).read_text())["predicted"]
        assert m["predicted"][0]["at"] == member.limits[0].bound
        assert m["complexity"] == {"params": loaded.complexity.params, "macs": loaded.complexity.macs}
        scored = (member.accuracy.top1, member.accuracy.top5, member.accuracy.loss, 32)
        assert (m["top1"], m["top5"], m["loss"], m["images"]) == scored
        costs_less = [o for o in record["members"] if o["predicted"][0]["value"] <= m["predicted"][0]["value"]]
        best = max(o["top1"] for o in costs_less)
        cheapest = min(o["predicted"][0]["value"] for o in record["members"] if o["top1"] >= m["top1"])
        assert m["on_front"] == (m["top1"] == best and m["predicted"][0]["value"] == cheapest)
    assert {m["on_front"] for m in record["members"]} == {True, False}


def test_a_bound_on_macs_may_be_in_thousands(run):
    low, high = derive_family(run, scored=False).members[0].limits[0].cost.reachable
    assert 1000 < low < 10_000 < high  # so that one such bound is in reach
    one, ten = f"{high / 1000:.15g}k", f"10k..{high / 1000:.15g} kx2"
    assert [member.asked for member in derive_family(run, [one], scored=False)] == [f"{high:.15g}"]
    assert [member.asked for member in derive_family(run, [ten], scored=False)] == ["10000", f"{high:.10g}"]
    with pytest.raises(ConfigError, match="--at: got '1e3k'"):
        derive_family(run, ["1e3k"], scored=False)


def test_a_network_of_several_bounds_is_scored_once(run, scored_networks):
    family = derive_family(run, ["100%", "99.999%", "100 %", "50%"])
    assert [m.asked for m in family] == ["100 %", "99.999%", "50%"]  # the same bound twice is one
    first, second, other = family
    assert first.architecture.paths == second.architecture.paths != other.architecture.paths
    assert scored_networks == [first.architecture.paths, other.architecture.paths]
    assert first.accuracy == second.accuracy
    assert first.path != second.path
    assert second.path.exists()


def test_without_scores_no_data_are_opened(run, monkeypatch):
    def fails(*_, **__):
        raise ConfigError("data.root: no folder")

    monkeypatch.setattr(search.scoring, "open_images_for", fails)
    with pytest.raises(ConfigError, match=r"data\.root: no folder; here: --device cpu, or --no-score"):
        derive_family(run, ["30%"])
    assert not (run / "architecture-30percent.json").exists()
    family = derive_family(run, ["30%"], scored=False)
    assert (family.members[0].accuracy, family.members[0].on_front) == (None, None)
    assert (run / "architecture-30percent.json").exists()
    assert not (run / "pareto.json").exists()


def test_bounds_that_no_architecture_meets_are_named_and_the_others_derived(run, door):
    low, high = derive_family(run, scored=False).members[0].limits[0].cost.reachable
    ended = door("derive", run, "--at", f"{high * 2:.0f}", "60%", f"{low / 2:.0f}")
    assert ended.status == 2
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    asked = [quantity(high * 2, "MACs") in lines[0], quantity(float(f"{low / 2:.0f}"), "MACs") in lines[1], len(lines)]
    assert asked == [True, True, 2]
    reach = f"architectures of this space reach {quantity(low, 'MACs')} to {quantity(high, 'MACs')}"
    assert all(reach in line for line in lines)
    record = json.loads((run / "pareto.json").read_text())
    assert [m["asked"] for m in record["members"]] == ["60%"]
    assert [f"error: {line}" for line in record["refused"]] == lines
    assert f"60%: {run / 'architecture-60percent.json'}" in ended.out.splitlines()


def test_a_bound_that_only_the_other_limits_forbid_is_refused_with_the_smallest_that_they_allow(
    tmp_path, tiny_search, space_of, formula_table, monkeypatch
):
    """A table in which fewer parameters take longer: few of both at once there are none."""
    names = ["mbconv_k3_e1", "mbconv_k5_e3", "conv_k1"]
    section = tiny_search["space"] | {"stages": [{"width": 8, "depth": 3, "candidates": names}]}
    monkeypatch.chdir(tmp_path)
    space = space_of(section)
    formula_table(space, price=lambda layer: 100 - layer.complexity.params / 100).save(tmp_path / "table.yaml")
    limits = [*tiny_search["limits"], {"metric": "params", "below": "40%"}]
    config = tiny_search | {"space": section, "limits": limits}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    overrides = ["limits.0.at=90%", "search.regression.final_steps=5"]
    run_search(tmp_path / "search.yaml", tmp_path / "run", overrides=overrides)
    family = derive_family(tmp_path / "run", ["0%", "100%"], scored=False)
    assert [m.asked for m in family] == ["100%"]
    latency, params = family.members[0].limits
    everything = itertools.product(*map(range, space.mask.sum(axis=1)))
    least = min(latency.cost.of(paths) for paths in everything if params.cost.of(paths) <= params.bound)
    assert least > latency.cost.reachable[0]
    (line,) = family.refused
    assert line.startswith("--at 0%: no architecture with latency up to ")
    assert line.endswith(f"the smallest that does has {least:.6g} ms")
    with pytest.raises(InfeasibleError):
        smallest(latency, [replace(params, bound=1.0)])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["30", "35%", "40"], ["30", "35%", "40"]),
        (["10%..90%x9"], [f"{p}%" for p in range(10, 100, 10)]),
        (["10.5..20.5x3"], ["10.5", "15.5", "20.5"]),
        (["0%..1%x4"], ["0%", "0.3333333333%", "0.6666666667%", "1%"]),
        (["50%", "40% .. 60% x3", "2e1..4e1x2"], ["50%", "40%", "60%", "20", "40"]),
    ],
)
def test_ranges_are_written_out_and_no_bound_comes_twice(texts, expected):
    assert expand_bounds(texts, "ms") == expected


REFUSED = ["fast", "150%", "10%..90%", "10..90%x3", "10%..90%x1", "10%..150%x3", "..x3", "-5", "nan", "1e999", "٣٠%"]
REFUSED += ["10%..90%x0", "10%..90%x99999", f"1..2x{'9' * 40}", "90%..10%x9", "50%..50%x2", "1..1e999x3", "nan..90%x3"]


@pytest.mark.parametrize("text", REFUSED)
def test_a_text_that_is_no_bound_is_refused_before_anything_is_derived(text, run):
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(ConfigError) as error:
        derive_family(run, ["30%", text])
    assert str(error.value).startswith(f"--at: got '{text}', expected ")
    assert sorted(path.name for path in run.iterdir()) == before


def test_each_derivation_and_scoring_of_a_family_is_reported(run):
    reports = []
    derive_family(run, ["20%", "100%"], report=lambda *call: reports.append(call))
    assert reports[:2] == [("deriving 1 of 2", 0, 0), ("deriving 2 of 2", 0, 0)]
    assert reports[2:] == [("scoring the derived networks", done, 2) for done in range(3)]


def test_the_number_of_bounds_and_the_length_of_a_message_are_limited():
    """10%..90%x99999 took hours; each bound is derived and scored."""
    assert len(expand_bounds(["10%..90%x1000"], "ms")) == MOST_BOUNDS == 1000
    with pytest.raises(ConfigError, match=r"^--at: names more than 1000 bounds; give fewer"):
        expand_bounds(["10%..90%x600", "10..90x600"], "ms")
    with pytest.raises(ConfigError) as error:
        expand_bounds(["9" * 1_000_000], "ms")
    assert len(str(error.value)) < 300


def test_scores_on_a_cpu_do_not_use_the_amp_of_a_gpu_run(run):
    """A run on a GPU with bf16, scored on the CPU: its own config stays, and no amp is used."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["run"] |= {"device": "cuda", "amp": "bf16"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    on_cpu = derive_family(run, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"run\.device: got 'cuda'.*; here: --device cpu"):
            derive_family(run)
    config["run"] |= {"device": "cpu", "amp": "none"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert on_cpu.members[0].accuracy == derive_family(run).members[0].accuracy


# --- another device, the same supernet -------------------------------------------------------------------------------


def test_a_table_gives_each_device_its_own_network(run, make_table, tmp_path, monkeypatch, caplog):
    """The likeliest network under this table's bound and the run's other limits; scored with the same supernet."""
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    space = Space(SpaceConfig.model_validate(config["space"], strict=False))
    cost = make_table(space, tmp_path / "phone.yaml").cost(space)
    family = derive_family(run, ["30%", "70%"], table=Path("phone.yaml"))
    assert any("phone.yaml" in message and "verif" in message for message in caplog.messages)  # as a search would say
    assert [m.path.name for m in family] == [f"architecture-phone-{n}percent.json" for n in (30, 70)]
    assert json.loads((run / "pareto-phone.json").read_text())["members"][0]["predicted"][0]["table"] == "phone.yaml"
    assert not (run / "pareto.json").exists()
    log_p = log_wanted(run, space)
    for member in family:
        latency, macs, params = member.limits
        assert (latency.metric, macs.metric, params.metric) == ("latency", "macs", "params")
        paths = member.architecture.paths
        assert latency.cost.of(paths) == pytest.approx(cost.of(paths))
        allowed = [p for p in itertools.product(*map(range, space.mask.sum(axis=1))) if meets(p, member.limits)]
        if allowed:
            assert member.derivation.log_probability == pytest.approx(
                max(sum(log_p[e, i] for e, i in enumerate(p)) for p in allowed), abs=1e-9
            )
    with pytest.raises(ConfigError, match=r"--table phone\.yaml: needs --at"):
        derive_family(run, table=Path("phone.yaml"))
    with pytest.raises(ConfigError, match=r"no file nowhere\.yaml"):
        derive_family(run, ["50%"], table=Path("nowhere.yaml"))


def test_a_search_and_its_family_choose_the_same_network_among_the_likeliest(run, finished, tmp_path):
    """With derive_among 50, the loss is the smallest of all that the window allows; brute force over their scores shows
    it."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["search"]["derive_among"] = 50
    (tmp_path / "among.yaml").write_text(yaml.safe_dump(config))
    result = run_search(tmp_path / "among.yaml", tmp_path / "among")
    (member,) = derive_family(tmp_path / "among")
    assert member.architecture.paths == result.architecture.paths
    assert member.accuracy == result.accuracy
    space = result.architecture.space
    everything = itertools.product(*map(range, space.mask.sum(axis=1)))
    allowed = [p for p in everything if meets(p, result.limits)]
    assert 1 < len(allowed) <= 50
    one = {p: _score_of(tmp_path / "among", p) for p in allowed}
    assert min(one.values()) == member.accuracy.loss
    assert len(set(one.values())) > 1
    assert member.derivation.notes == ()
    (likeliest,) = derive_family(tmp_path / "among", scored=False)
    assert "search.derive_among: 50 cannot choose" in likeliest.derivation.notes[-1]


def _score_of(run, paths):
    config = SearchConfig.read(run / "config.yaml")
    training, validation = search.scoring.open_parts(config)
    net = Supernet(Space(config.space))
    net.load_state_dict(Checkpoints(run / "checkpoints").newest()[1]["search"]["net"])
    architecture = Architecture(net.space, paths)
    return search.scoring.score(net, architecture, config, training, validation, torch.device("cpu")).loss


def test_the_home_folder_can_be_written_as_a_tilde(run, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    family = derive_family(Path("~") / run.name, scored=False)
    assert family.members[0].path.parent == run


def test_a_folder_of_a_retraining_is_named_as_no_search(tmp_path):
    (tmp_path / "config.yaml").write_text("data: {name: digits}\nretrain: {epochs: 1}\n")
    with pytest.raises(
        ConfigError, match=r"config\.yaml: has no section `search`, so .* holds no search; expected the"
    ):
        derive_family(tmp_path)
