"""A set without a split gets a fixed one; val/ and test/ have each their use; lists and files of labels are read."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from engine.config import Section, validate
from engine.data import DataConfig, Item, Splits, open_images
from engine.data.evaluated import open_test_images
from engine.data.parts import Part, Parts, held_out
from engine.data.preprocessing import Preprocessing
from engine.errors import ConfigError
from tests.engine.image_folder import write_images


def opened(classes: int = 2, **settings: object) -> Splits:
    return open_images(DataConfig(**settings), input_size=6, channels=3, classes=classes)


def refused(classes: int = 2, **settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        opened(classes, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(images) -> list[str]:
    return [name.decode() for name in images.files.tolist()]


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def part_of(files: dict[str, list[str]]) -> Part:
    listed = [f"{name}/{file}".encode() for name, own in files.items() for file in sorted(own)]
    labels = [label for label, own in enumerate(files.values()) for _ in own]
    return Part("train/", Path("train"), np.array(listed), np.array(labels))


# data.test


@pytest.mark.parametrize("share", [0.2, 0.01, 0.5, 0.99])
def test_a_share_of_each_class_is_held_out_and_every_class_stays_in_both_parts(share):
    sizes = {"a": 2, "b": 7, "c": 50}
    whole = part_of({name: [f"{i}.jpg" for i in range(size)] for name, size in sizes.items()})
    train, test = held_out(whole, share, tuple(sizes))
    assert sorted([*train.files, *test.files]) == sorted(whole.files)
    expected = [min(max(1, int(share * n + 0.5)), n - 1) for n in sizes.values()]
    assert np.bincount(test.labels).tolist() == expected
    assert (np.diff(train.labels) >= 0).all()


def test_a_further_image_moves_one_other_of_its_class_at_most():
    files = [f"{i}.jpg" for i in range(40)]
    moved = []
    for n in range(3, 40):
        before, after = (
            {*held_out(part_of({"a": files[:m], "b": files[:9]}), 0.3, ("a", "b"))[1].files} for m in (n, n + 1)
        )
        new = f"a/{files[n]}".encode()
        moved.append(len(before - after) + len(after - before - {new}))
        assert {name for name in before if name[:1] == b"b"} == {name for name in after if name[:1] == b"b"}
    assert set(moved) == {0, 1}


def test_the_choice_depends_on_names_alone():
    """The choice may never change: a change here would move images between the parts of everybody's sets."""
    part = part_of({"cat": [f"{i}.jpg" for i in range(10)], "dog": ["a.png", "b.png"]})
    test = held_out(part, 0.2, ("cat", "dog"))[1]
    assert [name.decode() for name in test.files] == CHOSEN
    accented = [part_of({"é": [f"{form}{i}" for i in range(9)]}) for form in ("é", unicodedata.normalize("NFD", "é"))]
    chosen = [held_out(part, 0.3, ("é",))[1].files for part in accented]
    assert [unicodedata.normalize("NFC", name.decode()) for name in chosen[1]] == [n.decode() for n in chosen[0]]


CHOSEN = ["cat/3.jpg", "cat/8.jpg", "dog/a.png"]


def test_a_folder_of_class_folders_is_divided_and_so_is_train_alone(tmp_path):
    root = write_images(tmp_path / "set", 10, parts=("train",))
    inside = opened(name="folder", root=root, test=0.2)
    alone = opened(name="folder", root=root / "train", test=0.2)
    assert (len(inside.train), len(inside.test)) == (16, 4)
    assert names(inside.test) == names(alone.test)
    assert not {*names(alone.test)} & {*names(alone.train)}
    assert alone.validation is None
    assert refused(name="folder", root=root).endswith("set data.test: 0.2, which holds out a fifth of train/")
    assert refused(name="folder", root=root / "train").endswith(
        "add it or correct the path; if its folders are the classes, set data.test: 0.2, a fifth of each for the test"
    )
    assert refused(name="folder", root=root / "train" / "class1").endswith(
        f"if its files are the images of one class, give the folder above it, '{root / 'train'}'"
    )
    shutil.copytree(root / "train", root / "test")
    assert refused(name="folder", root=root, test=0.2).startswith("data.test: got 0.2, but ")
    for n in range(1, 10):
        (root / "train" / "class1" / f"{n:03d}.png").unlink()
    assert refused(name="folder", root=root / "train", test=0.2).startswith("data.test: class 'class1' has 1 image in ")


