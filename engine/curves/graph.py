"""Builds the graph of a network for TensorBoard's page GRAPHS: the functions that a forward pass calls, grouped by
module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def graph_of(network: nn.Module, images: Tensor, names: Mapping[str, str]) -> GraphDef:
    """Runs `network` once on `images` in eval mode and records the functions that it calls.

    The network keeps hooks and stays in eval mode, so pass one that is not needed any more. names: names to show in
    place of modules' own dotted names, e.g. {"edges.3": "stage1/0.mbconv_k3_e6"}.
    """
    recorder = _GraphRecorder(images, {id(p): name for name, p in network.named_parameters()})
    for dotted, module in network.named_modules():
        module.register_forward_pre_hook(partial(recorder.enter, _called(dotted, names)))
        module.register_forward_hook(recorder.leave)
    network.eval()
    with torch.no_grad(), recorder:
        network(images)
    return GraphDef(node=recorder.nodes)


def _called(dotted: str, names: Mapping[str, str]) -> str:
    """Converts `edges.3.op.project` to `stage1/0.mbconv_k3_e6/op/project`."""
    for module, name in names.items():
        if dotted == module or dotted.startswith(f"{module}."):
            return "/".join((name, *dotted[len(module) + 1 :].split("."))).rstrip("/")
    return dotted.replace(".", "/")


class _GraphRecorder(TorchFunctionMode):
    """Makes a node of each call that has a tensor as input and returns one."""

    def __init__(self, images: Tensor, parameters: dict[int, str]):
        super().__init__()
        self.parameters = parameters
        self.scopes: list[str] = []
        """The modules that the forward pass is in, the innermost last."""
        self.nodes = [NodeDef(name="images", op="Placeholder", attr=_shapes(images))]
        self.taken = {"images"}
        self.node_of = {id(images): "images"}
        self.alive: list[Tensor] = [images]
        """The tensors in node_of, kept so that no other tensor gets the same id."""

    def enter(self, scope: str, *_: object) -> None:
        self.scopes.append(scope)

    def leave(self, *_: object) -> None:
        self.scopes.pop()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        given = [*_tensors((*args, *(kwargs or {}).values()))]
        inputs = [self.node_of[id(t)] for t in given if id(t) in self.node_of]
        made = [*_tensors((out,))]
        if inputs and made:
            used = [self.parameters[id(t)] for t in given if id(t) in self.parameters]
            self._add(getattr(function, "__name__", "function").strip("_"), inputs, made, used)
        return out

    def _add(self, op: str, inputs: list[str], made: list[Tensor], used: list[str]) -> None:
        name = "/".join(filter(None, (self.scopes[-1] if self.scopes else "", op)))
        number, unique = 1, name
        while unique in self.taken:
            number += 1
            unique = f"{name}_{number}"
        self.taken.add(unique)
        attributes = _shapes(*made)
        if used:
            attributes["parameters"] = AttrValue(s=", ".join(used).encode())
        self.nodes.append(NodeDef(name=unique, op=op, input=inputs, attr=attributes))
        for tensor in made:
            self.node_of[id(tensor)] = unique
            self.alive.append(tensor)


def _shapes(*tensors: Tensor) -> dict[str, AttrValue]:
    shapes = [TensorShapeProto(dim=[TensorShapeProto.Dim(size=n) for n in tensor.shape]) for tensor in tensors]
    return {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=shapes))}


def _tensors(values: tuple[Any, ...] | list[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)
