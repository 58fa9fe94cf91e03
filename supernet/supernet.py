"""Defines the supernet, which holds every candidate of every edge and runs one path at a time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from supernet.blocks import MixedEdge, Skeleton, init_weights, isolated_rng
from supernet.errors import InvalidError
from supernet.space import Space


class Supernet(Skeleton):
    """The network of all candidates. It holds weights only: gates and paths are arguments of forward.

    BN normalises by batch statistics and keeps no running ones, so a forward pass leaves no trace.
    """

    def __init__(self, space: Space, *, seed: int = 0):
        if not isinstance(space, Space):
            raise InvalidError("space", f"got a value of type {type(space).__name__}", "a Space")
        settings = space.op_settings(running_stats=False)
        with isolated_rng(seed):
            ends = (space.stem, space.feature_mix, space.classifier)
            super().__init__(ends, (MixedEdge(edge, settings) for edge in space.edges), settings)
            init_weights(self)
        self.space = space

    def forward(
        self,
        images: Tensor,
        paths: Sequence[int],
        gates: Tensor | None = None,
        *,
        compared: Sequence[Sequence[int]] | None = None,
        keep_outputs: bool = False,
    ) -> Tensor:
        """images (N, C, H, W) and one path per searchable edge -> logits (N, classes).

        Without `gates` only the sampled paths run. gates: (searchable edges, candidates), one-hot at `paths`; they get
        dL/dg in the backward pass. torch.autograd.grad(loss, [gates]) returns it and computes no weight gradient.
        compared: the candidates of each edge whose gate gets a gradient; None for all of them (mode full_v2), the
        sampled pair in mode two_path. keep_outputs: whether all candidates are computed and kept in the forward pass
        (mode full). Raises InvalidError if the paths do not fit the space.
        """
        self.space.check_paths(tuple(paths))
        rows = None if gates is None else gates.unbind(0)  # one node in the graph instead of one a row
        x = self.stem(images)
        e = 0
        for edge, mixed in zip(self.space.edges, self.edges, strict=True):
            assert isinstance(mixed, MixedEdge)
            if not edge.searchable:
                x = mixed(x, 0)
                continue
            if rows is None:
                x = mixed(x, paths[e])
            elif keep_outputs:
                x = mixed.keeping_all(x, rows[e])
            else:
                x = mixed.gated(x, paths[e], rows[e], range(len(edge.candidates)) if compared is None else compared[e])
            e += 1
        logits: Tensor = self.classifier(self.feature_mix(x))
        return logits