def test_a_class_may_be_called_train(tmp_path):
    root = write_images(tmp_path, 4, parts=("set",)) / "set"
    (root / "class0").rename(root / "train")
    assert opened(name="folder", root=root, test=0.5).class_names == ("class1", "train")
    (root / "class1").rename(root / "val")
    assert "has val/ and no train/" in refused(name="folder", root=root, test=0.5)


class WithData(Section):
    data: DataConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "folder", "root": "x", "test": 1.0}, "data.test: got 1.0, expected a share strictly between 0 and 1"),
        ({"name": "digits", "test": 0.2}, "data.test: got 0.2, but data.name is 'digits', expected null, or data.name"),
        ({"name": "imagenet", "root": "x", "test": 0.2}, "data.test: got 0.2, but data.name is 'imagenet'"),
        ({"name": "csv"}, "data.csv: is missing, expected the file with the columns path and label; add it"),
        ({"name": "folder", "root": "x", "csv": "a.csv"}, "data.csv: got 'a.csv', but data.name is 'folder'; set"),
        ({"name": "csv", "csv": "a.csv", "labels": "x"}, "data.labels: got x, but data.name is 'csv'"),
        ({"name": "digits", "balance": "loss"}, "data.balance: got 'loss', expected 'weights' or 'sampling'"),
    ],
)
def test_a_setting_that_does_not_fit_the_set_is_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        validate(WithData, {"data": settings}, "a.yaml")
    assert str(caught.value).startswith(f"a.yaml: {message}")


def test_what_was_found_is_logged_before_anything_runs(tmp_path, caplog):
    root = write_images(tmp_path, 5, parts=("train", "val"))
    with caplog.at_level("INFO"):
        opened(name="folder", root=root, test=0.2)
    assert caplog.messages == [
        f"{root / 'train'}: 8 images to train (80 % of train/), 10 images to select (val/), 2 images to test (20 % of "
        "train/)",
        f"{root / 'train'}: 2 classes: class0 4+5+1, class1 4+5+1",
    ]
    part = part_of({f"{c:02d}": [f"{i}.png" for i in range(c + 1)] for c in range(21)})
    assert Parts(tuple(f"{c:02d}" for c in range(21)), part, None).in_words() == [
        "231 images to train (train/)",
        "21 classes: 1 ('00') to 21 ('20') to train in each",
    ]


@pytest.mark.parametrize(
    ("pair", "alike"),
    [
        (("Cat", "cat"), True),
        (("Straße", "STRASSE"), True),
        (("01", "1"), True),
        (("1", "1.0"), True),
        (("10", "1"), False),
    ],
)
def test_classes_that_may_be_one_are_named_in_a_warning(pair, alike, caplog):
    parts = Parts(("other", *pair), part_of({name: ["a.png"] for name in ("other", *pair)}), None)
    parts.log_left_out()
    first, second = pair
    expected = (
        f"train: the classes '{first}' and '{second}' differ in capitals, spaces or zeros alone; if they are one, "
    )
    assert [line.startswith(expected) for line in warnings(caplog)] == [True] * alike
    assert len(parts.remarks) == alike


# val/ and test/


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_select_beside_test_and_report_without_it(name, tmp_path):
    root = write_images(tmp_path, 2, parts=("train", name))
    for kind in ("folder", "imagenet"):
        splits = opened(name=kind, root=root)
        assert (splits.test.root.name, splits.validation) == (name, None)
    write_images(root, 3, parts=("test",))
    splits = opened(name="folder", root=root)
    assert (splits.validation.root.name, splits.test.root.name) == (name, "test")
    splits = opened(name="imagenet", root=root)
    assert (splits.validation, splits.test.root.name) == (None, name)


def test_a_validation_part_that_does_not_fit_is_left_out_with_a_warning(tmp_path, caplog):
    root = write_images(tmp_path, 2, parts=("train", "val", "test"))
    (root / "val" / "class1").rename(root / "val" / "other")
    assert opened(name="folder", root=root).validation is None
    (line,) = warnings(caplog)
    assert line == (
        f"{root / 'val'}: not used, since its class folders are not those of train/: 1 missing (first: 'class1'), "
        "1 not in train/ (first: 'other')"
    )
    shutil.rmtree(root / "val")
    (root / "val").symlink_to("test")
    assert opened(name="folder", root=root).validation is None
    (root / "valid").mkdir()
    assert "has val/ and valid/, expected one folder of validation images" in refused(name="folder", root=root)


