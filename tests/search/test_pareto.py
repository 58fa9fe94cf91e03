"""Tests the front against a comparison of all pairs, and the file of its picture."""

from __future__ import annotations

import itertools

import matplotlib.image
import numpy as np
import pytest

from engine.files import WriteError
from search.many.pareto import Panel, Point, draw_fronts, on_front
from supernet.cost import macs_cost


def beaten(p: Point, others: list[Point]) -> bool:
    """The definition: someone is at least as good in both, and better in one."""
    return any(
        q.cost <= p.cost and q.top1 >= p.top1 and (q.cost < p.cost or q.top1 > p.top1) for q in others if q is not p
    )


@pytest.mark.parametrize("decimals", [0, 1, 6])  # few values, so that costs and accuracies tie
def test_the_front_of_a_whole_space_equals_brute_force(space, decimals):
    """The points are all architectures of the tiny space, by their MACs and a random accuracy."""
    rng, cost = np.random.default_rng(decimals), macs_cost(space)
    counts = space.mask.sum(axis=1)
    points = [
        Point("", round(cost.of(paths) / 1e4), round(float(rng.uniform(0, 5)), decimals))
        for paths in itertools.product(*map(range, counts))
    ]
    assert len(points) == 3 * 3 * 2 * 3
    kept = on_front(points)
    assert kept == [not beaten(p, points) for p in points]
    assert 0 < sum(kept) < len(points)


def test_the_best_the_cheapest_and_equal_points_are_on_the_front():
    points = [Point("a", 1, 50), Point("b", 2, 50), Point("c", 3, 70), Point("d", 3, 70), Point("e", 3, 60)]
    assert on_front(points) == [True, False, True, True, False]
    assert on_front([]) == []


def test_several_panels_are_written_into_one_png(tmp_path):
    path = tmp_path / "p.png"
    points = (Point("10%", 1.0, 50.0), Point("20%, 30%", 2.0, 60.0), Point("40%", 3.0, 55.0))
    draw_fronts(path, [Panel("one", "ms", points)])
    alone = matplotlib.image.imread(path)
    draw_fronts(path, [Panel("one", "ms", points), Panel("two", "MACs", points[:1])])
    both = matplotlib.image.imread(path)
    assert both.shape == (alone.shape[0], 2 * alone.shape[1], 4)
    assert alone.std() > 0  # something is drawn
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"p\.png: cannot be written \(Not a directory\)"):
        draw_fronts(tmp_path / "file" / "p.png", [Panel("one", "ms", (Point("10%", 1.0, 50.0),))])
