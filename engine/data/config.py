"""The YAML section `data`, and the names of the data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from engine.config import Section, UserPath
from engine.errors import InvalidError
from engine.nearest import nearest
from engine.wording import in_a_row

DOWNLOADABLE = ("fashion_mnist", "cifar10")
ON_DISK = (*DOWNLOADABLE, "imagenet", "folder", "shards")
NAMES = ("digits", "cluttered_digits", *ON_DISK, "csv", "fake")
DIVIDED = ("folder", "csv")
"""The sets that `data.test` divides."""
WITH_LABELS = ("imagenet", "folder")
"""The sets whose test images may lie in one folder, beside a file with their labels."""

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
    the spot; fashion_mnist, cifar10, imagenet, folder and shards are read from `root`, csv is a list of files. With
    `module`, the name of a function there."""
    root: UserPath | None = Field(None, validate_default=True)
    """Folder of the images. fashion_mnist and cifar10: where torchvision keeps them; imagenet and folder: it holds
    train/ and val/ (or valid/, validation/) or test/, each with one folder per class. If a folder has all three, val/
    selects the best epoch of a retraining and test/ reports; a search uses train/ alone. shards: what
    `proxyless-nas data pack` has written. csv: where relative paths begin; null: the folder of the list. The others
    read nothing from it. The function of a `module` is called with it."""
    csv: UserPath | None = Field(None, validate_default=True)
    """csv only: the list, a file with a header and the columns path, label and perhaps split (train, val or test), in
    any order; further columns are ignored."""
    labels: UserPath | None = None
    """imagenet and folder only: the file with the labels of test images that lie in one folder, such as ImageNet's
    val/. null: one of the usual names in `root`, in that folder or in ILSVRC2012_devkit_t12/data (docs/extending/
    dataset.md)."""
    test: float | None = None
    """folder and csv only: the share of each class that is held out as test images, if the data have no test part:
    `root` holds the class folders themselves or train/ alone, or the list has no column split. The choice is a function
    of the file names alone."""
    download: bool = False
    """Fetch the set into `root` if it is not there yet. fashion_mnist and cifar10 only."""
    validation: float | int = 0.5
    """Images held out of the TRAINING set for architecture steps: a share in (0, 1), or a count >= 1."""
    balance: Literal["weights", "sampling"] | None = None
    """How training treats classes of different sizes, such that all count alike. weights: the loss of an image is
    multiplied by N / (classes * images of its class). sampling: every class has the same number of images in an epoch;
    those of small classes come several times, each time augmented anew. null: every image counts alike."""
    workers: int | None = Field(None, ge=0, le=1024, exclude=True)
    """Processes that read image files (imagenet, folder, csv, shards), for each part in use of each process of a run.
    null: as many as this process may use cores, at most 16. 0: the program reads the files itself. Sets that fit in
    memory use none. No result depends on it, so a run's config.yaml does not record it and a resume may change it."""
    cache: UserPath | None = Field(None, exclude=True)
    """Image files (imagenet, folder, csv, shards) of small pictures: where they are kept decoded, so that each is
    decoded once. ram: in memory, as long as the program runs; anything else: a folder for files that later runs use
    too, 3 bytes per pixel. Pictures whose shorter side has twice as many pixels as the network takes, or more, are
    read anew each time. No result depends on it, so a run's config.yaml does not record it and a resume may change
    it."""
    decode: Literal["cuda"] | None = None
    """Image files (imagenet, folder, csv, shards) of a training on a GPU: cuda lets the GPU decode JPEG files, cut out
    what is shown and resize it, for machines with few cores for their GPU; it needs TorchCodec (the extra torchcodec).
    Pixels differ slightly from those of a CPU. Evaluations decode on the CPU, and so do trainings that change images
    one by one (other policies than published or none, erasing). null: the CPU decodes."""
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

    @field_validator("csv")
    @classmethod
    def csv_for_a_list(cls, csv: Path | None, info: ValidationInfo) -> Path | None:
        if "name" not in info.data or (csv is not None) == (_ours(info) == "csv"):
            return csv
        if csv is None:
            raise InvalidError("", "is missing", "the file with the columns path and label", "add it")
        found = f"got '{csv}', but data.name is '{info.data['name']}'"
        raise InvalidError("", found, remedy="set data.name: csv, or remove it")

    @field_validator("decode")
    @classmethod
    def decoded_once_or_on_a_gpu(cls, decode: str | None, info: ValidationInfo) -> str | None:
        if decode is not None and info.data.get("cache") is not None:
            found = "got 'cuda' beside data.cache, which keeps what the CPU decodes"
            raise InvalidError("", found, remedy="remove one of the two")
        return decode

    @field_validator("labels", "test")
    @classmethod
    def settings_of_some_sets(cls, value: Path | float | None, info: ValidationInfo) -> Path | float | None:
        names = WITH_LABELS if info.field_name == "labels" else DIVIDED
        name = info.data.get("name")
        if value is not None and name is not None and _ours(info) not in names:
            found = f"got {value}, but data.name is '{name}'"
            raise InvalidError("", found, f"null, or data.name {in_a_row(names)}", "remove it")
        return value

    @field_validator("test")
    @classmethod
    def test_is_a_share(cls, test: float | None) -> float | None:
        if test is not None and not 0 < test < 1:
            raise InvalidError("", f"got {test}", "a share strictly between 0 and 1 (0.2)")
        return test

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