def test_with_a_share_for_the_test_val_selects(tmp_path):
    root = write_images(tmp_path, 5, parts=("train", "val"))
    splits = opened(name="folder", root=root, test=0.2)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 10, 2)


# data.csv


@pytest.fixture
def pictures(tmp_path) -> Path:
    return write_images(tmp_path / "set", 3, parts=("p",)) / "p"


def listed(folder: Path, text: str, **settings: object) -> dict[str, object]:
    file = folder / "list.csv"
    file.write_text(text, encoding="utf-8")
    return {"name": "csv", "csv": file, **settings}


def test_a_list_gives_paths_labels_and_parts_in_any_order_of_columns(pictures, caplog):
    text = (
        "\ufeffLabel;split; path ;more\n"
        ' dog ;train;"class0/000.png";1\n'
        "cat;Train;class0\\001.png;2\n"
        "cat;valid;./class0/../class0/002.png;\n"
        f"dog;test;{pictures}/class1/000.png;\n"
        "\n"
        "dog;test;class1/000.png;\n"
    )
    splits = opened(**listed(pictures, text))
    assert splits.class_names == ("cat", "dog")
    assert (names(splits.train), splits.train.labels.tolist()) == (["class0/001.png", "class0/000.png"], [0, 1])
    assert (names(splits.validation), names(splits.test)) == (["class0/002.png"], ["class1/000.png"])
    assert warnings(caplog) == [f"{pictures}: left out rows that repeat another (1)"]
    assert splits.train.load([Item(0, 0, 0)], augment=False).images.shape == (1, 3, 6, 6)


def test_labels_of_one_number_are_in_the_same_order_in_every_process(pictures):
    """The order of a set of texts, here 01, 1 and 001, differs from process to process."""
    order = ["001", "01", "1", "002", "02", "2"]
    rows = [f"class{i // 3}/{i % 3:03d}.png,{label},train" for i, label in enumerate(order)]
    text = "\n".join(["path,label,split", *rows, "list.csv,001,test"])
    assert opened(6, **listed(pictures, text)).class_names == tuple(order)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_accent_in_a_path_may_be_written_in_either_way(form, pictures):
    """macOS writes it as a character of its own, in its lists too; other systems keep the name of a copied file."""
    name = unicodedata.normalize("NFC" if form == "NFD" else "NFD", "é.png")
    (pictures / "class0" / "000.png").rename(pictures / "class0" / name)
    other = unicodedata.normalize(form, "é.png")
    text = f"path,label,split\nclass0/{other},a,train\nclass1/000.png,b,train\nclass1/001.png,b,test\n"
    assert names(opened(**listed(pictures, text)).train) == [f"class0/{name}", "class1/000.png"]


def test_a_list_without_splits_is_divided_and_numbers_are_sorted_as_numbers(pictures):
    rows = [f"class{c}/{n:03d}.png,{10 if c else 9}" for c in (0, 1) for n in range(3)]
    text = "path,label\n" + "\n".join(rows)
    splits = opened(**listed(pictures, text, test=0.34))
    assert splits.class_names == ("9", "10")
    longer = text.replace(",10", f",{'1' * 5000}")  # Python converts no text of so many digits to a number
    assert opened(**listed(pictures, longer, test=0.34)).class_names == ("1" * 5000, "9")
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert names(splits.test) == names(opened(name="folder", root=pictures, test=0.34).test)
    other = listed(pictures.parent, text, test=0.34, root=pictures)
    assert names(opened(**other).test) == names(splits.test)
    assert refused(**listed(pictures, text)).endswith(
        "has no column split, expected test images; set data.test: 0.2, which holds out a fifth of each class, or add "
        "test images"
    )


