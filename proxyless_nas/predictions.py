"""Classifies images with a network that comes with its weights: a retraining's, a published one, an int8 one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, overload

from engine.data.pictures import check_pictures
from engine.errors import CheckpointError, ConfigError
from engine.files import as_list, as_path
from engine.nearest import nearest, nearest_path
from engine.progress import Report, silent
from engine.wording import in_a_row, shown
from proxyless_nas.sources import trained_network
from published.int8 import is_int8
from published.networks import ALIASES, NAMED, is_named
from retrain.predict import Prediction, classify, classify_with_run


@overload
def predict(  # type: ignore[overload-overlap]  # a str is a sequence of str, but one path here
    source: str | Path,
    images: str | Path,
    *,
    allow_modules: Collection[str] = ...,
    device: Literal["cpu", "cuda"] = ...,
    report: Report = ...,
) -> Prediction: ...
@overload
def predict(
    source: str | Path,
    images: Sequence[str | Path],
    *,
    allow_modules: Collection[str] = ...,
    device: Literal["cpu", "cuda"] = ...,
    report: Report = ...,
) -> list[Prediction]: ...
def predict(
    source: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    allow_modules: Collection[str] = (),
    device: Literal["cpu", "cuda"] = "cpu",
    report: Report = silent,
) -> Prediction | list[Prediction]:
    """Classifies an image file, or several, and returns a Prediction for each.

    source: the folder of a retraining, whose newest good checkpoint is taken; a checkpoint's .pt file; the name of a
    published network, whose weights are downloaded if they are not here yet; or a trained int8 network (.pkl). A file
    or folder that has the name of a published network is taken before that network. The images are resized, cropped
    and normalised as in the evaluation of the retraining, or as the published network's authors do. Each image is
    computed alone, in float32. allow_modules: as for `Architecture.from_json`. report: shows a download. Raises
    CheckpointError if the source is none of these, ConfigError if an image cannot be read, and DownloadError; images
    are checked before weights are downloaded.
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError("device", f"got {shown(device)}", in_a_row(("cpu", "cuda")))
    path = as_path(source, "source")
    several = not isinstance(images, str | Path)
    paths = [as_path(image, "images") for image in (as_list(images, "images") if several else [images])]
    if is_int8(path) or (not path.exists() and is_named(str(source))):
        check_pictures(paths)  # before weights are downloaded
        found = trained_network(str(source), report=report)
        predictions = classify(found.as_stored, found.preprocessing, found.classes, paths, device=device)
    else:
        if not path.exists() and len(path.parts) == 1 and not path.suffix:  # a word, such as a mistyped name
            name = str(path)
            near = nearest_path(path) or nearest(name, [*NAMED, *ALIASES])
            problem = "neither a file nor the name of a published network"
            expected = f"the folder of a retraining, a step-*.pt file of one, or one of {', '.join(NAMED)}"
            raise CheckpointError(name, problem, expected, suggestion=near)
        predictions = classify_with_run(path, paths, allow_modules=allow_modules, device=device)
    return predictions if several else predictions[0]
