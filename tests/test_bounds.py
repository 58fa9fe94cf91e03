"""Every number of a configuration has a largest value, so a mistyped one is refused before it is used."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.config import load_config, validate
from retrain.config import RetrainConfig
from search.config import COMPUTED, LimitConfig, SearchConfig
from search.own import own_function
from tests.engine.config_files import message_of

ROOT = Path(__file__).parents[1]
QUICK = ROOT / "configs" / "search" / "quickstart_cpu.yaml"
RETRAIN = ROOT / "configs" / "retrain" / "quickstart.yaml"

CHECKED_OTHERWISE = {
    "limits.at": "must lie in what the space reaches (search/limits/limit.py)",
    "limits.below": "must lie in what the space reaches (search/limits/limit.py)",
    "limits.weights": "a validator, tested below",
    "search.arch_betas": "a validator: in [0, 1)",
    "data.validation": "a validator, tested below",
    "data.test": "a validator: in (0, 1), tests/engine/test_data_parts.py",
    "retrain.validation": "a validator, tests/retrain/test_recipe.py",
    "retrain.augment.sizes": "a validator, tests/retrain/test_recipe.py",
}


def branches(annotation: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """(type, its own metadata) for each type inside an annotation."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *metadata = typing.get_args(annotation)
        for kind, more in branches(inner):
            yield kind, (*metadata, *more)
    elif origin in (typing.Union, types.UnionType, tuple):
        for argument in typing.get_args(annotation):
            yield from branches(argument)
    else:
        yield annotation, ()


