"""Prepares a call of a function of the package: its arguments become plain values, and torch has its usual settings."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, ParamSpec, TypeVar

from engine.errors import ConfigError, UserError
from engine.files import as_list
from engine.wording import shown
from proxyless_nas.forked import refuse_to_hang

P = ParamSpec("P")
R = TypeVar("R")
_WHOLE = ("int", "int | None")
"""The annotations of parameters that take whole numbers alone."""
_TEXTS = ("str", "str | None")
"""The annotations of parameters that take texts alone."""
_FUNCTIONS = ("Report", "Callable[[str], None]", "Callable[[Compared], None] | None")
"""The annotations of parameters that take functions."""


def prepared(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function as one that computes what it computes in a fresh process.

    numpy's numbers become Python's. Raises ConfigError if a parameter that is annotated as bool, int, str or as a
    function gets anything else: a text such as "no" would count as true. So it does for an array where one of a few
    values is expected, since comparing an array gives no truth value.

    Inference mode, no_grad, autocast and another default device of the caller are off inside, and as they were
    afterwards. They belong to the calling thread. The default dtype belongs to all threads, so another one than
    float32 is refused with a UserError. So is a call in a forked process in which torch would hang.
    """
    signature, call = inspect.signature(function), _as_any(function)

    @functools.wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        bound = signature.bind(*arguments, **named)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _plain(name, value, signature.parameters[name].annotation)
        refuse_to_hang()
        with _usual_settings():
            return call(*bound.args, **bound.kwargs)

    return run


def _as_any(function: Callable[..., R]) -> Callable[..., R]:
    return function


def _plain(name: str, value: Any, annotation: object) -> Any:
    """Returns an argument, a number of numpy as one of Python. annotation: that of the parameter, as it is written."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.bool_ | numpy.number):
        value = value.item()
    if annotation == "bool" and not isinstance(value, bool):
        raise ConfigError(name, f"got {shown(value)}", "True or False")
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if annotation in _WHOLE and not is_whole and not (value is None and annotation != "int"):
        raise ConfigError(name, f"got {shown(value)}", "a whole number")
    if annotation in _TEXTS and not isinstance(value, str) and not (value is None and annotation != "str"):
        raise ConfigError(name, f"got {shown(value)}", "a text")
    if annotation in _FUNCTIONS and not callable(value) and not (value is None and "None" in str(annotation)[-4:]):
        raise ConfigError(name, f"got {shown(value)}", "a function")
    if "Literal[" in str(annotation) and hasattr(value, "__array__"):
        raise ConfigError(name, f"got {shown(value)}", "one of the values of this parameter, not an array")
    return value


def refuse_outside(
    name: str, number: object, least: int, most: float = math.inf, *, also: Sequence[str | None] = ()
) -> None:
    """Raises ConfigError unless an argument is a whole number from `least` to `most`, or one of `also`."""
    if (number is None or isinstance(number, str)) and number in also:
        return
    if isinstance(number, int) and not isinstance(number, bool) and least <= number <= most:
        return
    texts = "".join(f", or '{text}'" for text in also if text is not None)
    accepted = f"a whole number from {least} {'on' if most == math.inf else f'to {most}'}"
    raise ConfigError(name, f"got {shown(number)}", accepted + texts)


def as_seeds(values: object) -> list[int]:
    """Returns the seeds that a caller gave, as Python's numbers. Raises ConfigError unless they are a list of whole
    numbers in [0, 2**63)."""
    entries = as_list(values, "seeds")
    for seed in entries:
        if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= int(seed) < 1 << 63:
            raise ConfigError("seeds", f"got {shown(seed)}", "whole numbers from 0 on")
    return list(map(int, entries))


@contextlib.contextmanager
def _usual_settings() -> Iterator[None]:
    torch = sys.modules.get("torch")
    if torch is None:  # nobody can have changed anything
        yield
        return
    if (dtype := torch.get_default_dtype()) != torch.float32:
        remedy = "call torch.set_default_dtype(torch.float32) first"
        accepted = "torch.float32, in which networks are computed"
        raise UserError("torch.get_default_dtype()", f"is {dtype}", accepted, remedy)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
