"""Int8 files compute in integers what a simulation in PyTorch predicts, and say what they lose; others are not kept."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import proxyless_nas as pn
from engine.data.folder import FolderImages
from engine.errors import ConfigError, UserError
from engine.evaluation import paired_difference
from export.calibration import Calibration, calibration_of_folder
from export.formats import FORMATS
from export.formats.litert_file import _without_empty_channels
from export.int8 import _refuse_noise
from export.int8_loss import DropError
from export.job import RECORD, export_int8
from export.parity import ParityError, Reference
from export.photographs import photographs
from export.program import make_program
from export.quantisation import Int8, Quantisation
from export.simulation import Simulation, in_codes, rms, weights_in_codes
from latency.runtimes.int8_models import is_depthwise
from tests.export.test_export import CLASSES, PREPROCESSING, small_network

OTHERS = {"openvino": "nncf", "litert": "ai_edge_quantizer"}
"""The formats whose runtimes need an extra, with the module that quantises for them."""


def parts(step: int = 40) -> torch.Tensor:
    """Returns pixels (N, 3, 40, 40) of parts of photographs."""
    pixels = [PREPROCESSING.pixels_of(picture) for picture in photographs()]
    return torch.stack([image.roll(shift, 2) for image in pixels for shift in range(0, 40, step)])


def labelled(network: nn.Module, folder: Path, wrong: int = 0) -> FolderImages:
    """Returns image files, labelled with what the network in float32 takes them for, but for `wrong` of them."""
    pictures = [picture.resize((60, 50)) for picture in photographs()]
    pictures += [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
    pixels = torch.stack([PREPROCESSING.pixels_of(picture) for picture in pictures])
    with torch.no_grad():
        labels = copy.deepcopy(network).eval()(PREPROCESSING.normalised(pixels)).argmax(dim=1)
    labels[:wrong] = (labels[:wrong] + 1) % 5
    order = labels.argsort(stable=True).tolist()
    for place, index in enumerate(order):
        pictures[index].save(folder / f"{place:02}.png")
    files = np.array([b"%02d.png" % place for place in range(len(order))])
    return FolderImages(folder, files, labels[order].numpy(), PREPROCESSING, flip=False)


@pytest.fixture(scope="module")
def right(network, tmp_path_factory):
    """Returns labelled images that the network in float32 classifies correctly."""
    return labelled(network, tmp_path_factory.mktemp("right"))


def undecided_network() -> nn.Module:
    """Returns a network whose logits have the mean 0 on photographs, so that the likeliest class hangs on little."""
    network = small_network().eval()
    with torch.no_grad():
        logits = network(PREPROCESSING.normalised(parts()))
        network.classifier.linear.bias -= logits.mean(dim=0)
    return network


@pytest.fixture(scope="module")
def network():
    return undecided_network()


@pytest.fixture(scope="module")
def calibration():
    return Calibration(parts(), torch.empty(0, 3, 40, 40, dtype=torch.uint8), PREPROCESSING, "photographs")


@pytest.fixture(scope="module")
def written(network, calibration, tmp_path_factory):
    """Returns the folder of an int8 ONNX file, and what was written."""
    pytest.importorskip("onnxscript")
    out = tmp_path_factory.mktemp("int8")
    test = labelled(network, tmp_path_factory.mktemp("images"), wrong=4)
    settings = Int8(calibration, test=test, test_source="parts of photographs", max_drop=100)
    (result,) = export_int8(network, PREPROCESSING, CLASSES, ["onnx"], out, settings)
    return out, result


def test_the_paired_interval_is_newcombes():
    """The interval equals two tables of Newcombe's paper (1998, method 10). For any images, exchanging both networks
    mirrors it, and it is symmetric around 0 if both are right on the same ones."""
    assert paired_difference(36, 12, 2, 0) == pytest.approx((5.69, 34.04), abs=0.01)
    assert paired_difference(20, 12, 2, 16) == pytest.approx((5.62, 32.92), abs=0.01)
    low, high = paired_difference(400, 9, 4, 87)
    assert paired_difference(400, 4, 9, 87) == pytest.approx((-high, -low))
    low, high = paired_difference(440, 0, 0, 60)
    assert low == pytest.approx(-high)
    assert low < 0
    with pytest.raises(ValueError, match="no image"):
        paired_difference(0, 0, 0, 0)


def test_codes_are_the_nearest_ones_and_zero_is_one():
    values = torch.linspace(-1, 3, 1001)
    stored = in_codes(values, -1.0, 3.0)
    assert (stored - values).abs().max() <= 4 / 255  # the zero point is rounded, so an end may be cut by half a step
    assert (stored - values)[1:-1].abs()[10:-10].max() <= 0.5 * 4 / 255 + 1e-6
    assert in_codes(torch.zeros(1), -1.0, 3.0) == 0
    assert stored.unique().numel() <= 256
    weights = torch.randn(4, 3, 3, 3) * torch.tensor([1.0, 10.0, 0.1, 0.0]).view(4, 1, 1, 1)
    stored = weights_in_codes(weights)
    steps = weights.abs().flatten(1).amax(1) / 127
    assert ((stored - weights).abs().flatten(1).amax(1) <= steps / 2 + 1e-7).all()


def test_a_simulation_without_codes_is_the_network(network, calibration):
    simulation = Simulation(network, PREPROCESSING, calibration.pixels)
    images = PREPROCESSING.normalised(calibration.pixels)
    with torch.no_grad():
        exact = undecided_network()(images)
    torch.testing.assert_close(simulation._run(images, set(), set()), exact, rtol=1e-5, atol=1e-5)
    assert len(simulation.layers) == 11
    assert simulation.layers[0] == "stem.conv"
    costs = simulation.costs()
    assert sorted(cost.layer for cost in costs) == sorted(simulation.layers)
    assert [cost.rms_diff for cost in costs] == sorted((cost.rms_diff for cost in costs), reverse=True)
    assert costs[-1].rms_diff > 0
    assert costs[0].rms_diff < rms(simulation.logits(images) - exact) * 1.5


def test_an_int8_file_computes_in_integers_what_was_simulated(written):
    """11 layers, 3 additions less the zero block: none is float32 in the runtime, or the file would not have passed."""
    out, result = written
    assert result.path == out / "small_net.int8.onnx"
    check = result.check
    assert check.ops["Conv"] == 10
    assert check.reload_max_abs_diff == 0
    assert 0.7 < check.noise / check.simulated_noise < 1.3
    assert check.types == {"input": "float32", "output": "float32"}
    assert check.kept == ()


def test_the_drop_is_paired_and_recorded(written):
    out, result = written
    drop, same = result.check.drop, result.check.agreement
    assert drop.images == same.images == 32
    assert drop.top1_float32 == pytest.approx(100 * 28 / 32)
    assert drop.points == pytest.approx(drop.top1_float32 - drop.top1_int8)
    assert drop.points == pytest.approx(100 * (drop.lost - drop.gained) / 32)
    both, neither = 28 - drop.lost, 4 - drop.gained
    assert drop.interval == paired_difference(both, drop.lost, drop.gained, neither)
    assert same.share >= 1 - (drop.lost + 4) / 32
    record = json.loads((out / "export.json").read_text())
    entry = record["files"]["onnx_int8"]
    assert (entry["format"], entry["dtype"], entry["file"]) == ("onnx", "int8", "small_net.int8.onnx")
    assert entry["drop"]["points"] == pytest.approx(drop.points)
    assert entry["calibration"]["images"] == 16
    assert len(entry["calibration"]["pixels_sha256"]) == 64
    assert len(entry["sensitivity"]) == 11
    assert entry["agreement"]["max_abs_diff"] == same.max_abs_diff
    assert f"drop {drop.points:+.2f} points" in str(result)
    assert "input float32, output float32" in str(result)


def test_the_file_says_that_it_is_int8(written):
    import onnxruntime

    session = onnxruntime.InferenceSession(written[1].path)
    about = json.loads(session.get_modelmeta().custom_metadata_map["quantisation"])
    assert about == {"dtype": "int8", "weight_bits": 8, "calibration_images": 16, "float32_layers": []}
    assert written[1].path.stat().st_size < 30_000


def quantised(network, calibration, out, change=None, name="onnx", **settings):
    """Exports to int8 by a quantiser whose model `change` has changed."""
    from latency.runtimes import int8_models

    before = int8_models.quantised_onnx
    with pytest.MonkeyPatch.context() as patch:
        if change is not None:
            patch.setattr(int8_models, "quantised_onnx", lambda *args, **more: change(before, *args, **more))
        return export_int8(network, PREPROCESSING, CLASSES, [name], out, Int8(calibration, **settings))


def per_tensor(quantise, *args, **more):
    return quantise(*args, **more, per_channel=False)


def darkened(quantise, model, feeds, **more):
    """The calibration images are normalised as pixels of a tenth of their value."""
    return quantise(model, ({"images": feed["images"] / 10} for feed in feeds), **more)


def of_eight_bits(quantise, *args, weight_bits, **more):
    return quantise(*args, **more)


def one_float_layer(quantise, model, feeds, keep, **more):
    return quantise(model, feeds, keep=[*keep, model.graph.node[0].name], **more)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (per_tensor, "stem.conv: its weights have 1 scales for 8 output channels"),
        (darkened, "stem.conv: its output has codes for"),
        (one_float_layer, "stem.conv: its weights are float32"),
    ],
)
def test_a_bad_quantiser_is_found(network, calibration, tmp_path, fault, expected):
    with pytest.raises(ParityError) as caught:
        quantised(network, calibration, tmp_path, fault)
    assert expected in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_further_from_float32_than_simulated_is_found(network, calibration, tmp_path):
    """One bias is missing; weights, ranges and operations are as they should be."""
    import onnx

    def without_bias(quantise, *args, **more):
        model = quantise(*args, **more)
        (bias,) = (t for t in model.graph.initializer if t.name.endswith("stem.conv.bias_quantized"))
        bias.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(bias), bias.name))
        return model

    with pytest.raises(ParityError, match="calibration images: its logits differ from float32's by"):
        quantised(network, calibration, tmp_path, without_bias)


def test_a_file_that_is_not_what_the_quantiser_made_is_found(network, calibration, tmp_path):
    """The zero point of one map is shifted by 1 on the way to the file."""
    import onnx

    def write(program, path, inputs, kept, weight_bits):
        predict = FORMATS["onnx"].int8.write(program, path, inputs, kept, weight_bits)
        model = onnx.load(path)
        zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        tensor = next(t for t in model.graph.initializer if t.name in zeros)
        shifted = onnx.numpy_helper.to_array(tensor) + np.uint8(1)
        tensor.CopyFrom(onnx.numpy_helper.from_array(shifted, tensor.name))
        onnx.save(model, path)
        return predict

    formats = {"onnx": replace(FORMATS["onnx"], int8=replace(FORMATS["onnx"].int8, write=write))}
    with pytest.raises(ParityError, match="from the quantised model's before it was a file"):
        export_int8(network, PREPROCESSING, CLASSES, ["onnx"], tmp_path, Int8(calibration), formats=formats)


def test_a_drop_above_the_accepted_one_is_refused_with_the_costliest_layers(network, calibration, right, tmp_path):
    """Float32 is right on every image, so that each image that int8 takes for another class is lost."""
    with pytest.raises(DropError) as caught:
        quantised(network, calibration, tmp_path, test=right, max_drop=0)
    text = str(caught.value)
    assert "points below float32's 100.00 % (95 % interval" in text
    assert "expected at most 0, as --max-drop says; keep the layers that cost most in float32" in text
    (costliest, *_) = Simulation(network, PREPROCESSING, calibration.pixels).costs()
    assert f"or by name: {costliest.layer} (" in text
    assert list(tmp_path.iterdir()) == []


def test_layers_that_are_kept_stay_in_float32(network, calibration, tmp_path, written):
    (result,) = quantised(network, calibration, tmp_path, keep=2)
    costliest = tuple(cost.layer for cost in written[1].check.sensitivity[:2])
    assert result.check.kept == costliest
    assert result.check.ops["DequantizeLinear"] < written[1].check.ops["DequantizeLinear"]
    assert result.check.drop is None
    assert result.check.agreement.on == "calibration images"
    reference = Reference(network, PREPROCESSING, False)
    with pytest.raises(ConfigError, match=r"keep_layers: got 'stem.cnov', expected .*Did you mean 'stem.conv'\?"):
        Quantisation(network, PREPROCESSING, Int8(calibration, keep=("stem.cnov",)), reference)


def codes_of(path: Path) -> dict[str, np.ndarray]:
    """Returns the codes of the weights of each layer of an int8 ONNX file, by the layer's name."""
    import onnx

    codes = {}
    for tensor in onnx.load(path).graph.initializer:
        name, _, end = tensor.name.removeprefix("network.").partition(".weight")
        if end == "_quantized":
            codes[name] = onnx.numpy_helper.to_array(tensor)
    return codes


