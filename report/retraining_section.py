"""Shows a retraining."""

from __future__ import annotations

from collections.abc import Iterator

from engine.evaluation import wilson
from engine.quantities import TOP5_CLASSES
from report.blocks import UNKNOWN, Block, Figures, Table, Text, lines
from report.facts import Facts


def retraining_blocks(facts: Facts) -> Iterator[Block]:
    retraining = facts.runs.retraining
    if retraining is None:
        return
    from markupsafe import Markup

    if retraining.test is not None:
        test, classes = retraining.test, retraining.design.classes
        shares = [("top-1", test.top1)] + ([("top-5", test.top5)] if classes >= TOP5_CLASSES else [])
        cells = [
            (what, f"{p:.2f}", "{:.2f} to {:.2f}".format(*wilson(p, test.images)), str(test.images))
            for what, p in shares
        ]
        yield Table("On the test set", ("", "%", "95 % interval", "images"), cells)
        yield Text(f"Loss {test.loss:.4f} nats, on the test images {retraining.selection}. The intervals are Wilson's.")
    curves = facts.retraining_curves
    figures = [
        lines("Loss", curves, {"train/loss": "training batches", "test/loss": "test images"}, "nats"),
        lines("Accuracy", curves, {"train/top1": "training batches", "test/top1": "test images"}, "top-1 %"),
    ]
    if drawn := [Markup(figure) for figure in figures if figure]:
        yield Figures(drawn)
    data = retraining.config.get("data", {})
    rows = [("data set", str(data.get("name", UNKNOWN)))]
    for part in ("training images", "test images"):
        rows.append((part, str((retraining.inputs or {}).get(part, {}).get("number", UNKNOWN))))
    rows += [(key, str(value)) for key, value in retraining.config.get("retrain", {}).items()]
    yield Table("How it was trained", ("setting", "value"), rows, words=2)
