"""Lists what TensorBoard's page HPARAMS compares, once for searches and retrainings.

TensorBoard takes the columns of that page from the first run that it reads. So all runs name the same columns, and each
fills in those that it has.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """Describes a tag of TensorBoard: its unit, if it has one, and a sentence."""

    unit: str
    meaning: str

    @property
    def description(self) -> str:
        """Returns the text that TensorBoard shows beside the curve."""
        return f"{self.meaning} Unit: {self.unit}." if self.unit else self.meaning


@dataclass(frozen=True)
class Hyperparameter:
    """A setting that is a column of the page HPARAMS."""

    kind: type[float] | type[str]
    """The type of the column; float for every number."""
    meaning: str
    prominent: bool = False
    """Whether it is one of the five columns that the page shows at first."""


HYPERPARAMETERS = {
    "kind": Hyperparameter(str, "search or retraining.", prominent=True),
    "data": Hyperparameter(str, "The data set."),
    "architecture": Hyperparameter(str, "The name of the architecture that is retrained."),
    "device": Hyperparameter(str, "The device whose latency table the first limit on latency reads.", prominent=True),
    "limits": Hyperparameter(str, "What the derived network has to meet."),
    "bound": Hyperparameter(float, "The bound of the first limit, in its unit.", prominent=True),
    "arch_update": Hyperparameter(str, "How the path probabilities learn.", prominent=True),
    "loss": Hyperparameter(str, "How limits enter the loss of the path probabilities."),
    "arch_lr": Hyperparameter(float, "The learning rate of the path probabilities."),
    "epochs": Hyperparameter(float, "Epochs of the search or of the retraining."),
    "warmup_epochs": Hyperparameter(float, "Epochs before the search, in which the probabilities rest."),
    "batch_size": Hyperparameter(float, "Images in a step, of all processes together."),
    "optimizer": Hyperparameter(str, "What updates the weights."),
    "lr": Hyperparameter(float, "The first learning rate of the weights."),
    "weight_decay": Hyperparameter(float, "The weight decay of the weights."),
    "augmentation": Hyperparameter(str, "How a retraining changes its training images."),
    "label_smoothing": Hyperparameter(float, "The label smoothing of the weights' loss."),
    "seed": Hyperparameter(float, "The seed of all random numbers.", prominent=True),
}

FINAL = {
    "final/top1": Curve(
        "%",
        "Accuracy once the run has ended. A search writes that of the derived network with the supernet's weights on "
        "validation images, a retraining that of the retrained network on test images.",
    ),
    "final/latency": Curve("ms", "Latency of the network as the table of the first limit on latency predicts it."),
    "final/measured": Curve("ms", "Latency of the network measured on this machine, for the same limit."),
    "final/macs": Curve("MACs", "Multiply-accumulates of one image."),
    "final/params": Curve("parameters", "Learned numbers of the network."),
    "final/rank": Curve(
        "",
        "Of a search: the derived network's place among random ones of equal cost by the supernet's loss; 1 is best.",
    ),
    "final/tau": Curve("", "Of a search: Kendall's correlation of these random ones between alpha and that loss."),
}
"""The columns of results; each is also the tag of a scalar with one point, at the last step."""

ACCURACY_CHARTS: dict[str, tuple[str, ...]] = {
    "top-1 [%]: train, derived (validation), test": ("(train|derived|test)/top1$",),
    "loss [nats]: train, derived (validation), test": ("(train|derived|test)/loss$",),
}
"""Charts of the page CUSTOM SCALARS that all runs have: title, and patterns of the tags in it."""