def test_weights_of_seven_bits_need_no_setting_of_onnx_runtime(network, calibration, tmp_path, written):
    """All but depthwise weights have codes from -64 to 64: two products with codes up to 255 fit into 16 bits. The file
    says so, is opened without `session.x64quantprecision`, and computes the same with it."""
    import onnxruntime

    from latency.on_device import models

    exact = []

    def options(threads, exactly=True):
        exact.append(exactly)
        return before(threads, exactly)

    before = models.onnx_options
    (result,) = quantised(network, calibration, tmp_path, weight_bits=7)
    codes = codes_of(result.path)
    assert len(codes) == 11
    for name, values in codes.items():
        assert np.abs(values.astype(int)).max() == (127 if "depthwise" in name else 64), name
    assert 2 * 255 * 64 < 2**15
    assert result.check.weight_bits == 7
    assert "; weights of 7 bits; " in str(result)
    assert 0.7 < result.check.noise / result.check.simulated_noise < 1.3
    assert result.check.simulated_noise > written[1].check.simulated_noise
    entry = json.loads((tmp_path / "export.json").read_text())["files"]["onnx_int8"]
    assert entry["weight_bits"] == 7
    about = onnxruntime.InferenceSession(result.path).get_modelmeta().custom_metadata_map
    assert json.loads(about["quantisation"])["weight_bits"] == 7

    images = PREPROCESSING.normalised(calibration.pixels).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "onnx_options", options)
        logits = models.OnnxModel(str(result.path), images.shape, threads=1).output(images)
        assert exact == [True, False]
        models.OnnxModel(str(written[1].path), images.shape, threads=1)
        assert exact == [True, False, True]
    precise = onnxruntime.InferenceSession(result.path, before(1)).run(None, {"images": images})[0]
    np.testing.assert_array_equal(logits, precise)


