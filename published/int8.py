"""Reads trained int8 networks of tiny-training (github.com/mit-han-lab/tiny-training), such as proxyless-w0.3.pkl.

    model = read_int8(Path("proxyless-w0.3.pkl"))
    model.chain                # its architecture
    model.float_network()      # a Network with the dequantised weights
    model.quantised_network()  # computes the codes that the int8 network computes

Such a file holds a ProxylessNAS whose BN is folded. A number y is stored as the code q = clamp(round(y / scale) + zero,
-128, 127), and stands for (q - zero) * scale; scale and zero belong to a whole map. A weight is its int8 times the
scale of its output channel, a bias its int32 times that scale and the scale of the input. ReLU6 is in the clamps: a
code of -128 is 0 there, one of 127 at most 6, and less if the training images gave no larger activation.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from engine.data.preprocessing import Preprocessing
from engine.errors import CheckpointError
from engine.files import read_bytes
from engine.runs.checkpoints import NOT_A_STATE
from published.download import MOST_BYTES
from published.records import Record, shown
from supernet.chain import Chain, ChainConfig, ClassifierConfig, ConvConfig, MBConvConfig
from supernet.errors import InvalidError
from supernet.json_text import of_validation
from supernet.network import Network

LOWEST, HIGHEST = -128, 127
"""The range of a code."""
_EXPECTED = "an int8 network of tiny-training (.pkl)"
_TOP_OF_RELU6 = 6 * (1 + 1e-6)  # the scales of a file are rounded


@dataclass(frozen=True)
class Codes:
    """How the numbers of a map are stored: code q stands for (q - zero) * scale."""

    scale: float
    zero: int

    def of(self, reals: Tensor) -> Tensor:
        """Returns the codes of numbers, in float64: the nearest ones, the even one of two that are equally near."""
        return (torch.round(reals.double() / self.scale) + self.zero).clamp(LOWEST, HIGHEST)

    def reals(self, codes: Tensor) -> Tensor:
        """Returns the numbers that codes stand for, in float64."""
        return (codes.double() - self.zero) * self.scale


@dataclass(frozen=True, eq=False)
class Int8Conv:
    """A convolution as it is stored, and the codes of its input and output."""

    stride: int
    groups: int
    weight: Tensor
    """(C_out, C_in / groups, k, k) int8."""
    bias: Tensor
    """(C_out,) int32."""
    w_scales: Tensor
    """(C_out,) float32."""
    x: Codes
    y: Codes

    @property
    def width(self) -> int:
        """Output channels."""
        return len(self.weight)

    @property
    def kernel(self) -> int:
        """Height and width of the kernel in pixels."""
        return self.weight.shape[-1]

    @property
    def real_weight(self) -> Tensor:
        """The weights, (C_out, C_in / groups, k, k) float32."""
        return (self.weight.double() * self.w_scales.double()[:, None, None, None]).float()

    @property
    def real_bias(self) -> Tensor:
        """The biases, (C_out,) float32."""
        return (self.bias.double() * self.w_scales.double() * self.x.scale).float()


@dataclass(frozen=True, eq=False)
class Int8Block:
    """An inverted residual."""

    expand: Int8Conv | None
    depthwise: Int8Conv
    project: Int8Conv
    sum: Codes | None
    """The codes of the block's output, which is the sum of its input and of the last convolution's output; None if the
    block does not add its input."""

    @property
    def convs(self) -> dict[str, Int8Conv]:
        """The convolutions by the names that they have in an MBConv, in their order."""
        first = {} if self.expand is None else {"expand": self.expand}
        return {**first, "depthwise": self.depthwise, "project": self.project}


@dataclass(frozen=True, eq=False)
class Int8Model:
    """A trained int8 network: its layers as they are stored."""

    chain: Chain
    stem: Int8Conv
    blocks: tuple[Int8Block, ...]
    feature_mix: Int8Conv | None
    classifier: Int8Conv

    @property
    def preprocessing(self) -> Preprocessing:
        """How a picture becomes the input: Resize and CenterCrop, then mean 0.5 and std 0.5 of pixels in [0, 1]."""
        return Preprocessing.of_files(self.chain.input_size, (0.5,) * 3, (0.5,) * 3)

    def float_network(self) -> Network:
        """Returns the network in float32, with the dequantised weights; every clamp at 127 is ReLU6's at 6."""
        network = Network(self.chain)
        convs = {"stem.conv": self.stem, "classifier.linear": self.classifier}
        if self.feature_mix is not None:
            convs["feature_mix.conv"] = self.feature_mix
        for i, block in enumerate(self.blocks):
            convs |= {f"edges.{i}.op.{name}.conv": conv for name, conv in block.convs.items()}
        state = {f"{name}.weight": conv.real_weight for name, conv in convs.items()}
        state |= {f"{name}.bias": conv.real_bias for name, conv in convs.items()}
        state["classifier.linear.weight"] = state["classifier.linear.weight"].flatten(1)
        network.load_state_dict(state)
        return network

    def quantised_network(self) -> QuantisedNetwork:
        """Returns the network that computes in codes."""
        return QuantisedNetwork(self)