def numbers(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(key, whether it has a largest value) for each number of a section and of the sections in it."""
    for name, field in model.model_fields.items():
        for kind, metadata in branches(field.annotation):
            if kind in (int, float):
                yield f"{prefix}{name}", any(map(is_largest, (*field.metadata, *metadata)))
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from numbers(kind, f"{prefix}{name}.")


def is_largest(constraint: Any) -> bool:
    if isinstance(constraint, FieldInfo):
        return any(map(is_largest, constraint.metadata))
    return isinstance(constraint, annotated_types.Le | annotated_types.Lt)


@pytest.mark.parametrize("model", [SearchConfig, RetrainConfig])
def test_every_number_has_a_largest_value(model):
    found = dict(numbers(model))
    assert len(found) > 10
    assert {key for key, bounded in found.items() if not bounded} == CHECKED_OTHERWISE.keys() & found.keys()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.arch_lr=1e300", "search.arch_lr: got 1.0e+300, expected at most 100"),
        ("search.loss={form: hinge, weight: 1e300}", "search.loss.weight: got 1.0e+300, expected at most 1e+06"),
        ("search.warmup_lr=1e300", "search.warmup_lr: got 1.0e+300, expected at most 100"),
        ("search.loss={form: mul_log, power: 1e9}", "search.loss.power: got 1000000000.0, expected at most 100"),
        ("search.entropy={start: .nan}", "search.entropy.start: got .nan, expected a finite number"),
        ("search.entropy={start: -1e300}", "search.entropy.start: got -1.0e+300, expected at least -1e+06"),
        ("search.epochs=1000000000000000000", "expected at most 1000000"),
        ("search.batch_size=1000000000000000000", "expected at most 1048576"),
        ("search.derive_among=1000000000", "search.derive_among: got 1000000000, expected at most 1000"),
        ("search.bn_batches=1000000000", "search.bn_batches: got 1000000000, expected at most"),
        ("search.reinforce.samples=1000000000", "search.reinforce.samples: got 1000000000, expected at most 1000"),
        ("search.regression.samples=1000000000", "search.regression.samples: got 1000000000, expected at most 1000"),
        ("search.regression={memory: 1000000000000}", "search.regression.memory: got 1000000000000, expected at most"),
        (
            "search.regression={final_steps: 1000000000000}",
            "search.regression.final_steps: got 1000000000000, expected",
        ),
        ("space.input_size=1000000000", "space.input_size: got 1000000000, expected at most 8192"),
        ("space.stages.0.depth=1000000000", "space.stages.0.depth: got 1000000000, expected at most 10000"),
        ("space.stages.0.width=1000000000000", "space.stages.0.width: got 1000000000000, expected at most 65536"),
        ("space.width_multiplier=1e300", "space.width_multiplier: got 1.0e+300, expected at most 100"),
        ("space.classes=1000000000000", "space.classes: got 1000000000000, expected at most 1000000"),
        ("data.validation=1000000000000", "data.validation: got 1000000000000, expected a share"),
        ("measure.batch=1000000000000", "measure.batch: got 1000000000000, expected at most 65536"),
        ("measure.coverings=1000000000000", "measure.coverings: got 1000000000000, expected at most 10000"),
        ("run.threads=1000000000000", "run.threads: got 1000000000000, expected at most 4096"),
        ("run.log_every=1000000000000", "run.log_every: got 1000000000000, expected at most 1000000000"),
        ("limits.0.largest_error=1e300", "limits.0.largest_error: got 1.0e+300, expected at most 1000"),
    ],
)
def test_a_number_beyond_all_sense_is_refused_with_the_largest_one(override, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert words in message_of(validate, SearchConfig, load_config(QUICK, [override]), "f.yaml")


def test_more_noise_images_than_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(QUICK, ["data={name: fake, fake_images: 1000000000000}"])
    assert "data.fake_images: got 1000000000000, expected at most 2000000" in message_of(
        validate, SearchConfig, config, "f"
    )


def test_stages_that_are_too_deep_together_are_refused(monkeypatch):
    """Each one alone is small enough."""
    monkeypatch.chdir(ROOT)
    stage = "{width: 8, depth: 6000, candidates: [mbconv_k3_e1, mbconv_k3_e3]}"
    config = load_config(QUICK, [f"space.stages=[{stage}, {stage}]"])
    assert "stages: their depths add up to 12000 edges, expected at most 10000" in message_of(
        validate, SearchConfig, config, "f"
    )


def test_a_multiplier_that_makes_a_width_too_large_is_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(QUICK, ["space.feature_mix=60000", "space.width_multiplier=50"])
    message = message_of(validate, SearchConfig, config, "f")
    assert "width_multiplier: got 50, which makes feature_mix 3000000 channels, expected at most 65536" in message


@pytest.mark.parametrize("weight", [1e300, 1e7])
def test_a_weight_of_a_table_that_is_not_positive_or_too_large_is_refused(weight):
    limit = {"metric": "latency", "tables": ["a", "b"], "combine": "worst_case", "at": 1, "weights": [1, weight]}
    words = "expected numbers above 0, at most 1e+06"
    assert words in message_of(validate, LimitConfig, limit, "f")


# bounds of limits with k, M and G


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("300M", 300e6),
        ("300 M", 300e6),
        (" 3.5k", 3500.0),
        ("2G", 2e9),
        ("0.3M", 300_000.0),
        ("1.1G", 1_100_000_000.0),
        ("3e2M", 300e6),
    ],
)
@pytest.mark.parametrize("metric", COMPUTED)
def test_a_bound_may_be_in_thousands_or_millions(metric, written, number):
    assert validate(LimitConfig, {"metric": metric, "below": written}, "f").below == number


def test_a_bound_in_thousands_or_millions_is_read_in_an_override(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = SearchConfig.read(QUICK, ["limits=[{metric: macs}]", "limits.0.at=3M"])
    assert config.limits[0].at == 3e6


@pytest.mark.parametrize(
    ("metric", "written", "remedy"),
    [
        ("macs", "300m", "write 300M"),
        ("macs", "300 K", "write 300k"),
        ("weight_bytes", "2GB", "write 2G"),
        ("params", "1_000", "write 1000"),
        ("params", "300e6", "remove the quotes"),
        ("macs", "0M", "such as 300M"),
        ("macs", "-3M", "such as 300M"),
        ("macs", "3 apples", "such as 300M"),
        ("macs", "1e99999M", "such as 300M"),
        ("macs", "9" * 1000 + "M", "such as 300M"),
        ("latency", "12.5ms", "write 12.5"),
        ("latency", "12.5 ms", "write 12.5"),
        ("latency", "2 s", "write 2000"),
        ("latency", "55.4M", "write a time in ms, or set metric: macs (or params), if it is a number of these"),
        ("latency", "300 MACs", "write a time in ms, or set metric: macs (or params), if it is a number of these"),
        ("latency", "1500 us", "write 1.5"),
        ("energy_mj", "2 s", "write the number alone, in that unit"),
        ("macs", "3e6 MACs", "write 3e6"),
        ("weight_bytes", "3 MB", "write 3M"),
        ("latency", "3k", "write a time in ms, or set metric: macs (or params), if it is a number of these"),
        ("energy_mj", "3k", "write 3000"),
    ],
)
def test_the_error_about_a_bound_in_an_unknown_unit_has_what_to_write(metric, written, remedy):
    limit = {"metric": metric, "below": written} | ({} if metric in COMPUTED else {"table": "t.yaml"})
    message = message_of(validate, LimitConfig, limit, "f")
    assert message.startswith("f: below: got '")
    assert message.endswith(remedy)


# paths


def test_every_path_of_a_search_may_begin_with_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    limits = "limits=[{metric: latency, table: ~/t.yaml, at: 50%}]"
    config = SearchConfig.read(QUICK, [limits, "data.root=~/images"])
    assert config.limits[0].files == (tmp_path / "t.yaml",)
    assert config.data.root == tmp_path / "images"
    several = "limits=[{metric: latency, tables: [~/a.yaml, ~/b.yaml], combine: worst_case, at: 50%}]"
    config = SearchConfig.read(QUICK, [several])
    assert config.limits[0].files == (tmp_path / "a.yaml", tmp_path / "b.yaml")


def test_the_checkpoint_of_a_retraining_may_be_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = RetrainConfig.read(RETRAIN, ["retrain.inherit=~/run/step-1.pt"])
    assert config.retrain.inherit == tmp_path / "run" / "step-1.pt"


@pytest.mark.parametrize("model", [SearchConfig, RetrainConfig])
def test_every_path_of_every_section_accepts_the_home_folder(model):
    """A field of another kind of Path would take `~` for the name of a folder."""

    def paths(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
        for name, field in section.model_fields.items():
            for kind, metadata in branches(field.annotation):
                if kind is Path:
                    yield f"{prefix}{name}", any("_user_path" in repr(m) for m in (*field.metadata, *metadata))
                elif isinstance(kind, type) and issubclass(kind, BaseModel):
                    yield from paths(kind, f"{prefix}{name}.")

    found = dict(paths(model))
    assert found
    assert all(found.values()), found


def test_modules_and_functions_of_the_user_may_be_in_the_home_folder(monkeypatch, tmp_path):
    (tmp_path / "home_of_a_test.py").write_text("def three():\n    return 3\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    assert own_function("~/home_of_a_test.py:three", "search.terms.0.function")() == 3
    config = load_config(QUICK, ["space.candidate_modules=[~/home_of_a_test.py]"])
    assert validate(SearchConfig, config, "f").space.candidate_modules == ("~/home_of_a_test.py",)
