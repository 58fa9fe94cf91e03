"""Imports TensorFlow and Keras when they are first needed."""

from __future__ import annotations

import importlib
import os
from typing import Any

from engine.errors import UserError

EXTRA = 'pip install "proxylessnas[tensorflow]"'
"""The command that installs what this package needs beside the project itself."""


def tensorflow() -> Any:
    """Returns the module `tensorflow`. Raises UserError if it cannot be imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # otherwise four lines about the processor on standard error
    return _imported("tensorflow")


def keras() -> Any:
    """Returns the module `keras`, which computes with TensorFlow. Raises UserError if it cannot be imported, or
    computes with another library."""
    tensorflow()
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    module = _imported("keras")
    backend = module.backend.backend()
    if backend != "tensorflow":
        remedy = "set KERAS_BACKEND=tensorflow, or change ~/.keras/keras.json"
        raise UserError("keras", f"computes with {backend}", "tensorflow", remedy)
    return module


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(name, f"the Python package {error.name} is not installed", remedy=EXTRA) from None
    except ImportError as error:  # it is installed, but not as this machine or its other packages need it
        raise UserError(name, f"cannot be imported ({error})", remedy=f"install it again: {EXTRA}") from error
