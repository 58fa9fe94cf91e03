"""A term of alpha's loss and a reward for REINFORCE, see docs/extending/objective.md."""

from itertools import pairwise

from torch import Tensor

from search.learn.reinforce import Sampled
from supernet import Space


def changes(p: Tensor, space: Space, progress: float) -> Tensor:
    """The expected number of neighbouring edges of a stage whose ops differ: few ops are little code on a small board.

    p (E, N) float64, padding 0; progress of the search in [0, 1]. If alpha is decided, it is that number itself.
    """
    total = 0 * p.sum()  # where no edge has a neighbour in its stage, too, the term is a function of p
    edges = space.searchable
    for e, (first, second) in enumerate(pairwise(edges)):
        same_stage = first.name.partition(".")[0] == second.name.partition(".")[0]
        if same_stage:
            agree = [p[e, first.candidates.index(n)] * p[e + 1, i] for i, n in enumerate(second.candidates)
                     if n in first.candidates]  # fmt: skip
            total = total + 1 - sum(agree)  # 1 where they have no op in common
    return total


def worst_class(sample: Sampled) -> float:
    """The recall of the class that is recognised worst, which has no gradient, times (80 ms / latency) ** 0.1."""
    predicted = sample.logits.argmax(dim=1)
    recalls = [float((predicted[sample.labels == c] == c).double().mean()) for c in sample.labels.unique().tolist()]
    return min(recalls) * (80.0 / sample.costs["latency"]) ** 0.1