def test_layers_of_a_file_with_weights_of_seven_bits_are_timed_in_the_second_session(network, calibration, tmp_path):
    """The first session, which reads the metadata, writes a profile of its own."""
    from latency.on_device.models import OnnxModel

    (result,) = quantised(network, calibration, tmp_path, weight_bits=7)
    model = OnnxModel(str(result.path), (1, *PREPROCESSING.normalised(calibration.pixels).shape[1:]), threads=1,
                      inside=True, layers=1)  # fmt: skip
    assert model._profiles is not None
    profiles = sorted(path.name.partition("_")[0] for path in Path(model._profiles).iterdir())
    assert profiles == ["exact0", "exact1"]
    model.close()


def test_weights_of_more_bits_than_chosen_are_found(network, calibration, tmp_path):
    with pytest.raises(ParityError, match=r"stem\.conv: a weight has the code 127, of more than 7 bits"):
        quantised(network, calibration, tmp_path, of_eight_bits, weight_bits=7)
    assert list(tmp_path.iterdir()) == []


def test_a_convolution_with_one_input_channel_is_not_depthwise():
    """Grey images make such a stem. ONNX Runtime computes it as it does other convolutions."""
    assert is_depthwise((8, 1, 3, 3), 8)
    assert not is_depthwise((8, 1, 3, 3), 1)
    assert not is_depthwise((8, 2, 3, 3), 4)
    assert not is_depthwise((1, 1, 3, 3), 1)


