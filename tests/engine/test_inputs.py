"""A run's record of its images: it is complete, and a change is described by the files that differ."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil

import numpy as np
import pytest

from engine.data import FileList
from engine.errors import ConfigError
from engine.runs.inputs import FILE, LIST, of_images, record, refuse_other_inputs
from tests.engine.image_folder import write_images
from tests.engine.test_data_parts import opened


@pytest.fixture
def root(tmp_path):
    return write_images(tmp_path / "images", 4)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def inputs_of(root):
    splits = opened(name="folder", root=root)
    return {
        "training images": of_images(splits.train),
        "test images": of_images(splits.test),
        "classes": {"names": list(splits.class_names)},
    }


def rows(out):
    text = gzip.decompress((out / LIST).read_bytes()).decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline="")))


def difference(out, inputs) -> str:
    with pytest.raises(ConfigError) as caught:
        refuse_other_inputs(out, inputs)
    text = str(caught.value)
    assert text.startswith("--resume: ")
    assert "\n" not in text
    return text.removeprefix("--resume: ").partition(f" since the run in {out} began; put back")[0]


def test_the_record_lists_every_image_with_part_class_and_size(root, out):
    record(out, inputs_of(root))
    header, *found = rows(out)
    assert header == ["part", "path", "class", "bytes"]
    expected = [
        [f"{what} images", f"{part}/class{c}/{n:03d}.png", str(c), str(path.stat().st_size)]
        for part, what in (("train", "training"), ("test", "test"))
        for c in (0, 1)
        for n in range(4)
        for path in [root / part / f"class{c}" / f"{n:03d}.png"]
    ]
    assert found == expected
    assert "files" not in json.loads((out / FILE).read_text())["inputs"]["training images"]
    again = (out / LIST).read_bytes()
    record(out, inputs_of(root))
    assert (out / LIST).read_bytes() == again  # no time in it
    refuse_other_inputs(out, inputs_of(root))


def test_a_change_is_described_by_the_files_that_differ(root, out):
    record(out, inputs_of(root))
    train = root / "train"
    for n in (0, 2):
        (train / "class0" / f"{n:03d}.png").rename(root / f"{n}.png")
    assert difference(out, inputs_of(root)) == "2 training images are missing (first: 'train/class0/000.png')"
    shutil.copy(root / "0.png", root / "test" / "class1" / "new.png")
    assert difference(out, inputs_of(root)) == (
        "2 training images are missing (first: 'train/class0/000.png'); 1 test image is new ('test/class1/new.png')"
    )
    for n in (0, 2):
        (root / f"{n}.png").rename(train / "class0" / f"{n:03d}.png")
    (root / "test" / "class1" / "new.png").unlink()
    file = train / "class1" / "001.png"
    content = file.read_bytes()
    file.write_bytes(content + b"more")
    assert difference(out, inputs_of(root)) == "1 training image is of another size ('train/class1/001.png')"
    file.write_bytes(content)
    refuse_other_inputs(out, inputs_of(root))


def test_an_image_of_another_class_or_part_is_named(out):
    def inputs(labels, parts):
        names = np.array([b"x/a.png", b"x/b\xff.png", b"x/c.png"])
        lists = {part: np.array([p == part for p in parts]) for part in ("training images", "test images")}
        return {
            part: {
                "number": int(chosen.sum()),
                "labels": str(np.array(labels)[chosen]),
                "files": FileList(names[chosen], np.full(chosen.sum(), 9), np.array(labels)[chosen]),
            }
            for part, chosen in lists.items()
        }

    begun = inputs([0, 1, 1], ["training images", "training images", "test images"])
    record(out, begun)
    refuse_other_inputs(out, begun)
    other = inputs([0, 0, 1], ["training images", "training images", "test images"])
    assert difference(out, other) == "1 training image is of another class ('x/b\\udcff.png')"
    other = inputs([0, 1, 1], ["training images", "test images", "test images"])
    assert difference(out, other) == "1 training image is among the test images ('x/b\\udcff.png')"


@pytest.mark.parametrize("damage", ["absent", "no gzip", "no list"])
def test_without_a_list_a_change_is_described_by_checksums_and_the_same_images_resume(root, out, damage):
    """Runs of an earlier version have recorded no list."""
    record(out, inputs_of(root))
    (out / LIST).unlink()
    if damage != "absent":
        (out / LIST).write_bytes(b"damaged" if damage == "no gzip" else gzip.compress(b"a,b\nc,d\n"))
    (root / "train" / "class0" / "000.png").rename(root / "kept.png")
    assert difference(out, inputs_of(root)) == (
        "number of the training images changed from 8 to 7; labels of the training images changed; training images: "
        "file names and sizes changed"
    )
    (root / "kept.png").rename(root / "train" / "class0" / "000.png")
    refuse_other_inputs(out, inputs_of(root))
    if damage == "absent":
        assert len(rows(out)) == 17


def test_a_set_in_memory_has_checksums_alone(out):
    inputs = {"training images": of_images(opened(10, name="digits").train)}
    (out / LIST).write_bytes(b"of a start that failed")
    record(out, inputs)
    assert not (out / LIST).exists()
    refuse_other_inputs(out, inputs)
    inputs["training images"]["pixels"] = "other"
    assert difference(out, inputs) == "pixels of the training images changed"
