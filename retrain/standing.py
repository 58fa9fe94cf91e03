"""Holds how good the network of a training has been so far, and the best epoch if images are held out to choose it."""

from __future__ import annotations

from torch import nn

from engine.curves.metrics import accuracy_curves
from engine.data import ImageSet, Splits, stratified_split, subset
from engine.errors import ConfigError
from engine.evaluation import ClassCounts, Evaluation
from retrain.config import RetrainSettings
from retrain.state import Best, Evaluated, PlainContent


class Standing:
    """The evaluations of a training so far: on the images held out to choose an epoch by, or if there are none, on the
    test images, which choose nothing."""

    def __init__(self, test: ImageSet, held_out: ImageSet | None):
        self.images = test if held_out is None else held_out
        """The images of the evaluations."""
        self.part = "test" if held_out is None else "validation"
        """Their name, in curves, checkpoints and the progress line."""
        self.evaluated: Evaluated | None = None
        """The last evaluation; None before the first one."""
        self.counts: ClassCounts | None = None
        """How the images of each class were classified in it; None if this process has made none."""
        self.best: Best | None = None
        """The best epoch so far, if images are held out to choose it by."""
        self.highest = 0.0
        """The highest accuracy of all evaluations, in percent."""

    def add(
        self, step: int, network: nn.Module, scores: Evaluation, counts: ClassCounts, raw: Evaluation | None
    ) -> None:
        """Adds an evaluation after `step`, and keeps the weights if they are the best on the images held out.

        network: the network that is the result if the training ends now. raw: the evaluation of the network whose
        weights are not averaged, if the others are.
        """
        self.evaluated, self.counts = Evaluated(step, scores, raw), counts
        self.highest = max(self.highest, scores.top1)
        if self.part == "validation" and (self.best is None or scores.top1 > self.best.top1):
            weights = {key: value.detach().clone() for key, value in network.state_dict().items()}
            self.best = Best(step, scores.top1, weights)

    def curves(self, classes: int) -> dict[str, float]:
        """Returns the points of the curves that the last evaluation gives."""
        assert self.evaluated is not None
        scores, raw = self.evaluated.scores, self.evaluated.raw
        figures = accuracy_curves(self.part, (scores.loss, scores.top1, scores.top5), classes)
        if raw is not None:
            figures |= accuracy_curves(f"{self.part}_not_averaged", (raw.loss, raw.top1, raw.top5), classes)
        return figures

    def in_words(self) -> dict[str, float | str]:
        """Returns the last and the highest accuracy so far, for the progress bar."""
        if self.evaluated is None:
            return {}
        found = self.evaluated
        words = f"{found.scores.top1:.2f} % (highest {self.highest:.2f} %)"
        return {self.part: words if found.raw is None else f"{words}, not averaged {found.raw.top1:.2f} %"}

    def at_end(self, steps: int) -> Evaluation | None:
        """Returns the evaluation of the result on the test images if it has been made: after the last of `steps`, of a
        training that chooses no epoch."""
        if self.evaluated is None or self.evaluated.step != steps or self.best is not None:
            return None
        return self.evaluated.scores

    def record(self) -> dict[str, object]:
        """Returns the plain values that a checkpoint holds of it."""
        kept: dict[str, object] = {self.part: self.evaluated.record() if self.evaluated else None}
        kept["highest"] = self.highest if self.evaluated else None
        if self.best is not None:
            kept["best"] = {"step": self.best.step, "top1": self.best.top1}
        return kept

    def restore(self, plain: PlainContent) -> None:
        """Restores the evaluations from the content of a checkpoint; the best epoch comes with its weights."""
        if plain.test is not None:
            self.evaluated = Evaluated.of_record(plain.test)
            self.highest = plain.highest or plain.test.top1


def parts_of(images: Splits, settings: RetrainSettings, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """Returns the images to train on, and those to choose an epoch by: the data's own, or a part of the training ones,
    drawn from `seed`; None if there are none. Raises ConfigError if both are asked for."""
    train = images.train
    if settings.validation is None:
        return train, images.validation
    if images.validation is not None:
        found = f"got {settings.validation}, but the data have {len(images.validation)} images to choose an epoch by"
        raise ConfigError("retrain.validation", found, remedy="remove it")
    try:
        kept, held_out = stratified_split(train.labels, settings.validation, seed)
    except ConfigError as error:
        raise error.at("retrain.validation") from None
    return subset(train, kept), subset(train, held_out)
