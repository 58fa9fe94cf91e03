"""Builds print no warning that this package causes, and a wheel is all that a program needs: configs come along."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packages import PACKAGES

BUILD = """
import sys, warnings
from setuptools import build_meta
with warnings.catch_warnings(record=True) as caught:
    getattr(build_meta, sys.argv[1])(sys.argv[2])
shown = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]  # what setuptools has to say
sys.exit("\\n".join(shown) or 0)
"""


def built(kind: str, checkout: Path, folder: Path) -> Path:
    """Returns the wheel that setuptools builds of a copy of the checkout's packages, without a warning.

    kind: build_wheel or build_editable.
    """
    pytest.importorskip("setuptools", "77")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(checkout / name, folder)
    for package in (*PACKAGES, "configs"):
        shutil.copytree(
            checkout / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True
        )
    ended = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(folder / "out")],
        cwd=folder, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (wheel,) = (folder / "out").glob("*.whl")
    return wheel


def test_an_editable_build_warns_of_nothing(checkout, tmp_path):
    """pip shows what the build warns of even with --quiet."""
    built("build_editable", checkout, tmp_path)


@pytest.fixture(scope="module")
def installed(checkout, tmp_path_factory) -> Path:
    """Returns the folder bin/ of a fresh environment that holds the wheel. Its build warns of nothing.

    What the wheel depends on is not downloaded again: a .pth file names the folders where it is installed, of which the
    .pth files, such as that of an editable install of the checkout, are not read.
    """
    wheel = built("build_wheel", checkout, tmp_path_factory.mktemp("build"))
    home = tmp_path_factory.mktemp("installed") / "env"
    venv.create(home)
    places = {"base": str(home), "platbase": str(home)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=places))
    here = [path for path in sys.path if path.endswith("-packages")]
    (packages / "installed_here.pth").write_text("\n".join(here) + "\n")
    python = home / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    subprocess.run(command, check=True, timeout=240)
    return home / "bin"


TOGETHER = """
import json, sys
from pathlib import Path
import search
from proxyless_nas.commands import main

print(search.__file__)
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        if end.code:
            raise
"""
"""Runs several commands in one process, which imports torch once."""


@pytest.fixture
def run(installed, tmp_path) -> Callable[..., str]:
    """run("check", ...) runs a subcommand of the installed program in an empty folder and returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def ended(*words: str, program: str = "proxyless-nas") -> str:
        command = [str(installed / program), *words]
        process = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return ended


def test_a_wheel_alone_checks_searches_and_retrains(run, checkout, tmp_path):
    """A search of 20 steps and the retraining of its network, on images that come with scikit-learn, by name."""
    settings = ["space.input_size=8", "data.name=digits", "limits=[{metric: macs, at: 50%}]"]
    settings += ["search.warmup_epochs=0", "search.epochs=1", "search.batch_size=50", "search.arch_every=5"]
    settings += ["search.regression.final_steps=2"]
    checked = run("check", "quickstart_cpu", "--out", "run", *settings)
    assert "FAIL" not in checked
    shorter = ["data.name=digits", "retrain.epochs=1", "retrain.warmup_epochs=0"]
    commands = [
        ["search", "quickstart_cpu", "--out", "run", *settings],
        ["retrain", "quickstart", "--architecture", "run/architecture.json", "--out", "retrained", *shorter],
        ["report", "retrained"],
        ["publish", "retrained", "--out", "published"],
    ]
    printed = run("-c", TOGETHER, json.dumps(commands), program="python").splitlines()
    assert not Path(printed[0]).is_relative_to(checkout)
    assert (Path(printed[0]).parent / "py.typed").exists()
    assert "report.html" in printed
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 20
    assert (tmp_path / "retrained" / "result.json").exists()
    assert "The network meets what was asked" in (tmp_path / "report.html").read_text()  # found by source.json
    assert {path.name for path in tmp_path.iterdir()} == {"run", "retrained", "report.html", "published"}


def test_a_wheel_has_the_module_that_a_shipped_configuration_names(run):
    """The candidates of resnet_gpu are registered in a file beside it."""
    settings = ["space.input_size=32", "space.classes=10", "data={name: fake}", "limits=[{metric: macs, at: 50%}]"]
    checked = run("check", "resnet_gpu", "--out", "run", *settings, "run.device=cpu", "run.amp=none")
    assert "ok   space: 16 searchable edges" in checked
