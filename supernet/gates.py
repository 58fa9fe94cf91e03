"""Computes the gradient of binarized gates, dL/dg_i = <dL/dout, o_i(x)>, also for candidates that did not run
(Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supernet.ops import InputMoments, MBConv, Zero


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Returns <a, b>, accumulated in float32 or better: ()."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a.to(wide) * b).sum()  # the product converts b to float32 while reading it, without a copy on a GPU


class GateGradient(torch.autograd.Function):
    """Returns an edge's output unchanged; its backward pass gives the gates their gradient dL/dg.

    It is attached to the output AFTER the residual add: dL/d(x + o) = dL/do, and the op's own autograd graph stays
    outside, as data-parallel hooks need it. Candidates that did not run are evaluated in the backward pass on the saved
    input, without graph, one after the other, so that the memory is that of a single path.
    """

    @staticmethod
    def forward(
        ctx: Any,
        out: Tensor,
        gates: Tensor,
        x: Tensor,
        active_output: Tensor | None,
        ops: Sequence[nn.Module],
        active: int,
        compared: Iterable[int],
    ) -> Tensor:
        """out (N, C, H', W'), gates (candidates,), x (N, C_in, H, W) -> out.

        active_output: o_active(x) before the residual add, None if the active op is Zero.
        compared: the candidates whose gate gets its gradient; the others get 0.
        """
        ctx.ops, ctx.active, ctx.compared = ops, active, tuple(compared)
        ctx.gates_like = gates.new_zeros(gates.shape)
        ctx.autocast = (
            x.device.type,
            torch.get_autocast_dtype(x.device.type),
            torch.is_autocast_enabled(x.device.type),
        )
        ctx.save_for_backward(x, active_output)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """dL/dout (N, C, H', W') -> dL/dout, and dL/dg (candidates,) for the gates."""
        x, active_output = ctx.saved_tensors
        d_gates = ctx.gates_like.clone()
        device_type, dtype, enabled = ctx.autocast
        # the forward's autocast state is thread-local and gone by now; a candidate must run in the same precision
        with torch.no_grad(), torch.autocast(device_type, dtype=dtype, enabled=enabled):
            moments: InputMoments | None = None
            for i in ctx.compared:
                if isinstance(ctx.ops[i], Zero):
                    continue  # o = 0, so the inner product is 0; the latency term is added by the caller, as for any op
                if i == ctx.active:
                    o = active_output
                elif type(ctx.ops[i]) is MBConv and InputMoments.is_worth_it(x):  # a subclass may have its own forward
                    moments = moments or InputMoments.of(x)
                    o = ctx.ops[i](x, moments)
                else:
                    o = ctx.ops[i](x)
                d_gates[i] = inner_product(d_out, o)
        return d_out, d_gates, None, None, None, None, None