class _QuantisedConv(nn.Module):
    """Codes (N, C_in, H, W) -> codes (N, C_out, H', W'), all of them whole numbers in float64."""

    weight: Tensor
    bias: Tensor
    factor: Tensor

    def __init__(self, conv: Int8Conv):
        super().__init__()
        self.stride, self.groups, self.zero_x, self.zero_y = conv.stride, conv.groups, conv.x.zero, conv.y.zero
        self.register_buffer("weight", conv.weight.double())
        self.register_buffer("bias", conv.bias.double())
        factor = conv.x.scale * conv.w_scales.double() / conv.y.scale
        self.register_buffer("factor", factor[:, None, None])

    def forward(self, codes: Tensor) -> Tensor:
        # sums of whole numbers below 2^53, hence exact; padding adds 0, the number that the code zero_x stands for
        padding = self.weight.shape[-1] // 2
        sums = F.conv2d(codes - self.zero_x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return (torch.round(sums * self.factor) + self.zero_y).clamp(LOWEST, HIGHEST)


class _QuantisedBlock(nn.Sequential):
    """An inverted residual in codes: (N, C_in, H, W) -> (N, C_out, H', W')."""

    def __init__(self, block: Int8Block):
        super().__init__(*map(_QuantisedConv, block.convs.values()))
        self.x, self.y, self.sum = next(iter(block.convs.values())).x, block.project.y, block.sum

    def forward(self, input: Tensor) -> Tensor:  # torch's own name of the argument
        out = input
        for conv in self:
            out = conv(out)
        return out if self.sum is None else self.sum.of(self.x.reals(input) + self.y.reals(out))


class QuantisedNetwork(nn.Module):
    """An int8 network: images (N, C, H, W) -> logits (N, classes), which are codes times their scale.

    Every map has the codes that integer arithmetic with exactly rounded factors gives. Codes are whole numbers in
    float64, so that convolutions of them are exact. Many logits are equal: a network of 1000 classes has 256 codes.
    """

    def __init__(self, model: Int8Model):
        super().__init__()
        self.architecture = model.chain
        self.images, self.logits = model.stem.x, model.classifier.y
        self.stem = _QuantisedConv(model.stem)
        self.blocks = nn.Sequential(*map(_QuantisedBlock, model.blocks))
        self.feature_mix = nn.Identity() if model.feature_mix is None else _QuantisedConv(model.feature_mix)
        self.classifier = _QuantisedConv(model.classifier)

    def codes(self, codes: Tensor) -> Tensor:
        """Returns the codes of the logits, (N, classes) float64. codes: of the images (N, C, H, W), float64."""
        x = self.feature_mix(self.blocks(self.stem(codes)))
        pooled = torch.round(x.mean(dim=(2, 3), keepdim=True))  # the code of the mean: scale and zero stay
        logits: Tensor = self.classifier(pooled).flatten(1)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """images (N, C, H, W) -> logits (N, classes) float32."""
        with torch.autocast(images.device.type, enabled=False):
            return self.logits.reals(self.codes(self.images.of(images))).float()


def is_int8(path: Path) -> bool:
    """Returns whether a file is taken for an int8 network: whether its name ends with .pkl."""
    return path.suffix.lower() == ".pkl"


def read_int8(path: Path) -> Int8Model:
    """Returns the int8 network in a file of tiny-training.

    The file is a pickle, and read as arrays and numbers alone: no other code in it runs. Reading is strict: every field
    is known, every array has the shape that the others imply, every input has the codes of the output before it. Raises
    CheckpointError, which names the field.
    """
    content = read_bytes(path, _EXPECTED, CheckpointError, most=MOST_BYTES)
    arrays = import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    kinds = [type(np.dtype(kind)) for kind in (np.int8, np.int32, np.int64, np.float32, np.float64)]
    # the name that numpy had for these functions until version 2, and the one since then
    names = [f"numpy.{home}.multiarray.{name}" for home in ("core", "_core") for name in ("_reconstruct", "scalar")]
    allowed: list[Any] = [(getattr(arrays, name.rpartition(".")[2]), name) for name in names]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*allowed, np.ndarray, np.dtype, *kinds]):
            warnings.simplefilter("ignore", UserWarning)  # torch names a protocol of pickle that it does not expect
            record: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except NOT_A_STATE:
        found = "is damaged, or a pickle that holds more than arrays and numbers; nothing in it was run"
        raise CheckpointError(str(path), found, _EXPECTED) from None
    try:
        return _model(record, path.stem)
    except InvalidError as error:
        raise CheckpointError.of(error, str(path)) from None