def test_seven_bits_are_refused_where_the_quantiser_has_none(network, calibration, tmp_path):
    seven = Int8(calibration, weight_bits=7)
    expected = r"weight_bits: got 7, but weights of litert have 8 bits, expected 8, or another format: onnx"
    with pytest.raises(ConfigError, match=expected):
        export_int8(network, PREPROCESSING, CLASSES, ["onnx", "litert"], tmp_path, seven)
    with pytest.raises(ConfigError, match="weight_bits: got 6, but weights of onnx have 8 or 7 bits, expected 8 or 7"):
        export_int8(network, PREPROCESSING, CLASSES, ["onnx"], tmp_path, replace(seven, weight_bits=6))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", OTHERS)
def test_int8_files_of_other_runtimes(name, network, calibration, right, tmp_path):
    for module in (*FORMATS[name].modules, OTHERS[name]):
        pytest.importorskip(module, reason=f"needs the extra {FORMATS[name].extra}")
    (result,) = quantised(network, calibration, tmp_path, name=name, test=right, max_drop=100)
    assert result.check.noise <= 1.5 * result.check.simulated_noise
    assert result.check.agreement.share > 0.5
    assert result.path.name == f"small_net.int8{FORMATS[name].suffix}"


def test_weights_of_seven_bits_for_openvino(network, calibration, right, tmp_path):
    """OpenVINO adds products of 8-bit codes in 16 bits on x86 CPUs without VNNI, as ONNX Runtime does."""
    for module in (*FORMATS["openvino"].modules, "nncf"):
        pytest.importorskip(module, reason="needs the extra openvino")
    settings = {"name": "openvino", "test": right, "max_drop": 100}
    (result,) = quantised(network, calibration, tmp_path, weight_bits=7, **settings)
    assert result.check.weight_bits == 7
    assert json.loads((tmp_path / RECORD).read_text())["files"]["openvino_int8"]["weight_bits"] == 7
    quantiser = FORMATS["openvino"].int8
    program = make_program(network, "x", PREPROCESSING, 0, "nchw", False, {})
    assert quantiser.faults(program, result.path, (), {}, 7) == []
    (tmp_path / "eight").mkdir()
    (eight,) = quantised(network, calibration, tmp_path / "eight", **settings)
    faults = quantiser.faults(program, eight.path, (), {}, 7)
    assert any("of more than 7 bits" in fault for fault in faults)


