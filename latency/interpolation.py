"""Predicts entries that a table lacks from its measured entries of the same op family, and marks them as such.

A family is a class of candidates, e.g. every MBConvSpec. Within one, log(ms) is linear in the logarithms of an op's
work and shapes, fitted by ridge regression; its error is estimated by leaving one entry out at a time.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latency.table import Entry, LatencyTable, TableError
from supernet.catalogue import CANDIDATES, Candidate, FeatureMixSpec, PoolClassifierSpec, StemSpec
from supernet.space import Layer, Space

FEWEST = 5
"""Measured layers that a family needs."""
STRENGTHS = tuple(10.0**-exponent for exponent in range(8, 0, -1))
"""Strengths of the ridge penalty, per measured layer; the one with the lowest leave-one-out error is taken."""

_KEY = re.compile(
    r"(?P<op>[^\s+@]+)(?P<residual>\+residual)? (?P<size>[1-9]\d{0,5})x(?P=size)x(?P<c_in>[1-9]\d{0,5})"
    r"->(?P<c_out>[1-9]\d{0,5}) s(?P<stride>[1-9])(?: @(?P<edge>\S+))?"
)


@dataclass(frozen=True)
class FamilyReport:
    """The entries that were predicted in one op family, from how many measured layers, and how well."""

    family: str
    predicted: tuple[str, ...]
    """The keys of the new entries."""
    measured: int
    """The number of layers that it was fitted to."""
    loo_mape_percent: float
    """The mean absolute percentage error of each measured layer predicted from the others, at the strength taken."""
    extrapolated: tuple[str, ...]
    """The predicted layers whose MACs lie outside the measured layers' range; the error above does not hold for
    them."""


@dataclass(frozen=True)
class Interpolation:
    """All entries that were predicted in a table."""

    families: tuple[FamilyReport, ...] = ()

    @property
    def predicted(self) -> tuple[str, ...]:
        """The keys of the new entries."""
        return tuple(key for report in self.families for key in report.predicted)

    def __str__(self) -> str:
        return "; ".join(self.lines())

    def lines(self) -> list[str]:
        """Returns a sentence for each family."""
        return [
            f"{r.family}: {len(r.predicted)} entries predicted from {r.measured} measured, leave-one-out error "
            f"{r.loo_mape_percent:.1f} %"
            + (f"; outside the measured range of MACs: {', '.join(r.extrapolated)}" if r.extrapolated else "")
            for r in self.families
        ]


def interpolate(table: LatencyTable, space: Space) -> tuple[LatencyTable, Interpolation]:
    """Returns the table with an entry for each layer of `space`, and a report of the predicted ones.

    Measured entries stay as they are, and entries that were interpolated before are not used. A verification is
    dropped, since it is of the measured entries; columns are left alone. Raises TableError if a family has too few
    measured layers.
    """
    families: dict[type[Candidate], list[Layer]] = {}
    for layer in table.missing(space):
        families.setdefault(type(layer.spec), []).append(layer)
    if not families:
        return table, Interpolation()
    measured = _measured(table)
    entries, reports = dict(table.entries), []
    for family, lacking in families.items():
        sources = {layer: ms for layer, ms in measured.items() if type(layer.spec) is family}
        _check(family, lacking[0], sources)
        layers, both = list(sources), np.array(list(sources.values()))  # (layers,), (layers, 2) ms
        features = Features.of(layers)
        X, targets = features.of_layers(layers), np.log(both)
        strength = min(STRENGTHS, key=lambda s: mape_percent(leave_one_out(X, targets[:, 1], s), both[:, 1]))
        predicted = np.exp(features.of_layers(lacking) @ ridge(X, targets, strength))  # (lacking, 2) ms
        for layer, (median, ms) in zip(lacking, predicted, strict=True):
            calibrated = float(ms) if table.calibration else None
            entries[str(layer)] = Entry(median_ms=float(median), calibrated_ms=calibrated, interpolated=True)
        macs = [layer.complexity.macs for layer in layers]
        reports.append(
            FamilyReport(
                family=family.__name__.removesuffix("Spec"),
                predicted=tuple(map(str, lacking)),
                measured=len(layers),
                loo_mape_percent=mape_percent(leave_one_out(X, targets[:, 1], strength), both[:, 1]),
                extrapolated=tuple(str(x) for x in lacking if not min(macs) <= x.complexity.macs <= max(macs)),
            )
        )
    return table.model_copy(update={"entries": entries, "verification": None}), Interpolation(tuple(reports))


def layer_of(key: str) -> Layer:
    """Returns the layer that a table's key names, without its edge: the inverse of `str(layer)`.

    Raises TableError for a text that is no key, and for an op that is neither in the catalogue nor of stem or head.
    """
    m = _KEY.fullmatch(key)
    if m is None:
        raise TableError(f"entry '{key}'", "not a layer", "e.g. 'mbconv_k3_e6+residual 28x28x40->40 s1'", "correct it")
    outside = {str(spec): spec for spec in (FeatureMixSpec(), PoolClassifierSpec(), *map(StemSpec, (1, 3, 5, 7)))}
    spec = CANDIDATES.get(m["op"]) or outside.get(m["op"])
    if spec is None:
        raise TableError(
            f"entry '{key}'",
            f"the catalogue has no op '{m['op']}'",
            remedy="name the module that registers it in space.candidate_modules, or remove the entry",
        )
    residual = m["residual"] is not None
    return Layer(spec, int(m["c_in"]), int(m["c_out"]), int(m["size"]), int(m["stride"]), residual)


@dataclass(frozen=True)
class Features:
    """The features in which log(ms) is linear. words: (field, value) of the text fields of the family's specs, e.g. a
    pooling's kind.

    mean, scale: the mean and the scale of each raw feature over the measured layers, (features,); the scale of a
    constant feature is 1.
    """

    words: tuple[tuple[str, str], ...]
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Features:
        """Returns the features of one op family, normalised over its measured layers."""
        fields = (_fields(layer.spec).items() for layer in layers)
        words = tuple(sorted({(name, value) for field in fields for name, value in field if isinstance(value, str)}))
        raw = np.array([_raw(layer, words) for layer in layers])
        scale = raw.std(axis=0)
        return cls(words, raw.mean(axis=0), np.where(scale > 1e-9, scale, 1.0))

    def of_layers(self, layers: Sequence[Layer]) -> np.ndarray:
        """Returns (layers, 1 + features): an intercept, then features of mean 0 and variance 1 over the measured."""
        raw = np.array([_raw(layer, self.words) for layer in layers])
        return np.column_stack([np.ones(len(layers)), (raw - self.mean) / self.scale])


def _raw(layer: Layer, words: tuple[tuple[str, str], ...]) -> list[float]:
    """Returns MACs, parameters, activation elements, shapes, and the fields of the op; log(1 + x) if 0 is possible.

    The size also enters squared: small maps use a device worse than a power of their size would have it.
    """
    cost, fields = layer.complexity, _fields(layer.spec)
    elements = layer.c_in * layer.size**2 + layer.c_out * layer.size_out**2
    shapes = np.log([elements, layer.c_in, layer.c_out, layer.size, layer.stride])
    own = [float(np.log1p(value)) for value in fields.values() if not isinstance(value, str)]
    is_word = [float(fields.get(name) == value) for name, value in words]
    work = np.log1p([cost.macs, cost.params])
    return [*work, *shapes, float(np.log(layer.size)) ** 2, float(layer.residual), *own, *is_word]


def _fields(spec: Candidate) -> dict[str, float | str]:
    """Returns the fields of an op that are numbers >= 0 or words, e.g. kernel_size, expand, se."""
    if not dataclasses.is_dataclass(spec):
        return {}
    values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    return {name: v for name, v in values.items() if isinstance(v, str) or (isinstance(v, int | float) and v >= 0)}


def ridge(X: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Returns the w that minimises |y - X w|^2 + strength N |w|^2, w_0 free. X (N, F), y (N, ...) -> w (F, ...)."""
    w: np.ndarray = _solver(X, strength) @ y
    return w