def _model(value: Any, name: str) -> Int8Model:
    record = Record(value, "")
    if not isinstance(value.get("first_conv"), dict):
        raise InvalidError("", "has no first_conv", _EXPECTED)
    size = _whole(value["first_conv"].get("in_shape"), "first_conv.in_shape")
    channels = _whole(value["first_conv"].get("in_channel"), "first_conv.in_channel")
    flow = _Flow(channels, size, None)
    stem, flow = _conv(record.take("first_conv"), "first_conv", flow, groups=1, relu6=True)
    values = record.take("blocks")
    if not isinstance(values, list):
        raise InvalidError("blocks", f"got {shown(values)}", "a list")
    blocks, configs = [], []
    for i, value in enumerate(values):
        c_in = flow.channels
        block, flow = _block(value, f"blocks.{i}", flow)
        blocks.append(block)
        configs.append(
            MBConvConfig(
                op="mbconv", width=block.project.width, kernel=block.depthwise.kernel, stride=block.depthwise.stride,
                hidden=None if block.expand is None else block.expand.width, bn=False, residual=block.sum is not None,
            )
        )  # fmt: skip
        if block.sum is not None and (block.depthwise.stride != 1 or c_in != flow.channels):
            found = f"is there at stride {block.depthwise.stride} and {c_in} -> {flow.channels} channels"
            raise InvalidError(f"blocks.{i}.residual", found, "null")
    mix, mix_config = record.take("feature_mix"), None
    if mix is not None:
        mix, flow = _conv(mix, "feature_mix", flow, groups=1, relu6=True)
        mix_config = ConvConfig(op="conv", width=mix.width, kernel=mix.kernel, stride=mix.stride, bn=False, bias=True)
    last = _Flow(flow.channels, 1, flow.codes)
    head, _ = _conv(record.take("classifier"), "classifier", last, groups=1)
    if (head.kernel, head.stride) != (1, 1):
        raise InvalidError("classifier.kernel_size", f"got {head.kernel} at stride {head.stride}", "1 at stride 1")
    record.end()
    try:
        config = ChainConfig(
            input_size=size,
            input_channels=channels,
            stem=ConvConfig(op="conv", width=stem.width, kernel=stem.kernel, stride=stem.stride, bn=False, bias=True),
            blocks=tuple(configs),
            feature_mix=mix_config,
            classifier=ClassifierConfig(classes=head.width),
        )
    except ValidationError as error:
        raise of_validation(error, "") from None
    return Int8Model(Chain(config, name), stem, tuple(blocks), mix, head)


@dataclass(frozen=True)
class _Flow:
    """What flows into a layer: the channels, the pixels a side, and the codes; those of the images are free."""

    channels: int
    size: int
    codes: Codes | None


def _block(value: Any, place: str, flow: _Flow) -> tuple[Int8Block, _Flow]:
    """Reads an inverted residual, and what flows out of it."""
    record, before = Record(value, place), flow
    expand, value = None, record.take("pointwise1")
    if value is not None:
        expand, flow = _conv(value, record.at("pointwise1"), flow, groups=1, relu6=True, pointwise=True)
    at = record.at("depthwise")
    depthwise, flow = _conv(record.take("depthwise"), at, flow, groups=flow.channels, relu6=True)
    project, flow = _conv(record.take("pointwise2"), record.at("pointwise2"), flow, groups=1, pointwise=True)
    residual, total = record.take("residual"), None
    if residual is not None:
        total = _sum(residual, record.at("residual"), before)
        flow = _Flow(flow.channels, flow.size, total)
    record.only("se", None, default=None)
    record.end()
    return Int8Block(expand, depthwise, project, total), flow


def _sum(value: Any, place: str, flow: _Flow) -> Codes:
    """Reads the addition of a block's input, and returns the codes of the sum."""
    record = Record(value, place)
    _check(record, flow, 1)
    params = Record(record.take("params"), record.at("params"))
    record.end()
    _codes(params, "x", flow.codes)
    total = _codes(params, "y", None)
    params.end()
    return total


