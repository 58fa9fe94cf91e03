"""The C++ programs of docs/examples classify a picture as PyTorch does, where a compiler and headers are."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.job import export_network
from export.parity import prepared
from export.photographs import photographs
from tests.export.test_export import CLASSES, EXAMPLES, PREPROCESSING, small_network

PHOTO = 8
"""A flower."""
MODULES = {"torchscript": "torch", "openvino": "openvino", "executorch": "executorch", "onnx": "onnxscript"}


def skip_unless_it_can_be_built(name: str) -> None:
    if not (shutil.which("g++") and shutil.which("make")):
        pytest.skip("needs g++ and make")
    if importlib.util.find_spec(MODULES[name]) is None:
        pytest.skip(f"needs the Python package {MODULES[name]}")
    if name == "torchscript" and "BUILD_EXAMPLES" not in os.environ:
        pytest.skip("compiling torch's headers takes half a minute; set BUILD_EXAMPLES=1")
    if name == "onnx" and "ONNXRUNTIME" not in os.environ:
        pytest.skip("needs a release of ONNX Runtime with headers; set ONNXRUNTIME to its folder")


@pytest.mark.parametrize("name", MODULES)
def test_the_program_in_cpp_prints_what_pytorch_computes(name, tmp_path):
    skip_unless_it_can_be_built(name)
    network = small_network()
    (file,) = export_network(network, PREPROCESSING, CLASSES, [name], tmp_path / "exported", normalise=True)
    pixels = prepared(photographs()[PHOTO : PHOTO + 1], PREPROCESSING, normalise=False)[0]
    picture = tmp_path / "photo.ppm"
    picture.write_bytes(b"P6\n40 40\n255\n" + pixels.permute(1, 2, 0).byte().contiguous().numpy().tobytes())
    program = f"deploy_{name}"
    make = ["make", "-C", str(EXAMPLES), program, f"OUT={tmp_path}", f"PYTHON={sys.executable}"]
    built = subprocess.run(make, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    done = subprocess.run(
        [str(tmp_path / program), str(file.path), str(picture)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        shares = network.eval()(prepared(photographs()[PHOTO : PHOTO + 1], PREPROCESSING)).softmax(1)[0]
    expected = [f"{100 * float(shares[i]):5.1f} %  {CLASSES[int(i)]}" for i in shares.argsort(descending=True)[:3]]
    assert done.stdout.splitlines() == expected


def test_a_program_in_cpp_has_about_30_lines():
    programs = sorted(Path(EXAMPLES).glob("deploy_*.cpp"))
    assert [path.stem for path in programs] == [f"deploy_{name}" for name in sorted(MODULES)]
    assert all(len(path.read_text().splitlines()) <= 34 for path in programs)