def leave_one_out(X: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Returns exp of each y_i as a fit without it predicts it, (N,). Its residual there is r_i / (1 - H_ii)."""
    H = X @ _solver(X, strength)  # y -> fitted y
    predicted: np.ndarray = np.exp(y - (y - H @ y) / (1 - np.diag(H)))
    return predicted


def _solver(X: np.ndarray, strength: float) -> np.ndarray:
    """Returns the matrix (F, N) that maps y to w."""
    penalty = np.full(X.shape[1], strength * len(X))
    penalty[0] = 0.0
    return np.linalg.solve(X.T @ X + np.diag(penalty), X.T)


def mape_percent(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Returns the mean absolute error of predictions relative to the measurements, in percent."""
    return float(100 * np.mean(np.abs(predicted - measured) / measured))


def _measured(table: LatencyTable) -> dict[Layer, tuple[float, float]]:
    """Returns (median_ms, ms) of each measured layer; if its entries are of single edges, their means."""
    of_layers: dict[Layer, list[tuple[float, float]]] = {}
    for key, entry in table.entries.items():
        if not entry.interpolated:
            of_layers.setdefault(layer_of(key), []).append((entry.median_ms, entry.ms))
    return {
        layer: (float(np.mean([m for m, _ in v])), float(np.mean([ms for _, ms in v])))
        for layer, v in of_layers.items()
    }


def _check(family: type[Candidate], lacking: Layer, sources: dict[Layer, tuple[float, float]]) -> None:
    """Raises TableError unless the family has FEWEST measured layers, each above 0 ms."""
    name = family.__name__.removesuffix("Spec")
    if len(sources) < FEWEST:
        raise TableError(
            "",
            (
                f"no entry '{lacking}', and it cannot be interpolated: the table has {len(sources)} measured "
                f"layers of its op family {name}"
            ),
            f"at least {FEWEST}",
            "measure the table for this space, or add the entry by hand",
        )
    for layer, values in sources.items():
        if min(values) <= 0:
            raise TableError(
                "",
                f"no entry '{lacking}', and it cannot be interpolated: entry '{layer}' of its family {name} is 0 ms",
                "more (entries of a linear model are relative)",
                "measure the table for this space",
            )