def _conv(
    value: Any, place: str, flow: _Flow, *, groups: int, relu6: bool = False, pointwise: bool = False
) -> tuple[Int8Conv, _Flow]:
    """Reads a convolution, and what flows out of it. relu6: whether its clamps must be those of ReLU6. pointwise:
    whether it must be 1x1 with stride 1."""
    record = Record(value, place)
    width = record.number("out_channel", 1)
    kernel, stride = _kernel(record), record.number("stride", 1)
    if pointwise and (kernel, stride) != (1, 1):
        raise InvalidError(record.at("kernel_size"), f"got {kernel} at stride {stride}", "1 at stride 1")
    if groups > 1 and width != groups:
        raise InvalidError(record.at("out_channel"), f"got {width}", f"{groups}, as many as flow in")
    size = _check(record, flow, stride)
    record.equal("groups", groups)
    record.only("depthwise", groups > 1, default=groups > 1)
    record.only("act", None, default=None)
    params = Record(record.take("params"), record.at("params"))
    record.end()
    conv = Int8Conv(
        stride,
        groups,
        _array(params, "weight", (width, flow.channels // groups, kernel, kernel), np.int8),
        _array(params, "bias", (width,), np.int32),
        _array(params, "w_scales", (width,), np.float32),
        _codes(params, "x", flow.codes),
        _codes(params, "y", None),
    )
    params.end()
    if relu6 and (conv.y.zero != LOWEST or (HIGHEST - LOWEST) * conv.y.scale > _TOP_OF_RELU6):
        found = f"got {conv.y.scale:.6g}, and {conv.y.zero} for y_zero"
        raise InvalidError(params.at("y_scale"), found, "at most 6/255, and -128: the clamps of ReLU6")
    return conv, _Flow(width, size, conv.y)


def _check(record: Record, flow: _Flow, stride: int) -> int:
    """Takes the fields of a layer's shapes, which must be those that flow there. Returns the pixels a side of its
    output."""
    record.equal("in_channel", flow.channels)
    size = -(-flow.size // stride)
    for key, pixels in (("in_shape", flow.size), ("out_shape", size)):
        if record.has(key):
            record.equal(key, pixels)
    return size


def _kernel(record: Record) -> int:
    value = record.take("kernel_size")
    sizes = {value} if type(value) is int else set(value) if isinstance(value, tuple | list) else set()
    kernel = sizes.pop() if len(sizes) == 1 else None
    if type(kernel) is not int or kernel < 1 or kernel % 2 == 0:
        raise InvalidError(record.at("kernel_size"), f"got {value!r:.60}", "one odd number, or it twice")
    return kernel


def _whole(value: Any, place: str) -> int:
    if type(value) is not int or value < 1:
        raise InvalidError(place, f"got {shown(value)}", "a whole number from 1 on")
    return value


def _codes(record: Record, name: str, flowing: Codes | None) -> Codes:
    """Reads a scale and a zero point, which must be those of what flows there."""
    scale, zero = (_plain(record.take(f"{name}_{part}")) for part in ("scale", "zero"))
    if type(scale) is not float or not (math.isfinite(scale) and scale > 0):
        raise InvalidError(record.at(f"{name}_scale"), f"got {shown(scale)}", "a number above 0")
    if type(zero) is not int or not LOWEST <= zero <= HIGHEST:
        raise InvalidError(record.at(f"{name}_zero"), f"got {shown(zero)}", f"a whole number, {LOWEST} to {HIGHEST}")
    codes = Codes(scale, zero)
    if flowing is not None and codes != flowing:
        found = f"got {scale:.9g}, and {zero} for {name}_zero"
        expected = f"{flowing.scale:.9g} and {flowing.zero}, those of the output before it"
        raise InvalidError(record.at(f"{name}_scale"), found, expected)
    return codes


def _plain(value: Any) -> Any:
    """Returns a number of numpy, or an array of one number, as one of Python."""
    return value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value


def _array(record: Record, key: str, shape: tuple[int, ...], kind: type[np.generic]) -> Tensor:
    value = record.take(key)
    expected = f"{shape} of {np.dtype(kind)}"
    if not isinstance(value, np.ndarray):
        raise InvalidError(record.at(key), f"got {shown(value)}", f"an array {expected}")
    if value.shape != shape or value.dtype != kind:
        raise InvalidError(record.at(key), f"has shape {value.shape} of {value.dtype}", expected)
    if kind is np.float32 and not (np.isfinite(value).all() and (value > 0).all()):
        raise InvalidError(record.at(key), "has values that are not above 0")
    return torch.from_numpy(value.copy())