def test_a_file_that_a_list_names_through_links_too_is_taken_once(pictures, caplog):
    (pictures / "link.png").symlink_to("class0/000.png")
    (pictures / "again").symlink_to("class1")
    (pictures / "other.png").symlink_to(pictures / "again" / "002.png")
    set_link = pictures.parent / "set link"
    set_link.symlink_to(pictures)
    head = "path,label,split\nclass0/000.png,a,train\nagain/000.png,b,train\nother.png,b,test\n"
    same = "link.png,a,train\nclass1/000.png,b,train\nclass1/002.png,b,test\n"
    for root in (pictures, set_link):  # the root may be a link itself
        caplog.clear()
        splits = opened(**listed(pictures, head + same, root=root))
        assert (names(splits.train), names(splits.test)) == (["class0/000.png", "again/000.png"], ["other.png"])
        assert warnings(caplog) == [f"{root}: left out rows that repeat another (3)"]
    for row, other in {"link.png,a,test": "class0/000.png", "class1/000.png,a,train": "again/000.png"}.items():
        path = row.partition(",")[0]
        assert f" and 5 name one file, '{other}' and '{path}', as " in refused(**listed(pictures, head + row))


BOTH = "class0/000.png,a,train\nclass1/000.png,b,train\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no image, expected a header, and a row for each image"),
        ("path,label\n", "names no image"),
        ("file,label\na,b\n", "has no column 'path', only 'file', 'label', expected a header in the first line"),
        ("class0/000.png,a\n", "has no column 'path', only 'class0/000.png', 'a'"),
        ("path,label,Label\na,b,c\n", "has 2 columns 'label', expected one; rename the others"),
        ("path,label\nclass0/000.png\n", "line 2 has 1 cells, too few for its columns path, label"),
        ("path,label\nclass0/000.png,\n", "line 2 has no label, expected both in every row"),
        ('path,label\n"class0/000.png,a\n', "line 2 is no row of a CSV file (unexpected end of data)"),
        ("path,label,split\nclass0/000.png,a,tran\n", "line 2: got split 'tran', expected 'train', 'test', "),
        (
            f"path,label,split\n{BOTH}x.png,a,test\ny.png,a,test\n",
            "2 of 4 files do not exist (first: 'x.png' of line 4)",
        ),
        (
            f"path,label,split\n{BOTH}class0/000.png,b,test\n",
            "lines 2 and 4 name 'class0/000.png', as 'a' in train and as 'b' in test, expected one label and one split",
        ),
        (
            f"path,label,split\n{BOTH}class1/001.png,c,test\n",
            "1 of 3 labels have no training image (first: 'c' of line 4)",
        ),
        ("path,label,split\nclass0/000.png,a,test\n", "has no image whose split is train"),
        (f"path,label,split\n{BOTH}", "has no image whose split is test or val, expected test images"),
        ("path,label\na\0.png,a\n", "line 2: the path has a NUL character, which no file name has"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_with_a_list_is_one_line_that_names_the_place(pictures, text, message):
    settings = listed(pictures, text)
    assert refused(**settings).startswith(f"{settings['csv']}: {message}")


# data.labels


@pytest.fixture
def flat(tmp_path) -> Path:
    """train/ with the classes class0 to class2, and val/ with six images, the k-th of class k % 3."""
    root = write_images(tmp_path, 2, classes=3, parts=("train", "made"))
    (root / "val").mkdir()
    for k in range(6):
        (root / "made" / f"class{k % 3}" / f"{k // 3:03d}.png").rename(root / "val" / f"v_{k}.png")
    shutil.rmtree(root / "made")
    return root


EXPECTED = ["v_0.png", "v_3.png", "v_1.png", "v_4.png", "v_2.png", "v_5.png"]
# numbers of ILSVRC2012 are in another order than the sorted names of the classes
NUMBERS = {"class0": 3, "class1": 1, "class2": 2}


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("val.txt", [f"v_{k}.png {k % 3}" for k in range(6)]),
        ("val_annotations.txt", [f"v_{k}.png\tclass{k % 3}\t0\t0\t9\t9" for k in reversed(range(6))]),
        ("LOC_val_solution.csv", ["ImageId,PredictionString", *(f"v_{k},class{k % 3} 1 2 3 4 " for k in range(6))]),
        ("imagenet_2012_validation_synset_labels.txt", [f"class{k % 3}" for k in range(6)]),
        ("ILSVRC2012_validation_ground_truth.txt", [str(NUMBERS[f"class{k % 3}"]) for k in range(6)]),
    ],
)
@pytest.mark.parametrize("place", ["root", "val", "key"])
def test_each_form_of_a_file_of_labels_is_read(flat, name, lines, place, tmp_path_factory):
    folder = {"root": flat, "val": flat / "val", "key": tmp_path_factory.mktemp("elsewhere")}[place]
    (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "map_clsloc.txt").write_text("\n".join(f"{c} {n} some_name" for c, n in NUMBERS.items()))
    key = {"labels": folder / name} if place == "key" else {}
    for kind in ("imagenet", "folder"):
        splits = opened(3, name=kind, root=flat, **key)
        assert names(splits.test) == EXPECTED
        assert splits.test.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_numbers_of_the_development_kit_are_looked_up_in_its_table(flat):
    """The table holds entries with children too, as in the kit: they are no classes, but have numbers."""
    kit = flat / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(
        "\n".join(str(NUMBERS[f"class{k % 3}"]) for k in range(6))
    )
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
    entries = [(number, name, "a name", 0) for name, number in NUMBERS.items()] + [(4, "n000", "above", 2)]
    scipy.io.savemat(kit / "meta.mat", {"synsets": np.array(entries, dtype=kinds)[:, None]})
    splits = opened(3, name="imagenet", root=flat)
    assert (names(splits.test), splits.test.labels.tolist()) == (EXPECTED, [0, 0, 1, 1, 2, 2])
    (kit / "meta.mat").write_bytes(b"no table")
    assert refused(3, name="imagenet", root=flat).startswith(f"{kit / 'meta.mat'}: cannot be read, expected the table")
    (kit / "meta.mat").unlink()
    assert "has numbers alone, whose classes are in meta.mat or map_clsloc.txt" in refused(
        3, name="imagenet", root=flat
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no line, expected a label for each image"),
        ("class0\nclass1", "has 2 lines for 6 images, expected a line for each image"),
        ("class0\n" * 5 + "classX", "label 6 is 'classX', which is no class of train/"),
        ("w_0.png class0", "'w_0.png class0' begins with the name of none of the 6 images"),
        ("v_0.png class0\nv_1.png 3", "label 2 is 3, expected 0 to 2, the place of the class among the sorted names"),
        ("v_0.png class0\nv_0 class1", "gives 'v_0' two classes, expected one for each image"),
        ("v_0.png class0\nv_1", "label 2 has no class: 'v_1'"),
        ("v_0.png class0\nv_3 class0", "has no label for 4 of 6 images (first: 'v_1.png')"),
    ],
)
def test_whatever_is_wrong_with_a_file_of_labels_is_one_line_that_names_it(flat, text, message):
    file = flat / "val.txt"
    file.write_text(text)
    assert refused(3, name="imagenet", root=flat).startswith(f"{file}: {message}")


