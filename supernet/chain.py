"""Defines a chain: a network as a list of explicit layers, which need not be in any search space, and its JSON form.

A published network has widths, hidden widths or activation functions that no space offers. A chain states them layer by
layer. It stands wherever an architecture can (supernet/design.py); its file is an architecture.json too, of another
`format`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from supernet.catalogue import (
    Candidate,
    ConvSpec,
    FeatureMixSpec,
    MBConvSpec,
    PoolClassifierSpec,
    SkipSpec,
    StemSpec,
)
from supernet.design import Design, check_complexity
from supernet.errors import InvalidError
from supernet.explicit import ExplicitConvSpec, ExplicitMBConvSpec, HeadSpec, IdentitySpec
from supernet.json_text import TOO_DEEP, of_validation, parsed_design
from supernet.ops import OpSettings
from supernet.space import LARGEST_INPUT, MOST_CLASSES, MOST_EDGES, BNConfig, Channels, Layer, Section
from supernet.tree import TransitionConfig, TreeConfig, TreeSpec

FORMAT = "proxylessnas/chain@1"
_KEYS = {"format", "name", "complexity", "predicted", "chain"}


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise InvalidError("", f"got {kernel}", "an odd number")
    return kernel


Kernel = Annotated[int, Field(ge=1, le=31), AfterValidator(_odd)]
Stride = Annotated[int, Field(ge=1, le=8)]
Activation = Literal["relu6", "relu", "hswish"]


class ConvConfig(Section):
    """`op: conv`: a convolution, then BN and an activation."""

    op: Literal["conv"]
    width: Channels
    """Output channels."""
    kernel: Kernel = 3
    stride: Stride = 1
    activation: Activation | Literal["none"] | None = None
    """null: that of the chain."""
    bn: bool = True
    bias: bool = False
    residual: bool = False
    """Whether the block adds its input. Only blocks of stride 1 and equal channels can."""


class MBConvConfig(Section):
    """`op: mbconv`: an inverted residual, 1x1 expand, k x k depthwise, squeeze-excite, 1x1 project."""

    op: Literal["mbconv"]
    width: Channels
    """Output channels."""
    kernel: Kernel = 3
    stride: Stride = 1
    hidden: Channels | None = None
    """The channels of the expanding convolution. null: there is none."""
    squeezed: Channels | None = None
    """The channels inside squeeze-excite. null: there is none."""
    activation: Activation | None = None
    """null: that of the chain."""
    bn: bool = True
    """Whether BN follows each convolution. If not, each has a bias: so a network whose BN is folded is written."""
    residual: bool = False
    """Whether the block adds its input. Only blocks of stride 1 and equal channels can."""


class ZeroConfig(Section):
    """`op: zero`: a residual block without an op, which returns its input."""

    op: Literal["zero"]


class ClassifierConfig(Section):
    """`classifier`: a global average pool, a hidden layer if there is one, dropout and a linear layer."""

    classes: int = Field(1000, ge=2, le=MOST_CLASSES)
    dropout: float = Field(0.0, ge=0, lt=1)
    bias: bool = True
    hidden: Channels | None = None
    """The width of the hidden layer, which has neither BN nor bias (MobileNetV3). null: there is none."""
    activation: Activation | None = None
    """Of the hidden layer. null: that of the chain."""


Block = Annotated[ConvConfig | MBConvConfig | ZeroConfig | TransitionConfig | TreeConfig, Field(discriminator="op")]
Stem = Annotated[ConvConfig | TransitionConfig | TreeConfig, Field(discriminator="op")]


class ChainConfig(Section):
    """The key `chain` of an architecture.json."""

    input_size: int = Field(224, ge=1, le=LARGEST_INPUT)
    """Height and width of the input in pixels."""
    input_channels: int = Field(3, ge=1, le=1024)
    """Channels of the images."""
    activation: Activation = "relu6"
    """The activation of all layers that name none."""
    bn: BNConfig = BNConfig()
    """Batch normalisation of all layers."""
    padding: Literal["symmetric", "same"] = "symmetric"
    """The padding of all convolutions; see `supernet.ops.OpSettings`."""
    dialect: Literal["proxyless", "ofa", "ofa2"] = "proxyless"
    """The dialect of net.config that the chain was read from (published/net_config/). It changes nothing else."""
    stem: Stem
    """The first layer."""
    blocks: tuple[Block, ...] = Field(max_length=MOST_EDGES)
    """The blocks, in the order in which they run."""
    feature_mix: ConvConfig | None = None
    """The last convolution before the pool. null: there is none."""
    classifier: ClassifierConfig = ClassifierConfig()


@dataclass(frozen=True)
class Chain(Design):
    """A network as a list of explicit layers. Raises InvalidError if they do not fit together."""

    config: ChainConfig
    name: str = "unnamed"

    def __post_init__(self) -> None:
        _ = self.places

    def __repr__(self) -> str:
        return f"Chain({self.name!r}: {' '.join(self.names)})"

    @cached_property
    def places(self) -> tuple[tuple[str, Layer], ...]:
        config = self.config
        layer = self._layer("stem", config.stem, config.input_channels, config.input_size)
        places = [("stem", layer)]
        for i, block in enumerate(config.blocks):
            layer = self._layer(f"block{i}", block, layer.c_out, layer.size_out)
            places.append((f"block{i}", layer))
        c, size = layer.c_out, layer.size_out
        if config.feature_mix is None:
            mix = Layer(IdentitySpec(), c, c, size)
        else:
            mix = self._layer("feature_mix", config.feature_mix, c, size)
        head, hidden_act = config.classifier, config.classifier.activation or config.activation
        spec: Candidate = HeadSpec(head.hidden, hidden_act, head.dropout, head.bias)
        if head.hidden is None and head.bias:
            spec = PoolClassifierSpec(head.dropout)
        classifier = Layer(spec, mix.c_out, head.classes, mix.size_out)
        return (*places, ("feature_mix", mix), ("classifier", classifier))

    def _layer(self, place: str, block: Block, c_in: int, size: int) -> Layer:
        """Returns the layer of a block, whose ops have the names of the catalogue if they are in it."""
        match block:
            case ZeroConfig():
                return Layer(SkipSpec(), c_in, c_in, size, residual=True)
            case TransitionConfig() | TreeConfig():
                try:
                    c_out, size_out = block.shape(c_in, size)
                except InvalidError as error:
                    raise InvalidError.of(error, place) from None
                layer = Layer(TreeSpec(block), c_in, c_out, size, stride=max(1, size // size_out))
                if layer.size_out != size_out:
                    raise InvalidError(place, f"takes {size} x {size} pixels to {size_out}", "a whole stride")
                return layer
        if block.residual and (block.stride != 1 or block.width != c_in):
            found = f"got true at stride {block.stride} and {c_in} -> {block.width} channels"
            raise InvalidError(f"{place}.residual", found, "false, or stride 1 and equal channels")
        spec = self._conv(place, block) if isinstance(block, ConvConfig) else self._mbconv(block, c_in)
        return Layer(spec, c_in, block.width, size, block.stride, block.residual)

    def _conv(self, place: str, block: ConvConfig) -> Candidate:
        """Returns the op of a convolution: the catalogue's if it has the block's settings, else an explicit one."""
        kinds: dict[str, type[ConvSpec]] = {"stem": StemSpec, "feature_mix": FeatureMixSpec}
        kind = place if place in kinds else "conv"
        plain = block.bn and not block.bias and block.activation in (None, self.config.activation)
        if plain and (kind != "feature_mix" or block.kernel == 1):
            return kinds.get(kind, ConvSpec)(block.kernel)
        return ExplicitConvSpec(kind, block.kernel, block.activation or self.config.activation, block.bn, block.bias)

    def _mbconv(self, block: MBConvConfig, c_in: int) -> Candidate:
        """Returns the op of an inverted residual: the catalogue's if its name says all of it, else an explicit one."""
        own = None if block.activation in (None, self.config.activation) else block.activation
        expand, rest = divmod(block.hidden or c_in, c_in)
        plain = MBConvSpec(block.kernel, expand, block.squeezed is not None)
        expands_by_more = block.hidden is None or expand > 1  # the catalogue has no convolution that expands by 1
        in_words = own is None and block.bn and not rest and expands_by_more
        if in_words and plain.squeezed(c_in) == block.squeezed:
            return plain
        return ExplicitMBConvSpec(block.kernel, block.hidden, block.squeezed, own, block.bn)

    @property
    def op_settings(self) -> OpSettings:
        bn = self.config.bn
        return OpSettings(self.config.activation, bn.eps, bn.momentum, padding=self.config.padding)

    @property
    def candidate_modules(self) -> tuple[str, ...]:
        return ()

    def with_classes(self, classes: int) -> Chain:
        """Returns the same chain with a classifier of so many classes."""
        classifier = self.config.classifier.model_copy(update={"classes": classes})
        return replace(self, config=self.config.model_copy(update={"classifier": classifier}))

    def to_json(self, predicted: Sequence[Mapping[str, Any]] = ()) -> str:
        """Returns the text of architecture.json. Keys of the chain that have their default are left out."""
        c = self.complexity
        record = {
            "format": FORMAT,
            "name": self.name,
            "complexity": {"params": c.params, "macs": c.macs},
            "predicted": [dict(p) for p in predicted],
            "chain": self.config.model_dump(mode="json", exclude_defaults=True),
        }
        return json.dumps(record, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Chain:
        """Returns the chain that the text of an architecture.json describes. Raises InvalidError, which names the wrong
        key."""
        record = parsed_design(text, FORMAT, _KEYS)
        if "chain" not in record:
            raise InvalidError("", "'chain' is missing", "the layers of the network")
        if not isinstance(record.get("name", ""), str):
            raise InvalidError("name", f"got {record['name']!r}", "text")
        try:
            config = ChainConfig.model_validate_json(json.dumps(record["chain"]))
        except RecursionError:
            raise InvalidError("chain", TOO_DEEP) from None
        except ValidationError as error:
            raise of_validation(error, "chain") from None
        try:
            chain = cls(config, record.get("name", "unnamed"))
        except InvalidError as error:
            raise InvalidError.of(error, "chain") from None
        check_complexity(record, chain, "layers", "the file was edited, convert the network again")
        return chain

    @classmethod
    def of(cls, design: Design) -> Chain:
        """Returns a design as a chain: the same layers, and the same names of weights. Raises InvalidError, which names
        the edge, if an op has no explicit form."""
        if isinstance(design, Chain):
            return design
        (_, stem), *edges, (_, mix), (_, classifier) = design.places
        settings = design.op_settings
        assert isinstance(stem.spec, StemSpec)
        assert isinstance(classifier.spec, PoolClassifierSpec)
        config = ChainConfig.model_validate(
            {
                "input_size": design.input_size,
                "input_channels": design.input_channels,
                "activation": settings.activation,
                "bn": BNConfig(eps=settings.bn_eps, momentum=settings.bn_momentum),
                "stem": ConvConfig(op="conv", width=stem.c_out, kernel=stem.spec.kernel_size, stride=stem.stride),
                "blocks": tuple(_explicit(place, layer) for place, layer in edges),
                "feature_mix": ConvConfig(op="conv", width=mix.c_out, kernel=1),
                "classifier": ClassifierConfig(classes=design.classes, dropout=classifier.spec.dropout),
            }
        )
        return cls(config, design.name)


def _explicit(place: str, layer: Layer) -> ConvConfig | MBConvConfig | ZeroConfig:
    """Returns an edge of an architecture in its explicit form."""
    match layer.spec:
        case SkipSpec():
            return ZeroConfig(op="zero")
        case MBConvSpec(kernel, expand):
            return MBConvConfig(
                op="mbconv", width=layer.c_out, kernel=kernel, stride=layer.stride,
                hidden=layer.c_in * expand if expand > 1 else None,
                squeezed=layer.spec.squeezed(layer.c_in), residual=layer.residual,
            )  # fmt: skip
        case ConvSpec(kernel):
            return ConvConfig(op="conv", width=layer.c_out, kernel=kernel, stride=layer.stride, residual=layer.residual)
    raise InvalidError(f"edge {place}", f"'{layer.spec}' has no explicit form", "mbconv, conv or skip")
