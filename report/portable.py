"""Writes a network as plain PyTorch code, which needs torch alone: the layers that run, in the order in which they run.

`torch.fx` records one forward pass; every module of torch.nn in it becomes a line of a constructor, under its own name,
so that the weights load as they are. The code is then run here, and has to compute the same, bit for bit.
"""

from __future__ import annotations

import builtins
import copy
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from supernet.network import Network
from supernet.ops import PoolClassifier, SamePaddedConv2d

CLASS = "_Network"
"""The name of the class in the code."""
_WITH_SOURCE: tuple[type[nn.Module], ...] = (SamePaddedConv2d,)
"""Modules of ours that cannot be recorded, since they compute with the size of their input; their source is copied."""
_PLAIN = (bool, int, float, str, type(None))
_TEMPORARY = re.compile(r";  (\w+ = )+None")
_VALUE = re.compile(r"\b_value(\d+)(?:_\d+)?\b")  # fx adds a number where a name is used again
_IMAGES = 2  # with which the code is compared


class NotPortableError(Exception):
    """A network cannot be written as plain code. The text says why."""


class _Plain(nn.Module):
    """A pool and classifier as outside autocast: (N, C, H, W) -> logits (N, classes)."""

    def __init__(self, classifier: PoolClassifier):
        super().__init__()
        self.dropout, self.linear = classifier.dropout, classifier.linear

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.dropout(x.mean(dim=(2, 3))))
        return logits


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _WITH_SOURCE) or super().is_leaf_module(m, module_qualified_name)


def code_of(network: Network) -> str:
    """Returns the source of a class CLASS without arguments, whose instances load the network's weights and compute,
    in eval mode and float32, what the network computes: (N, C, H, W) -> logits (N, classes). It needs the names torch,
    nn and F, and defines none that does not begin with `_`.

    Raises NotPortableError if the network cannot be written so: an op of the user's own that decides by values, or that
    keeps tensors which are not among its weights.
    """
    network = copy.deepcopy(network).cpu().float().eval()
    plain = copy.deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, PoolClassifier):
            plain.set_submodule(name, _Plain(module))
    try:
        graph = _Tracer().trace(plain)
        _simplify(graph, plain)
        forward = graph.python_code("self")
    except Exception as error:  # whatever the code of a user's op raises when it gets a symbol for a tensor
        raise NotPortableError(f"its forward pass cannot be recorded ({_first_line(error)})") from error
    code = _VALUE.sub(lambda match: _name(int(match[1])), _TEMPORARY.sub("", forward.src))
    known = {"torch": torch, **vars(builtins)}
    used = {name: value for name, value in forward.globals.items() if re.search(rf"\b{name}\b", code)}
    names = {name for name, value in used.items() if known.get(name) is not value}
    if names:
        raise NotPortableError(f"its forward pass uses {min(names)}, which is not of torch")
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    lines = [f"        _put(self, {name!r}, {made})" for name, made in _constructors(plain, called)]
    body = "\n".join(f"    {line}".rstrip() for line in code.strip().splitlines())
    copied = [_source_of(cls) for cls in _WITH_SOURCE if any(isinstance(m, cls) for m in plain.modules())]
    source = "\n\n".join([*copied, _PUT, _CLASS.format(name=CLASS, lines="\n".join(lines), forward=body)])
    _check(source, network)
    return source


def _simplify(graph: fx.Graph, plain: nn.Module) -> None:
    """Removes identities and annotations from a recorded forward pass, and gives its values few names, each free again
    after the last use of its value: `x = f(x)`. So the code is readable, and keeps no map longer than it has to."""
    for node in list(graph.nodes):
        node.type = None  # annotations would be names that the code has to import
        if node.op == "call_module" and type(plain.get_submodule(str(node.target))) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    last = {argument: node for node in graph.nodes for argument in node.all_input_nodes}
    numbers: dict[fx.Node, int] = {}
    free: list[int] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        free = [numbers[a] for a in node.all_input_nodes if last[a] is node and a in numbers] + free
        numbers[node] = free.pop(0) if free else len({*numbers.values()})
        node.name = f"_value{numbers[node]}"
        if node not in last:  # nothing uses it
            free.append(numbers[node])


