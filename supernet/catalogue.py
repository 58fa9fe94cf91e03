"""Registers the candidate ops. Each is known by one string, its key in `CANDIDATES`.

To add one from outside the package, see docs/extending/candidate.md.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from torch import nn

from supernet.complexity import Complexity, conv_complexity, linear_complexity
from supernet.ops import ConvBN, ConvBNAct, MBConv, OpSettings, PoolClassifier, SepConv, Zero
from supernet.user_modules import load


class Candidate(ABC):
    """An op before it has channels. `str(candidate)` is its only name, in YAML, latency tables and architecture.json.

    Subclasses are frozen dataclasses, so that candidates are immutable and hashable.
    """

    @abstractmethod
    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        """Returns a module (N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride)), without the residual add.

        Its convolutions and BN should come from `supernet.ops`, or take eps, momentum and running statistics from
        `settings`. Its forward must not change its input in place.
        """

    @abstractmethod
    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        """Returns the parameters, and the MACs on a `size` x `size` input, as defined in supernet/complexity.py."""

    @property
    def spatial(self) -> bool:
        """Whether an output pixel depends on more than one input pixel. Candidates without that property are trained
        half as often in a supernet, since they have little to learn (supernet/balance.py)."""
        return True

    def why_illegal(self, c_in: int, c_out: int, stride: int, residual: bool) -> str | None:
        """Returns the reason why this op is illegal on such an edge, as the end of a sentence; None if it is legal."""
        return None


CANDIDATES: dict[str, Candidate] = {}
"""Every registered candidate by its name."""

MOST_OF_A_NAME = 100
_NAME = re.compile(rf"[^\s+@]{{1,{MOST_OF_A_NAME}}}")

C = TypeVar("C", bound=type[Candidate])


def register(**fields: Iterable[Any]) -> Callable[[C], C]:
    """Returns a class decorator that enters an instance into CANDIDATES for each combination of the field values.

    Raises ValueError if a name is taken by another class, or cannot be a name; TypeError if the class is no candidate.
    """

    def enter(cls: C) -> C:
        if not (isinstance(cls, type) and issubclass(cls, Candidate)):
            raise TypeError(f"{cls!r:.100} is registered, expected a subclass of supernet.catalogue.Candidate")
        for values in product(*fields.values()):
            spec = cls(**dict(zip(fields, values, strict=True)))
            name = str(spec)
            hash(spec)  # TypeError if its dataclass is not frozen
            if not _NAME.fullmatch(name) or not name.isprintable():
                raise ValueError(
                    f"{cls.__qualname__} names itself {name[:MOST_OF_A_NAME]!r}, expected 1 to {MOST_OF_A_NAME} "
                    "characters without blanks, '+' and '@', which separate the parts of a table's keys"
                )
            if name in CANDIDATES:
                raise ValueError(f"candidate '{name}' is already registered by {type(CANDIDATES[name]).__qualname__}")
            CANDIDATES[name] = spec
        return cls

    return enter


def import_candidates(module: str) -> None:
    """Imports a user's module, once per process, so that its `@register` lines run.

    module: as for `supernet.user_modules.load`. If that raises InvalidError, nothing is registered.
    """
    before = dict(CANDIDATES)
    try:
        load(module)
    except ValueError:  # undone, since a corrected module that is imported again must not clash with itself
        CANDIDATES.clear()
        CANDIDATES.update(before)
        raise


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Returns the nearest multiple of `divisor` that is at least 90 % of `channels`, as MobileNetV2's authors round."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _ceil_div(size: int, stride: int) -> int:
    return -(-size // stride)


@register(kernel_size=(3, 5, 7), expand=(1, 2, 3, 4, 5, 6), se=(False, True))
@dataclass(frozen=True)
class MBConvSpec(Candidate):
    """`mbconv_k3_e6`, `mbconv_k3_e6_se`: an inverted residual (supernet.ops.MBConv), with squeeze-excite if `se`."""

    kernel_size: int
    expand: int
    se: bool = False

    def __str__(self) -> str:
        return f"mbconv_k{self.kernel_size}_e{self.expand}" + ("_se" if self.se else "")

    def squeezed(self, c_in: int) -> int | None:
        """Returns the channels inside squeeze-excite, None without it: a quarter of the hidden channels, rounded to 8
        (MobileNetV3, arXiv 1905.02244)."""
        return make_divisible(c_in * self.expand / 4) if self.se else None

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        squeezed = self.squeezed(c_in)
        return MBConv(
            c_in, c_out, settings, kernel_size=self.kernel_size, stride=stride, expand=self.expand, squeezed=squeezed
        )

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        hidden, size_out = c_in * self.expand, _ceil_div(size, stride)
        total = conv_complexity(hidden, hidden, self.kernel_size, size_out, groups=hidden)
        total += conv_complexity(hidden, c_out, 1, size_out)
        if self.expand > 1:
            total += conv_complexity(c_in, hidden, 1, size)
        if squeezed := self.squeezed(c_in):
            total += conv_complexity(hidden, squeezed, 1, 1, bias=True, bn=False)
            total += conv_complexity(squeezed, hidden, 1, 1, bias=True, bn=False)
        return total


@register()
@dataclass(frozen=True)
class SkipSpec(Candidate):
    """`skip`: the paper's Zero on a residual edge, which then returns its input."""

    spatial = False

    def __str__(self) -> str:
        return "skip"

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        return Zero()

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        return Complexity()

    def why_illegal(self, c_in: int, c_out: int, stride: int, residual: bool) -> str | None:
        return None if residual else "it is legal only on residual edges (stride 1, equal channels)"


