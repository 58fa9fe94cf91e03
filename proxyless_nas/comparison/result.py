"""Defines what a comparison knows of networks and devices: rows, columns and figures, as they are in its JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.config import Section
from engine.evaluation import wilson

Kind = Literal["published", "predicted", "measured"]


class Accuracy(Section):
    """The accuracy of a network on one set of images."""

    top1: float = Field(ge=0, le=100)
    """Percent."""
    data: str
    """The images, in words."""
    published: bool
    """Whether its authors state it; otherwise it was measured."""
    images: int | None = Field(None, ge=1)
    """The number of images; None if it is not known."""
    source: str = ""
    """Where the figure comes from, in words."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of a measured accuracy in percent; None if the number of images is not known."""
        return None if self.published or self.images is None else wilson(self.top1, self.images)

    @property
    def basis(self) -> str:
        """The images in words; accuracies on one basis can be compared with each other."""
        if self.published:
            return f"{self.data}, published"
        return self.data if self.images is None else f"{self.data}, {self.images} images"


class Latency(Section):
    """A network's latency in one column; without a number, the reason."""

    ms: float | None = Field(None, gt=0)
    noise_ms: float | None = Field(None, ge=0)
    """The standard deviation of the medians of the rounds, of a measured latency."""
    error: float = Field(0.0, ge=0)
    """How far off it may be, as a share: of a measured one, by its noise; of a predicted one, by the table's
    verification."""
    steady: bool = True
    """False if other work disturbed the timing, so that it decides nothing."""
    reason: str = ""
    """Why there is no number."""


class Column(Section):
    """A column of latencies: a device of a publication, a table's device, or a runtime of this machine."""

    name: str
    """The word by which `at` names it."""
    kind: Kind
    text: str
    """The device and the conditions, in words."""

    @property
    def heading(self) -> str:
        """The column's heading, which says what kind of figures it has."""
        return f"{self.short} [ms], {self.kind}"

    @property
    def short(self) -> str:
        """The name where the kind stands beside it."""
        return self.name.removeprefix(f"{self.kind}_")


class Row(Section):
    """A network of a comparison."""

    name: str
    params: int
    macs: int
    """Of convolutions, linear layers and matrix products, at batch 1."""
    channels: int
    input_size: int
    """Height and width of the input in pixels."""
    classes: int
    accuracies: tuple[Accuracy, ...] = ()
    no_accuracy: str = ""
    """Why its accuracy was not measured; empty if it was, or nobody asked for it."""
    latencies: dict[str, Latency] = Field(default_factory=dict)
    """By the names of the columns."""
