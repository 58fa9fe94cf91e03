"""Suggestions of names and paths: only those that are much alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.nearest import nearest, nearest_path


@pytest.mark.parametrize(
    ("text", "accepted", "near"),
    [
        ("twopath", ["full", "two_path"], "two_path"),
        ("Two-Path", ["full", "two_path"], "two_path"),
        ("kit_export", ["kit-export"], "kit-export"),
        ("imagenet", ["imagenet_cpu", "cifar10"], "imagenet_cpu"),
        ("second", ["first_order", "second_order"], "second_order"),  # 0.67, but nothing else begins so
        ("image", ["imagenet_cpu", "imagenet_gpu"], ""),
        ("ca", ["calibration"], ""),
        ("gpu", ["cpu"], ""),  # 0.67
        ("gpu", ["cpu", "cuda"], "cuda"),
        ("TFLite", ["onnxruntime", "litert"], "litert"),
        ("reward", ["retrain"], ""),  # 0.62
        ("x" * 101, ["x" * 101], ""),
        ("x", [], ""),
    ],
)
def test_only_a_name_that_is_much_alike_is_suggested(text, accepted, near):
    assert nearest(text, accepted) == near


def test_a_path_that_is_not_there_is_answered_by_the_nearest_one(tmp_path, monkeypatch):
    (tmp_path / "Images" / "flowers").mkdir(parents=True)
    (tmp_path / "Images" / "table.yaml").touch()
    there = tmp_path / "Images"
    assert nearest_path(tmp_path / "imges" / "flower") == str(there / "flowers")
    assert nearest_path(there / "tabel.yaml") == str(there / "table.yaml")
    assert nearest_path(tmp_path / "images" / "flowers") == str(there / "flowers")
    monkeypatch.chdir(there)
    assert nearest_path(Path("flwers")) == "flowers"
    assert nearest_path(Path("../imags/flowers")) == "../Images/flowers"
    for other in (there, there / "birds", there / "table.yaml" / "x", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        assert nearest_path(other) == ""


def test_no_unrelated_file_is_suggested(tmp_path):
    """A file of a run that shares some letters with a name, or has another ending, is not what was meant."""
    for name in ("retrain.log", "results.json", "architecture.json", "metrics.jsonl"):
        (tmp_path / name).touch()
    assert nearest_path(tmp_path / "resume.json") == ""  # shares 0.62 with results
    assert nearest_path(tmp_path / "retrain.yaml") == ""
    assert nearest_path(tmp_path / "metric.json") == str(tmp_path / "metrics.jsonl")
    assert nearest_path(tmp_path / "architcture") == str(tmp_path / "architecture.json")