@register()
@dataclass(frozen=True)
class ProjSpec(Candidate):
    """`proj`: a 1x1 convolution and BN, which change the shape."""

    spatial = False

    def __str__(self) -> str:
        return "proj"

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        return ConvBN(c_in, c_out, 1, settings, stride=stride)

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        return conv_complexity(c_in, c_out, 1, _ceil_div(size, stride))


@register(kernel_size=(1, 3, 5))
@dataclass(frozen=True)
class ConvSpec(Candidate):
    """`conv_k3`: a convolution, BN and the activation."""

    kernel_size: int

    @property
    def spatial(self) -> bool:
        return self.kernel_size > 1

    def __str__(self) -> str:
        return f"conv_k{self.kernel_size}"

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        return ConvBNAct(c_in, c_out, self.kernel_size, settings, stride=stride)

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        return conv_complexity(c_in, c_out, self.kernel_size, _ceil_div(size, stride))


@register(kernel_size=(3, 5, 7))
@dataclass(frozen=True)
class SepConvSpec(Candidate):
    """`sepconv_k3`: a depthwise convolution and a 1x1 convolution (supernet.ops.SepConv)."""

    kernel_size: int

    def __str__(self) -> str:
        return f"sepconv_k{self.kernel_size}"

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        return SepConv(c_in, c_out, settings, kernel_size=self.kernel_size, stride=stride)

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        size_out = _ceil_div(size, stride)
        depthwise = conv_complexity(c_in, c_in, self.kernel_size, size_out, groups=c_in)
        return depthwise + conv_complexity(c_in, c_out, 1, size_out)


@register(kind=("avg", "max"))
@dataclass(frozen=True)
class PoolSpec(Candidate):
    """`avgpool_k3`, `maxpool_k3`: 3x3 pooling. Padding does not count into an average."""

    kind: str

    def __str__(self) -> str:
        return f"{self.kind}pool_k3"

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        if self.kind == "avg":
            return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        return nn.MaxPool2d(3, stride, padding=1)

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        return Complexity()

    def why_illegal(self, c_in: int, c_out: int, stride: int, residual: bool) -> str | None:
        return None if c_in == c_out else f"pooling cannot change {c_in} channels into {c_out}"


# The ops outside the chain of edges have names of their own, by which tables and errors refer to them.


@dataclass(frozen=True)
class StemSpec(ConvSpec):
    """The first convolution, BN and the activation."""

    def __str__(self) -> str:
        return f"stem_k{self.kernel_size}"


@dataclass(frozen=True)
class FeatureMixSpec(ConvSpec):
    """The last 1x1 convolution, BN and the activation."""

    kernel_size: int = 1

    def __str__(self) -> str:
        return "feature_mix"


@dataclass(frozen=True)
class PoolClassifierSpec(Candidate):
    """The global average pool and the classifier, with dropout between them."""

    dropout: float = 0.0

    def __str__(self) -> str:
        return "pool_classifier"

    def build(self, c_in: int, c_out: int, stride: int, settings: OpSettings) -> nn.Module:
        return PoolClassifier(c_in, c_out, self.dropout)

    def complexity(self, c_in: int, c_out: int, size: int, stride: int) -> Complexity:
        return linear_complexity(c_in, c_out)
