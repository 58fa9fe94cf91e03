"""ImageNet's classes: by name, as networks have them, and by WordNet id, as folders have them."""

from __future__ import annotations

import re
from collections.abc import Sequence

CLASSES = 1000
_WORDNET = re.compile(r"n\d{8}(?!\d)")
"""The beginning of the name of a class folder; the ids in their order are the classes in the order of the logits."""


def imagenet_classes() -> tuple[str, ...]:
    """Returns the names of the classes in the order of the logits, from torchvision."""
    from torchvision.models import MobileNet_V2_Weights

    return tuple(MobileNet_V2_Weights.IMAGENET1K_V2.meta["categories"])


def are_wordnet_ids(names: Sequence[str]) -> bool:
    """Returns whether all names of classes begin with a WordNet id, as 'n01440764' and 'n01440764_tench' do."""
    return all(map(_WORDNET.match, names))


def same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Returns whether two lists name the same classes in the same order. ImageNet's 1000 names are the same as 1000
    WordNet ids in their order."""
    if tuple(one) == tuple(other):
        return True
    if len(one) != CLASSES or len(other) != CLASSES:
        return False
    ids, names = (one, other) if are_wordnet_ids(one) else (other, one)
    return are_wordnet_ids(ids) and list(ids) == sorted(ids) and tuple(names) == imagenet_classes()
