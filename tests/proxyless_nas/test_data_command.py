"""`proxyless-nas data show` and `pn.show_data`: what a set of images has, before it is used."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import proxyless_nas as pn
from engine.errors import ConfigError
from tests.engine.image_folder import cut_off, write_images


@pytest.fixture
def root(tmp_path) -> Path:
    return write_images(tmp_path / "images", 8, parts=("train", "test"))


def lines(shown) -> list[str]:
    return str(shown).splitlines()


def test_classes_parts_and_what_was_left_out_are_counted(tmp_path):
    root = write_images(tmp_path, 8, parts=("train", "val", "test"))
    for path in (root / "val").glob("*/00[2-7].png"):
        path.unlink()
    for n in range(1, 8):
        (root / "train" / "class1" / f"{n:03d}.png").unlink()
    (root / "train" / "class0" / "a.heic").write_bytes(b"")
    shown = pn.show_data(root)
    assert lines(shown)[:14] == [
        f"{root}: 29 images, 2 classes",
        "train: train/, 9 images; trains",
        "validation: val/, 4 images; selects the best epoch of a retraining",
        "test: test/, 16 images; reports",
        "",
        "class   train  validation  test",
        "------  -----  ----------  ----",
        "class0      8           2     8",
        "class1      1           2     8",
        "------  -----  ----------  ----",
        "sum         9           4    16",
        "",
        "classes of different sizes: 'class0' has 8 training images, 'class1' 1; data.balance makes them count alike",
        f"left out of {root / 'train'}: files ending in .heic (1)",
    ]
    assert lines(shown)[-2:] == ["unreadable files: none", "files of the same content: none"]
    assert shown.counts == {"train": [8, 1], "validation": [2, 2], "test": [8, 8]}
    assert shown.class_names == ("class0", "class1")


def test_kinds_of_files_and_pixels_are_counted(root):
    place = root / "train" / "class0"
    picture = Image.open(place / "000.png").copy()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(place / "turned.jpg", exif=exif)
    picture.convert("CMYK").save(place / "printed.jpg")
    frames = [picture.convert("L"), picture.convert("L").rotate(90)]
    frames[0].save(place / "moving.gif", save_all=True, append_images=frames[1:])
    picture.convert("RGBA").resize((40, 6)).save(place / "clear.png")
    Image.fromarray(np.zeros((12, 14), np.uint16)).save(place / "deep.png")
    found = pn.show_data(root)
    assert "pixels: width 14 to 40 (median 14), height 6 to 12 (median 12)" in lines(found)
    assert "formats: PNG 34, JPEG 2, GIF 1" in lines(found)
    assert (
        "kinds of pixels: RGB (colour) 33, CMYK (printing colours) 1, I;16 (grey, 16 bits) 1, P (a palette) 1, RGBA "
        "(colour, transparency) 1"
    ) in lines(found)
    assert "turned by an orientation tag: 1" in lines(found)
    assert "several frames, of which the first is used: 1" in lines(found)


def test_files_that_cannot_be_read_are_named_with_the_reason(root):
    place = root / "train" / "class0"
    cut_off(place / "001.png")
    (place / "002.png").write_bytes(b"")
    (place / "003.png").write_bytes(b"no image")
    found = pn.show_data(root)
    at = lines(found).index("unreadable files: 3")
    assert lines(found)[at + 1].startswith("  train/class0/001.png: ")
    assert lines(found)[at + 2 : at + 5] == [
        "  train/class0/002.png: is empty",
        "  train/class0/003.png: is no image, or of a format that is not read",
        "  train/ has more than the 1 % that a run accepts: repair or delete them",
    ]
    quick = pn.show_data(root, quick=True)
    assert "unreadable files: 2" in lines(quick)  # the header of the first is whole
    assert lines(quick)[-1] == "headers alone were read: damaged files and copies are not known"


def test_copies_within_and_across_parts_and_classes_are_named(root):
    train, test = root / "train", root / "test"
    shutil.copy(train / "class0" / "000.png", test / "class0" / "x.png")
    shutil.copy(train / "class0" / "000.png", test / "class0" / "y.png")
    shutil.copy(train / "class0" / "001.png", train / "class1" / "x.png")
    shutil.copy(train / "class0" / "002.png", train / "class0" / "x.png")
    found = pn.show_data(root)
    at = lines(found).index("files of the same content: 4 of 36 are copies of another")
    assert lines(found)[at + 1 :] == [
        "  pictures in several parts: 1",
        "  test images that are trained on: 2; they make the accuracy look better than it is",
        "  pictures in several classes: 1; one of their labels is wrong",
        "  train/class0/000.png = test/class0/x.png = test/class0/y.png",
        "  train/class0/001.png = train/class1/x.png",
        "  train/class0/002.png = train/class0/x.png",
    ]


def test_a_folder_without_a_split_is_shown_whole_or_divided(root):
    whole = pn.show_data(root / "train")
    assert lines(whole)[:3] == [
        f"{root / 'train'}: 16 images, 2 classes",
        "train: train/, 16 images; trains",
        "test: none; set data.test: 0.2 to hold out a fifth of each class, or make a folder test/",
    ]
    shutil.rmtree(root / "test")
    assert pn.show_data(root).counts == whole.counts
    divided = pn.show_data(root / "train", overrides=["data.test=0.25"])
    assert divided.counts == {"train": [6, 6], "test": [2, 2]}
    assert lines(divided)[1:3] == [
        "train: 75 % of train/, 12 images; trains",
        "test: 25 % of train/, 4 images; reports",
    ]


def test_lists_configurations_and_sets_in_memory_are_shown(root, tmp_path, write_yaml):
    rows = [f"train/class{c}/{n:03d}.png,{'ab'[c]}" for c in (0, 1) for n in range(4)]
    listed = root / "list.csv"
    listed.write_text("path,label\n" + "\n".join(rows))
    expected = {"train": [3, 3], "test": [1, 1]}
    assert pn.show_data(listed, overrides=["data.test=0.25"]).counts == expected
    content = {"data": {"name": "csv", "csv": str(listed), "test": 0.25}, "retrain": {"epochs": 3}}
    assert pn.show_data(content).counts == expected
    assert pn.show_data(write_yaml(tmp_path / "a.yaml", content)).counts == expected
    assert pn.show_data(pn.RetrainConfig.read(content)).counts == expected
    shown = pn.show_data({"data": {"name": "fake", "fake_images": 9, "fake_classes": 3}})
    assert lines(shown)[0] == "fake: 12 images in memory, 3 classes"
    assert (shown.counts, shown.survey) == ({"train": [3, 3, 3], "test": [1, 1, 1]}, None)


def test_own_sets_are_shown_with_the_function_that_makes_them(root, tmp_path):
    files = "[f'{part}/class0/00{n}.png' for n in range(3)], [0, 0, 1]"
    module = tmp_path / "mine.py"
    module.write_text(
        "from engine.data import Files, OwnSet\n"
        "def both(root):\n"
        f"    train, test = (Files({files}) for part in ('train', 'test'))\n"
        "    return OwnSet(train, test, ['a', 'b'], flip=True)\n"
    )
    shown = pn.show_data({"data": {"module": str(module), "name": "both", "root": str(root)}})
    assert shown.counts == {"train": [2, 1], "test": [2, 1]}
    assert "train: train images of both(), 3 images; trains" in lines(shown)


def test_the_picture_has_a_row_for_each_class(root):
    """Red images in the one class, blue ones in the other, one of them damaged."""
    for c, colour in enumerate(("red", "blue")):
        for n in range(8):
            Image.new("RGB", (20, 20), colour).save(root / "train" / f"class{c}" / f"{n:03d}.png")
    cut_off(root / "train" / "class1" / "000.png")
    pixels = np.asarray(Image.open(io.BytesIO(pn.show_data(root).png)).convert("RGB")).astype(int)
    red, blue = ((pixels == colour).all(axis=2) for colour in ((255, 0, 0), (0, 0, 255)))
    assert np.flatnonzero(red.any(axis=1)).max() < np.flatnonzero(blue.any(axis=1)).min()
    assert red.any(axis=0).sum() > blue.any(axis=0).sum() > 0
    assert red.sum() == pytest.approx(blue.sum() * 8 / 7, rel=0.1)


def test_the_command_prints_the_text_and_writes_the_picture(root, tmp_path, command):
    status, out, _ = command("data", "show", root, "--picture", tmp_path / "a.png", "data.workers=2")
    assert status == 0
    assert out.startswith(f"{root}: 32 images, 2 classes\n")
    *_, picture, follows = out.splitlines()
    assert picture == f"picture: {tmp_path / 'a.png'}"
    assert follows.endswith(f"check own_images_cpu data.root={root} data.workers=2 space.classes=2")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_that_follows_for_a_folder_without_test_images_finds_them(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 55, parts=("train",))
    _, out, _ = command("data", "show", Path("images/train"), "--quick")
    words = out.splitlines()[-1].partition("proxyless-nas ")[2].split()
    assert words[2:] == ["data.root=images/train", "data.test=0.2", "space.classes=2"]
    status, out, _ = command(*words)
    assert status == 2  # there is no table yet
    assert "ok   data: " in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["imags"], "imags: no such folder or file, expected a folder of images, a CSV list, or a configuration. Did"),
        (["list.csv"], "list.csv: no such file, expected a list of images"),
        (["images", "data.test=2"], "the config: data.test: got 2.0, expected a share strictly between 0 and 1 (0.2)"),
        (["images", "--picture", "a.jpg"], "a.jpg: ends in '.jpg', expected a file that ends in .png"),
        (["latency/imagenet_cpu"], "data: is missing"),
    ],
)
def test_a_wrong_source_is_one_line(words, message, root, command, monkeypatch):
    monkeypatch.chdir(root.parent)
    status, _, err = command("data", "show", *words)
    assert status == 2
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert message in line
    with pytest.raises(ConfigError, match="source: got 3, expected a folder, a CSV list or a configuration"):
        pn.show_data(3)
