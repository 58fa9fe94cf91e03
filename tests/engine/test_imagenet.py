"""ImageNet's classes, by name and by WordNet id."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.imagenet import imagenet_classes, same_classes
from retrain.evaluation import refuse_other_classes

NAMES = imagenet_classes()
IDS = tuple(f"n{number:08}" for number in range(1000))


def test_names_are_the_same_classes_as_ids_in_their_order():
    assert same_classes(NAMES, IDS)
    assert same_classes(IDS, NAMES)
    assert same_classes(NAMES, tuple(f"{number}_{i}" for i, number in enumerate(IDS)))
    refuse_other_classes(NAMES, IDS, "the network", "data.name")  # a converted checkpoint on ImageNet's folders


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NAMES, IDS[::-1]),
        (NAMES, IDS[:999]),
        ((*NAMES[:999], "dog"), IDS),
        (IDS, (*IDS[:999], "n99999999")),
        (NAMES[::-1], NAMES),
    ],
)
def test_other_classes_are_refused(one, other):
    assert not same_classes(one, other)
    with pytest.raises(ConfigError, match="other classes than the network was trained on"):
        refuse_other_classes(one, other, "the network", "data.name")
