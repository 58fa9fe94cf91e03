"""The YAML section `data`, and the names of the data sets."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from engine.config import Section, UserPath
from engine.errors import InvalidError
from engine.wording import in_a_row, nearest

DOWNLOADABLE = ("fashion_mnist", "cifar10")
ON_DISK = (*DOWNLOADABLE, "imagenet", "folder")
NAMES = ("digits", "cluttered_digits", *ON_DISK, "fake")

MOST_IMAGES = 1_000_000_000
"""The most images of any set."""
MOST_FAKE_IMAGES = 2_000_000
"""The most images of the set `fake`, which is kept in memory: 6 GB for colour images of 32 px."""


class DataConfig(Section):
    """YAML section `data`: which images, where they are, and how many of them train alpha."""

    module: str | None = Field(None, min_length=1)
    """A set of your own: a dotted module, or the path of a .py file, in the working folder or else in the framework's
    own (docs/examples/...). Its function `name(root)` gives the images (docs/extending/dataset.md)."""
    name: str = Field(min_length=1)
    """digits comes with scikit-learn, cluttered_digits is made of it (engine/data/cluttered.py), fake is noise made on
    the spot; fashion_mnist, cifar10, imagenet and folder are read from `root`. With `module`, the name of a function
    there."""
    root: UserPath | None = Field(None, validate_default=True)
    """Folder of the images. fashion_mnist and cifar10: where torchvision keeps them; imagenet and folder: it holds
    train/ and val/ (or test/), each with one folder per class. The others read nothing from it. The function of a
    `module` is called with it."""
    download: bool = False
    """Fetch the set into `root` if it is not there yet. fashion_mnist and cifar10 only."""
    validation: float | int = 0.5
    """Images held out of the TRAINING set for architecture steps: a share in (0, 1), or a count >= 1."""
    workers: int | None = Field(None, ge=0, le=1024, exclude=True)
    """Processes that read image files (imagenet, folder), for each part in use of each process of a run. null: as many
    as this process may use cores, at most 16. 0: the program reads the files itself. Sets that fit in memory use none.
    No result depends on it, so a run's config.yaml does not record it and a resume may change it."""
    fake_images: int = Field(512, ge=1, le=MOST_FAKE_IMAGES)
    """fake only: training images. The test part has a quarter as many, at least one per class."""
    fake_classes: int = Field(10, ge=2, le=MOST_FAKE_IMAGES, validate_default=True)
    """fake only: classes, all equally frequent (to one image)."""

    # Each validator checks a single key, so that its error carries the key. `module` and `name` are validated first;
    # a wrong one is absent from info.data.

    @field_validator("name")
    @classmethod
    def name_is_a_set(cls, name: str, info: ValidationInfo) -> str:
        if info.data.get("module", "") is None and name not in NAMES:
            near = nearest(name, NAMES)
            remedy = "" if near else "for a set of your own add data.module"
            raise InvalidError("", f"got '{name}'", in_a_row(NAMES), remedy, suggestion=near)
        return name

    @field_validator("root")
    @classmethod
    def root_where_files_are_read(cls, root: Path | None, info: ValidationInfo) -> Path | None:
        name = _ours(info)
        if root is None and name in ON_DISK:
            raise InvalidError("", "is missing", f"the folder that holds '{name}'", "add it")
        return root

    @field_validator("download")
    @classmethod
    def download_where_there_is_a_source(cls, download: bool, info: ValidationInfo) -> bool:
        name = info.data.get("name")
        if download and name is not None and _ours(info) not in DOWNLOADABLE:
            accepted = f"false for '{name}' (only {' and '.join(DOWNLOADABLE)} can be fetched)"
            raise InvalidError("", "got true", accepted, "remove it")
        return download

    @field_validator("validation")
    @classmethod
    def validation_is_a_share_or_a_count(cls, validation: float | int) -> float | int:
        if not (1 <= validation <= MOST_IMAGES if isinstance(validation, int) else 0 < validation < 1):
            accepted = "a share strictly between 0 and 1 (0.5) or a whole number of images >= 1 (50000)"
            raise InvalidError("", f"got {validation}", accepted, "choose one of the two")
        return validation

    @field_validator("fake_images", "fake_classes")
    @classmethod
    def fake_settings_for_fake_only(cls, value: int, info: ValidationInfo) -> int:
        assert info.field_name is not None
        name = info.data.get("name")
        if name is not None and _ours(info) != "fake" and value != cls.model_fields[info.field_name].default:
            found = f"got {value}, but data.name is '{name}'"
            raise InvalidError("", found, remedy="remove it, or set data.name: fake")
        return value

    @field_validator("fake_classes")
    @classmethod
    def an_image_for_each_class(cls, classes: int, info: ValidationInfo) -> int:
        if (images := info.data.get("fake_images", classes)) < classes:
            accepted = f"at most data.fake_images ({images})"
            raise InvalidError("", f"got {classes}", accepted, "raise that or lower this")
        return classes


def _ours(info: ValidationInfo) -> str | None:
    """Returns `name` if it is a set of this package's; None for one of the user's own, and if it is wrong."""
    return None if info.data.get("module") else info.data.get("name")
