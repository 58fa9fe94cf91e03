"""Writes a Keras model as a SavedModel, with what a program needs to use it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.data.preprocessing import Preprocessing
from engine.errors import ConfigError, UserError
from engine.files import TEMPORARY, WriteError, as_path, make_folder, writing
from proxyless_nas_tensorflow import libraries
from proxyless_nas_tensorflow.builder import keras_model
from published.networks import class_names, is_named
from published.preprocessing import preprocessing_of
from supernet.network import Network

FORMAT = "proxylessnas/saved-model@1"
EXTRA_FILE = "assets.extra/network.json"
"""The file inside a SavedModel that describes its input and its classes; TensorFlow leaves this folder to others."""


def export_saved_model(
    net: Any,
    folder: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
) -> Path:
    """Writes a network as a SavedModel into a new folder, and returns its path.

    net: a keras.Model of this package, or a Network. The signature `serving_default` takes `images` (N, S, S, C)
    float32, normalised; `from_pixels`, if the preprocessing is known, takes `pixels` (N, S, S, C) uint8 that are
    resized and cropped already, and normalises them. Both return `logits` (N, classes). preprocessing: how a picture
    becomes the input. classes: their names in the order of the logits. Both are known of published networks, and are
    written to EXTRA_FILE. The folder is there only once it is complete. Raises ConfigError if it is there already or if
    an argument does not fit, and WriteError if it cannot be written.
    """
    tf = libraries.tensorflow()
    if isinstance(net, Network):
        classes = net.class_names if classes is None else classes
        net = keras_model(net)
    folder = as_path(folder, "folder")
    _, height, _, channels = net.input_shape
    if is_named(net.name):
        preprocessing = preprocessing_of(net.name, height) if preprocessing is None else preprocessing
        named = class_names(net.name)
        classes = named if classes is None and len(named) == net.output_shape[-1] else classes
    _check(net, preprocessing, classes)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(str(folder), "is there already", "a new folder", "delete it, or choose another one")
    make_folder(folder.parent)
    module = tf.Module()
    module.model = net
    shape = (None, height, height, channels)
    module.infer = tf.function(
        lambda images: {"logits": net(images, training=False)},
        input_signature=[tf.TensorSpec(shape, tf.float32, name="images")],
    )
    signatures = {"serving_default": module.infer}
    if preprocessing is not None and preprocessing.colours == channels:
        mean, std = (255 * tf.constant(values, tf.float32) for values in (preprocessing.mean, preprocessing.std))
        signatures["from_pixels"] = tf.function(
            lambda pixels: {"logits": net((tf.cast(pixels, tf.float32) - mean) / std, training=False)},
            input_signature=[tf.TensorSpec(shape, tf.uint8, name="pixels")],
        )
    record = {
        "format": FORMAT,
        "name": net.name,
        "signatures": {name: list(signatures[name].input_signature[0].shape) for name in signatures},
        "preprocessing": None if preprocessing is None else preprocessing.record(),
        "classes": None if classes is None else list(classes),
    }
    save(module, signatures, folder, {EXTRA_FILE: json.dumps(record, indent=2) + "\n"})
    return folder


def save(module: Any, signatures: Mapping[str, Any], folder: Path, texts: Mapping[str, str]) -> None:
    """Writes a tf.Module as a SavedModel, with further files, whose texts are given by their paths in the folder. The
    folder, which may be an empty one, is there only once it is complete. Raises WriteError if it cannot be written."""
    tf = libraries.tensorflow()
    temporary = folder.parent / f".{folder.name[:200]}.{secrets.token_hex(8)}{TEMPORARY}"
    try:
        with writing(folder):
            temporary.mkdir()
            try:
                tf.saved_model.save(module, str(temporary), signatures=dict(signatures))
            except tf.errors.OpError as error:  # TensorFlow's own errors of its file system
                raise WriteError(str(folder), f"cannot be written ({error.message})", remedy="make room") from None
            for name, text in texts.items():
                extra = temporary / name
                extra.parent.mkdir(exist_ok=True)
                extra.write_text(text, encoding="utf-8")
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(net: Any, preprocessing: Preprocessing | None, classes: Sequence[str] | None) -> None:
    """Raises UserError if the preprocessing or the names of the classes are not those of the network."""
    _, height, _, channels = net.input_shape
    outputs = net.output_shape[-1]
    if preprocessing is not None and (preprocessing.input_size, preprocessing.channels) != (height, channels):
        found = f"gives {preprocessing.channels} x {preprocessing.input_size} x {preprocessing.input_size} numbers"
        raise ConfigError("preprocessing", found, f"{channels} x {height} x {height}, the network's input")
    if classes is not None and len(classes) != outputs:
        raise UserError("classes", f"got {len(classes)} names", f"{outputs}, one for each of the network's outputs")
