"""Installing prints no warning that this package causes."""

import shutil
import subprocess
import sys

import pytest

PACKAGES = ("supernet", "latency", "engine", "search", "retrain", "proxyless_nas")
BUILD = """
import sys, warnings
from setuptools import build_meta
with warnings.catch_warnings(record=True) as caught:
    getattr(build_meta, sys.argv[1])(sys.argv[2])
shown = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]  # what setuptools has to say
sys.exit("\\n".join(shown) or 0)
"""


@pytest.mark.parametrize("kind", ["build_editable", "build_wheel"])
def test_a_build_warns_of_nothing(kind, checkout, tmp_path):
    """pip shows what the build warns of even with --quiet."""
    pytest.importorskip("setuptools", "77")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(checkout / name, tmp_path)
    for package in PACKAGES:
        shutil.copytree(checkout / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    ended = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(tmp_path / "out")],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert list((tmp_path / "out").glob("*.whl"))