@pytest.mark.parametrize(
    ("name", "bits", "remedied"), [("openvino", 8, True), ("openvino", 7, False), ("onnx", 8, False)]
)
def test_logits_far_from_float32_name_what_helps_openvino(name, bits, remedied):
    quantisation = SimpleNamespace(
        expected=np.zeros((2, 3)), simulated=0.01, settings=SimpleNamespace(weight_bits=bits)
    )  # fmt: skip
    with pytest.raises(ParityError, match=r"differ from float32's by 1 .*expected at most 0\.015") as error:
        _refuse_noise("net.int8", np.ones((2, 3)), quantisation, FORMATS[name].int8)
    assert ("there, use --weight-bits 7" in str(error.value)) == remedied


def test_a_channel_without_weights_gets_one_that_leaves_the_logits_as_they_are(network):
    """The quantiser of LiteRT cannot scale the bias of such a channel, and trained networks have some."""
    emptied = copy.deepcopy(network)
    with torch.no_grad():
        next(module for module in emptied.modules() if isinstance(module, nn.Conv2d)).weight[0] = 0
    program = make_program(emptied, "x", PREPROCESSING, 2, "nchw", False, {})
    filled = _without_empty_channels(program)
    changed = [n for n, w in program.graph.state_dict.items() if not torch.equal(w, filled.graph.state_dict[n])]
    assert len(changed) == 1
    torch.testing.assert_close(filled.module(program.example), program.module(program.example), rtol=1e-2, atol=1e-2)
    before, after = (each.graph.state_dict[changed[0]].flatten(1).abs().amax(dim=1) for each in (program, filled))
    assert before[0] == 0
    assert after.min() > 0


def test_formats_without_int8_and_wrong_settings_are_refused(network, calibration, tmp_path):
    with pytest.raises(ConfigError, match="to: torchscript has no int8 files, expected onnx, openvino, litert"):
        export_int8(network, PREPROCESSING, CLASSES, ["torchscript"], tmp_path, Int8(calibration))
    with pytest.raises(ConfigError, match="calibration: is given, but the files are float32; add dtype int8"):
        pn.export("efficientnet_lite0", tmp_path, calibration=tmp_path)
    with pytest.raises(ConfigError, match="dtype: got 'int4', expected 'float32' or 'int8'"):
        pn.export("efficientnet_lite0", tmp_path, dtype="int4")
    with pytest.raises(ConfigError, match="has no image, expected a folder of training images, at any depth"):
        calibration_of_folder(tmp_path, PREPROCESSING, 4)
    with pytest.raises(UserError, match="no such folder"):
        calibration_of_folder(tmp_path / "none", PREPROCESSING, 4)


def test_a_folder_calibrates_with_its_training_images_at_any_depth(tmp_path):
    for i, picture in enumerate(photographs()[:6]):
        folder = tmp_path / "train" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{i}.png")
    photographs()[8].save(tmp_path / "not_training.png")
    calibration = calibration_of_folder(tmp_path, PREPROCESSING, 4, others=9)
    assert (len(calibration.pixels), len(calibration.others)) == (4, 2)
    both = torch.cat([calibration.pixels, calibration.others])
    expected = torch.stack([PREPROCESSING.pixels_of(picture) for picture in photographs()[:6]])
    assert {image.numpy().tobytes() for image in both} == {image.numpy().tobytes() for image in expected}
    (first, *_) = calibration.inputs("nhwc", False, 3)
    np.testing.assert_array_equal(first, PREPROCESSING.normalised(calibration.pixels[:3]).permute(0, 2, 3, 1).numpy())
