"""A trained int8 network of tiny-training: read strictly, dequantised, and computed as integer arithmetic does."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import CheckpointError, ConfigError
from proxyless_nas.commands import main
from proxyless_nas.interchange import convert
from proxyless_nas.predictions import predict
from published.designs import design_of
from published.int8 import Int8Model, read_int8
from retrain.evaluation import score_files
from supernet.chain import Chain
from tests.engine.image_folder import write_images

GENERATOR = np.random.default_rng(0)
X, A, B, SUM = (2 / 255, 0), (6 / 255, -128), (0.12, 7), (0.2, -11)
"""Scale and zero point of the images, of an activation, of a block's last convolution and of a sum."""


def codes(x: tuple[float, int], y: tuple[float, int]) -> dict[str, Any]:
    return {"x_scale": x[0], "x_zero": x[1], "y_scale": y[0], "y_zero": y[1]}


def conv(c_in: int, c_out: int, kernel: int, x: Any, y: Any, *, stride: int = 1, groups: int = 1) -> dict[str, Any]:
    shape = (c_out, c_in // groups, kernel, kernel)
    params = {
        "weight": GENERATOR.integers(-127, 128, shape, dtype=np.int8),
        "bias": GENERATOR.integers(-3000, 3000, c_out, dtype=np.int32),
        "w_scales": (GENERATOR.uniform(0.5, 2, c_out) / 40 / np.sqrt(np.prod(shape[1:]))).astype(np.float32),
    }
    sizes = {"kernel_size": (kernel, kernel), "in_channel": c_in, "out_channel": c_out}
    return {**sizes, "stride": stride, "groups": groups, "act": None, "params": params | codes(x, y)}


def small() -> dict[str, Any]:
    """An int8 network of two blocks, the second one residual, for 18 x 18 pixels and 5 classes."""
    first = {"pointwise1": None, "depthwise": conv(4, 4, 3, A, A, groups=4), "pointwise2": conv(4, 6, 1, A, B)}
    second = {
        "pointwise1": conv(6, 12, 1, B, A),
        "depthwise": conv(12, 12, 5, A, A, groups=12),
        "pointwise2": conv(12, 6, 1, A, (0.12, 3)),
    }
    residual = {"in_channel": 6, "in_shape": 9, "params": codes(B, SUM)}
    return {
        "first_conv": conv(3, 4, 3, X, A, stride=2) | {"in_shape": 18, "out_shape": 9},
        "blocks": [first | {"residual": None, "se": None}, second | {"residual": residual, "se": None}],
        "feature_mix": conv(6, 8, 1, SUM, A),
        "classifier": conv(8, 5, 1, A, (0.12, -3)),
    }


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    def save(content: Any) -> Path:
        torch.save(content, tmp_path / "small.pkl")
        return tmp_path / "small.pkl"

    return save


@pytest.fixture(scope="module")
def trained(shared_data: Path) -> Path:
    return shared_data / "tiny_training" / "proxyless-w0.3.pkl"


# Integer arithmetic: whole numbers of Python, no floating point


def rounded(value: Fraction) -> int:
    """Returns the nearest whole number, the even one of two."""
    return round(value)


def integer_conv(q: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
    """Codes (C_in, H, W) int64 -> codes (C_out, H', W') int64."""
    p, k, stride, groups = layer["params"], layer["kernel_size"][0], layer["stride"], layer["groups"]
    padded = np.pad(q - p["x_zero"], ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), (1, 2))[:, ::stride, ::stride]
    weight = p["weight"].astype(np.int64)
    if groups == 1:
        sums = np.einsum("chwij,ocij->ohw", windows, weight)
    else:
        sums = np.einsum("chwij,cij->chw", windows, weight[:, 0])
    sums = sums + p["bias"].astype(np.int64)[:, None, None]
    out = np.empty_like(sums)
    for o, scale in enumerate(p["w_scales"]):
        factor = Fraction(float(scale)) * Fraction(p["x_scale"]) / Fraction(p["y_scale"])
        out[o] = [[rounded(int(value) * factor) for value in row] for row in sums[o]]
    return np.clip(out + p["y_zero"], -128, 127)


def integer_network(q: np.ndarray, record: dict[str, Any]) -> np.ndarray:
    """Codes of an image (C, H, W) -> codes of the logits (classes,)."""
    q = integer_conv(q, record["first_conv"])
    for block in record["blocks"]:
        before = q
        for name in ("pointwise1", "depthwise", "pointwise2"):
            q = q if block[name] is None else integer_conv(q, block[name])
        if block["residual"] is not None:
            p, own = block["residual"]["params"], block["pointwise2"]["params"]
            one, other, total = (Fraction(s) for s in (p["x_scale"], own["y_scale"], p["y_scale"]))
            sums = [
                rounded(((int(a) - p["x_zero"]) * one + (int(b) - own["y_zero"]) * other) / total)
                for a, b in zip(before.ravel(), q.ravel(), strict=True)
            ]
            q = np.clip(np.array(sums).reshape(q.shape) + p["y_zero"], -128, 127)
    if record["feature_mix"] is not None:
        q = integer_conv(q, record["feature_mix"])
    pixels = q.shape[1] * q.shape[2]
    pooled = np.array([rounded(Fraction(int(row.sum()), pixels)) for row in q])[:, None, None]
    return integer_conv(pooled, record["classifier"])[:, 0, 0]


def image_codes(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (3, size, size))


def computed(model: Int8Model, q: np.ndarray) -> np.ndarray:
    return model.quantised_network().codes(torch.from_numpy(q)[None].double())[0].long().numpy()


def test_the_codes_are_those_of_integer_arithmetic(saved) -> None:
    record = small()
    model = read_int8(saved(record))
    for seed in range(3):
        q = image_codes(18, seed)
        expected = integer_network(q, record)
        assert len({-128, 127, *expected.tolist()}) > 4  # hence neither clamped nor all equal
        assert computed(model, q).tolist() == expected.tolist()


def test_the_codes_of_a_trained_network_are_those_of_integer_arithmetic(trained) -> None:
    """The test compares all 1000 codes, for an image of 32 x 32 pixels."""
    q = np.repeat(np.repeat(image_codes(8, 1), 4, 1), 4, 2)  # noise without structure gives the same logits always
    expected = integer_network(q, unpickled(trained))
    assert len(set(expected.tolist())) > 20
    assert np.array_equal(computed(read_int8(trained), q), expected)


def unpickled(path: Path) -> dict[str, Any]:
    """Returns the content of a file whose hash is known, without our reader."""
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("0da06d02")
    content: dict[str, Any] = torch.load(path, weights_only=False)
    return content


def test_the_float_network_has_the_dequantised_weights(saved) -> None:
    record = small()
    model = read_int8(saved(record))
    network = model.float_network()
    layer = record["blocks"][1]["depthwise"]["params"]
    own = network.edges[1].op.depthwise.conv
    scales = torch.from_numpy(layer["w_scales"])
    torch.testing.assert_close(own.weight, torch.from_numpy(layer["weight"]) * scales[:, None, None, None])
    torch.testing.assert_close(own.bias, torch.from_numpy(layer["bias"]) * scales * layer["x_scale"])
    assert network.architecture.complexity == model.chain.complexity
    assert sum(p.numel() for p in network.parameters()) == model.chain.complexity.params
    assert Chain.from_json(model.chain.to_json()) == model.chain


def test_float_and_quantised_network_agree_within_a_tenth_of_the_logits_deviation(saved) -> None:
    model = read_int8(saved(small()))
    images = torch.rand(4, 3, 18, 18, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        logits, quantised = model.float_network().eval()(images), model.quantised_network()(images)
    assert (logits - quantised).abs().mean() < 0.1 * logits.std()


def test_the_trained_network_classifies_photographs(trained, photographs) -> None:
    """Float and quantised network say the same of real photographs: cat, espresso and space shuttle."""
    from engine.imagenet import imagenet_classes

    model, names = read_int8(trained), imagenet_classes()
    assert (model.chain.complexity.params, model.chain.complexity.macs) == (423232, 18715904)
    for network in (model.float_network().eval(), model.quantised_network().eval()):
        for photo, name in (("chelsea", "Egyptian cat"), ("coffee", "espresso"), ("rocket", "space shuttle")):
            with torch.no_grad():
                logits: Tensor = network(model.preprocessing.input_of(photographs[photo]))
            assert names[int(logits.argmax())] == name


def test_convert_writes_an_architecture_and_a_checkpoint_that_predicts(trained, photographs, tmp_path) -> None:
    out = tmp_path / "architecture.json", tmp_path / "checkpoint.pt"
    convert(trained, out[0], (trained, out[1]))
    assert Chain.from_json(out[0].read_text()) == read_int8(trained).chain
    prediction = predict(out[1], photographs["coffee"])
    assert prediction.classes[0] == "espresso"
    assert prediction.probabilities[0] > 0.8


def test_predict_and_evaluate_run_the_codes_of_a_file(saved, door, tmp_path, capsys) -> None:
    """They take the file in place of a name: the network as the device computes it, not the dequantised one."""
    path, folder = saved(small()), write_images(tmp_path / "images", 4, classes=5, size=40, parts=["val"])
    model = read_int8(path)
    ended = door("evaluate", "--arch", path, "--path", folder, "--workers", 0, "--device", "cpu")
    scores = score_files(model.quantised_network(), folder, model.preprocessing, 5, workers=0)
    assert ended.status == 0, ended.err
    top1, loss = f"{scores.test.top1:.2f}", f"{scores.test.loss:.4f}"
    assert ended.out.startswith(f"test set, 20 images: top-1 {top1} %, loss {loss}")
    photo = folder / "val" / "class0" / "000.png"
    with torch.no_grad():
        probability, best = model.quantised_network()(model.preprocessing.input_of(photo)).softmax(1).max(1)
    with pytest.raises(SystemExit) as end:
        main(["predict", "--arch", str(path), str(photo), "--top", "1"])
    assert not end.value.code
    assert capsys.readouterr().out == f"{photo}: {int(best)} {100 * float(probability):.1f} %\n"


def test_the_ending_of_an_int8_network_may_have_capitals(saved, tmp_path) -> None:
    path = saved(small()).rename(tmp_path / "SMALL.PKL")
    convert(path, tmp_path / "SMALL.JSON")
    assert design_of(tmp_path / "SMALL.JSON").layers == read_int8(path).chain.layers


def test_what_net_config_cannot_say_is_refused_by_its_field(saved, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"blocks\.0\.bn: got false, expected true"):
        convert(saved(small()), tmp_path / "net.config")


def test_weights_of_another_network_are_refused(saved, tmp_path) -> None:
    path = saved(small())
    with pytest.raises(CheckpointError, match="is of another network"):
        convert("proxyless_cpu", tmp_path / "a.json", (path, tmp_path / "a.pt"))
    assert list(tmp_path.iterdir()) == [path]


def changed(record: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Returns the record with another value at a place such as `blocks.0.depthwise.stride`; `...` removes the key."""
    *above, key = place.split(".")
    inner: Any = record
    for part in above:
        inner = inner[int(part) if isinstance(inner, list) else part]
    if value is ...:
        del inner[key]
    else:
        inner[key] = value
    return record


EXPAND = "blocks.1.pointwise1"


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        ("feature_mix", ..., "feature_mix: is missing"),
        ("head", 1, "head: is an unknown field"),
        ("blocks", {}, "blocks: got a value of type dict, expected a list"),
        ("blocks.0.depthwise", None, "blocks.0.depthwise: got null, expected an object"),
        ("blocks.0.se", {}, "blocks.0.se: got a value of type dict, expected null"),
        (f"{EXPAND}.params", ..., f"{EXPAND}.params: is missing"),
        (f"{EXPAND}.params.w_zero", 0, f"{EXPAND}.params.w_zero: is an unknown field"),
        (f"{EXPAND}.params.weight", [1], f"{EXPAND}.params.weight: got [1], expected an array (12, 6"),
        (
            f"{EXPAND}.params.weight",
            np.zeros((12, 5, 1, 1), np.int8),
            f"{EXPAND}.params.weight: has shape (12, 5, 1, 1) of int8, expected (12, 6, 1, 1) of int8",
        ),
        (
            f"{EXPAND}.params.bias",
            np.zeros(12, np.int64),
            f"{EXPAND}.params.bias: has shape (12,) of int64, expected (12,) of int32",
        ),
        (f"{EXPAND}.params.w_scales", np.zeros(12, np.float32), f"{EXPAND}.params.w_scales: has values that are not"),
        (f"{EXPAND}.params.x_zero", 8, f"{EXPAND}.params.x_scale: got 0.12, and 8 for x_zero, expected 0.12 and 7"),
        (f"{EXPAND}.params.y_zero", 300, f"{EXPAND}.params.y_zero: got 300, expected a whole number, -128 to 127"),
        (f"{EXPAND}.params.y_scale", 0.1, f"{EXPAND}.params.y_scale: got 0.1, and -128 for y_zero, expected at most"),
        (f"{EXPAND}.kernel_size", (3, 3), f"{EXPAND}.kernel_size: got 3 at stride 1, expected 1 at stride 1"),
        (f"{EXPAND}.in_channel", 7, f"{EXPAND}.in_channel: got 7, expected 6, which the layers before it give"),
        (f"{EXPAND}.act", "relu", f"{EXPAND}.act: got 'relu', expected null"),
        ("blocks.1.depthwise.groups", 6, "blocks.1.depthwise.groups: got 6, expected 12"),
        ("blocks.1.depthwise.kernel_size", (3, 5), "blocks.1.depthwise.kernel_size: got (3, 5), expected one odd"),
        ("blocks.1.depthwise.stride", 2, "blocks.1.residual: is there at stride 2"),
        ("blocks.1.residual.params.x_scale", 0.06, "blocks.1.residual.params.x_scale: got 0.06"),
        ("first_conv.in_shape", ..., "first_conv.in_shape: got null, expected a whole number"),
        ("first_conv.out_shape", 8, "first_conv.out_shape: got 8, expected 9"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_that_names_the_field(place, value, line, saved) -> None:
    path = saved(changed(small(), place, value))
    with pytest.raises(CheckpointError) as raised:
        read_int8(path)
    assert str(raised.value).startswith(f"{path}: {line}")
    assert "\n" not in str(raised.value)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_file_does_not_run(saved, tmp_path) -> None:
    path = saved(small() | {"head": Bomb(tmp_path / "ran")})
    with pytest.raises(CheckpointError, match="holds more than arrays and numbers; nothing in it was run"):
        read_int8(path)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        read_int8(tmp_path / "plain.pkl")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError, match="has no first_conv"):
        read_int8(saved({"state_dict": {}}))
    with pytest.raises(CheckpointError, match="got a value of type list, expected an object"):
        read_int8(saved([json.dumps({})]))


def test_reading_one_leaves_no_function_of_numpy_allowed(saved) -> None:
    before = set(map(str, torch.serialization.get_safe_globals()))
    read_int8(saved(small()))
    assert set(map(str, torch.serialization.get_safe_globals())) == before