def test_images_in_one_folder_are_evaluated_without_training_images(flat):
    """The classes are those of the file of labels, or those of the development kit."""
    shape = Preprocessing.of_files(6, (0.5,) * 3, (0.5,) * 3)
    shutil.rmtree(flat / "train")
    (flat / "map_clsloc.txt").write_text("\n".join(f"{c} {n} some_name" for c, n in NUMBERS.items()))
    for name, words in (("val_annotations.txt", "v_{k}.png class{c}"), ("val.txt", "class{c}"), ("val.txt", "{n}")):
        lines = [words.format(k=k, c=k % 3, n=NUMBERS[f"class{k % 3}"]) for k in range(6)]
        (flat / name).write_text("\n".join(lines))
        images, classes = open_test_images(flat, shape, 3)
        assert (names(images), images.labels.tolist()) == (EXPECTED, [0, 0, 1, 1, 2, 2])
        assert classes == ("class0", "class1", "class2")
        (flat / name).unlink()
    (flat / "val.txt").write_text("\n".join(f"v_{k}.png {k % 3}" for k in range(6)))
    with pytest.raises(ConfigError, match=r"val.txt: has places of classes, whose names are not known, expected the f"):
        open_test_images(flat, shape, 3)


def test_images_in_one_folder_without_labels_are_refused_with_the_key_to_set(flat):
    assert refused(3, name="imagenet", root=flat).endswith(
        "both need the same folders, or the file with the labels of its images (data.labels)"
    )
    (flat / "val" / "class0").mkdir()
    found = refused(3, name="imagenet", root=flat, labels=flat / "val.txt")
    assert found.startswith(f"data.labels: got '{flat / 'val.txt'}', but '{flat / 'val'}' has class folders")