def _name(number: int) -> str:
    return "xyzuvw"[number] if number < 6 else f"t{number}"


_PUT = '''def _put(root, name, module):
    """Puts a module, or a parameter, at its name, such as `edges.3.op.conv`."""
    *groups, last = name.split(".")
    for group in groups:
        if group not in root._modules:
            root.add_module(group, nn.Module())
        root = root._modules[group]
    if isinstance(module, nn.Parameter):
        root.register_parameter(last, module)
    elif isinstance(module, torch.Tensor):
        root.register_buffer(last, module)
    else:
        root.add_module(last, module)
'''
_CLASS = '''class {name}(nn.Module):
    """(N, C, H, W) -> logits (N, classes)."""

    def __init__(self):
        super().__init__()
{lines}

{forward}
'''


def _constructors(plain: nn.Module, called: set[str]) -> Iterator[tuple[str, str]]:
    """Yields the name and the expression of every module that is called, and of every weight outside of these."""
    for name, module in plain.named_modules():
        if name in called:
            yield name, _constructor(module)
            continue
        if any(name.startswith(f"{leaf}.") for leaf in called):
            continue
        for kind, tensors in (("nn.Parameter", module._parameters), ("", module._buffers)):
            for own, tensor in tensors.items():
                if tensor is not None:
                    made = f"torch.zeros({tuple(tensor.shape)}, dtype={tensor.dtype})"
                    yield f"{name}.{own}".lstrip("."), f"{kind}({made})"


def _constructor(module: nn.Module) -> str:
    """Returns the expression that makes a module like this one, with its arguments by name where they differ from the
    defaults."""
    kind = type(module)
    own = isinstance(module, _WITH_SOURCE)
    if not own and getattr(nn, kind.__name__, None) is not kind:
        raise NotPortableError(f"it has a module {kind.__module__}.{kind.__qualname__}, which is not in torch.nn")
    words = []
    for name, parameter in inspect.signature(nn.Conv2d if own else kind).parameters.items():
        if name in ("device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is inspect.Parameter.empty
        if not hasattr(module, name):
            if required:
                raise NotPortableError(f"it has a {kind.__name__}, whose {name} is not known")
            continue
        value = getattr(module, name)
        if name == "bias" and (value is None or isinstance(value, Tensor)):
            value = value is not None
        if not _is_plain(value):
            raise NotPortableError(f"it has a {kind.__name__}, whose {name} is no plain value")
        if required:
            words.append(repr(value))
        elif value not in (parameter.default, (parameter.default, parameter.default)):
            words.append(f"{name}={value!r}")
    return f"{f'_{kind.__name__}' if own else f'nn.{kind.__name__}'}({', '.join(words)})"


def _source_of(kind: type[nn.Module]) -> str:
    """Returns the source of a module of ours, under a name that begins with `_`: torch.hub lists all others."""
    source = inspect.getsource(kind).replace(f"class {kind.__name__}", f"class _{kind.__name__}")
    return re.sub(r"(?<!\.)\bTensor\b", "torch.Tensor", source)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN) and not (isinstance(value, float) and not math.isfinite(value))


def _check(source: str, network: Network) -> None:
    """Raises NotPortableError unless the code computes what the network computes, bit for bit, on random images."""
    design = network.architecture
    generator = torch.Generator().manual_seed(0)
    shape = (_IMAGES, design.input_channels, design.input_size, design.input_size)
    images = torch.randn(shape, generator=generator)
    made = instance(source)
    try:
        made.load_state_dict(network.state_dict())
        with torch.no_grad():
            same = torch.equal(made.eval()(images), network(images))
    except Exception as error:  # the code of a user's op, written anew, may do anything
        raise NotPortableError(f"its plain code fails ({_first_line(error)})") from error
    if not same:
        raise NotPortableError("its plain code computes something else")


def instance(source: str) -> nn.Module:
    """Returns a network that the code describes, with fresh weights of torch's own initialisation."""
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": nn.functional}
    with torch.random.fork_rng(devices=[]):
        exec(source, names)
        made: nn.Module = names[CLASS]()
    return made


def portable_state(network: nn.Module) -> Mapping[str, Tensor]:
    """Returns a network's weights as contiguous tensors on the CPU."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
