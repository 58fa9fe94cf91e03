"""Finds out which network is best on which device: the fastest, the most accurate within a latency, the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxyless_nas.comparison.result import Column, Row
from search.many.pareto import Point, on_front


@dataclass(frozen=True)
class Front:
    """The best networks of one column by the accuracies on one set of images."""

    basis: str
    """The images in words, and whether the accuracies are published."""
    efficient: tuple[str, ...]
    """The Pareto-efficient networks, the fastest first: no other one is at least as good in both accuracy and latency
    and better in one."""
    at: float | None = None
    """The latency in ms that was asked for."""
    best: tuple[str, ...] = ()
    """The most accurate networks at or below `at`; more than one if their accuracies are equal."""


@dataclass(frozen=True)
class Verdict:
    """Which networks are best in one column."""

    column: str
    classes: int
    """Only networks with equally many classes are compared with each other."""
    fastest: tuple[str, ...]
    """The fastest network first, then those whose latency cannot be told from its own: the difference is within the
    errors of the two, taken together as the root of the sum of their squares."""
    fronts: tuple[Front, ...]
    """One for each set of images on which at least one of the networks has an accuracy."""
    steady: bool = True
    """False if other work disturbed one of the timings."""


def verdicts(columns: Sequence[Column], rows: Sequence[Row], at: Mapping[str, float]) -> tuple[Verdict, ...]:
    """Returns a verdict for each column and number of classes. at: a latency in ms for the names of columns."""
    found = []
    for column in columns:
        for classes in dict.fromkeys(row.classes for row in rows):
            timed = [row for row in rows if row.classes == classes and _ms(row, column) is not None]
            if timed:
                found.append(_verdict(column, classes, timed, at.get(column.name)))
    return tuple(found)


def _ms(row: Row, column: Column) -> float | None:
    latency = row.latencies.get(column.name)
    return None if latency is None else latency.ms


def _verdict(column: Column, classes: int, rows: Sequence[Row], at: float | None) -> Verdict:
    latencies = [(row.latencies[column.name], row.name) for row in rows]
    known = sorted(((latency.ms, latency.error, name) for latency, name in latencies if latency.ms), key=lambda x: x[0])
    least, error, _ = known[0]
    fastest = tuple(name for ms, own, name in known if ms <= least * (1 + math.hypot(error, own)) or ms == least)
    bases = dict.fromkeys(a.basis for row in rows for a in row.accuracies)
    fronts = tuple(_front(basis, [(r, _ms(r, column) or 0.0) for r in rows], at) for basis in bases)
    return Verdict(column.name, classes, fastest, fronts, all(latency.steady for latency, _ in latencies))


def _front(basis: str, rows: Sequence[tuple[Row, float]], at: float | None) -> Front:
    points = [Point(row.name, ms, a.top1) for row, ms in rows for a in row.accuracies if a.basis == basis]
    front = sorted((p for p, kept in zip(points, on_front(points), strict=True) if kept), key=lambda p: p.cost)
    within = [p for p in points if at is not None and p.cost <= at]
    most = max((p.top1 for p in within), default=0.0)
    return Front(basis, tuple(p.label for p in front), at, tuple(p.label for p in within if p.top1 == most))
