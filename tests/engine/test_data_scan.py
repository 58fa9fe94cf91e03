"""A folder is scanned for images: each real file counts once, and files that are left out are named once, by kind."""

import logging
import os
import shutil
import socket
import unicodedata
from pathlib import Path

import pytest

from engine.data import DataConfig, Item, open_images
from engine.data.pictures import extensions
from engine.errors import ConfigError
from tests.engine.image_folder import write_images


@pytest.fixture
def root(tmp_path):
    return write_images(tmp_path / "images", 2, size=6)


def opened(root, classes=2):
    return open_images(DataConfig(name="folder", root=root), input_size=6, channels=3, classes=classes)


def refused(root, classes=2):
    with pytest.raises(ConfigError) as caught:
        opened(root, classes)
    return str(caught.value)


def names(root, classes=2):
    """Paths of the training images below train/."""
    images = opened(root, classes).train
    return [os.path.relpath(images.path(i), root / "train") for i in range(len(images))]


PLAIN = ["class0/000.png", "class0/001.png", "class1/000.png", "class1/001.png"]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


FOREIGN = [
    *(".ipynb_checkpoints", ".Trash-1000", ".thumbnails", "@eaDir", "@EADIR", "#recycle", "__MACOSX", "lost+found"),
    *("$RECYCLE.BIN", "System Volume Information", "__pycache__"),
]


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("place", [".", "class0", "class0/deeper"])
def test_folders_of_systems_are_left_out_at_every_depth_and_named_once(name, place, root, caplog):
    foreign = root / "train" / place / name
    foreign.mkdir(parents=True)
    shutil.copy(root / "train" / "class0" / "000.png", foreign / "x.png")
    assert names(root) == PLAIN
    assert warnings(caplog) == [f"{root / 'train'}: left out folders called {name} (1)"]


def test_files_that_are_no_images_are_counted_by_kind_in_one_line(root, caplog):
    place = root / "train" / "class0"
    for name in ("notes.txt", "more.TXT", "photo", "a.heic", ".DS_Store", "._000.png", "Thumbs.db", "desktop.ini"):
        (place / name).write_bytes(b"")
    (root / "train" / "README.md").write_text("which images")
    os.mkfifo(place / "pipe.png")
    os.symlink("nowhere.png", place / "lost.png")
    os.symlink("circle.png", place / "circle.png")
    with socket.socket(socket.AF_UNIX) as connection:
        folder = os.getcwd()
        os.chdir(place)  # the names of sockets are short
        try:
            connection.bind("s.png")
        finally:
            os.chdir(folder)
    assert names(root) == PLAIN
    assert warnings(caplog) == [
        f"{root / 'train'}: left out devices, pipes or sockets (2), files ending in .txt (2), hidden files (2), links "
        "to nothing (2), system files (2), files ending in .heic (1), files outside the class folders (1), files "
        "without an ending (1)"
    ]


def test_many_kinds_are_one_bounded_line(root, caplog):
    for i in range(200):
        (root / "train" / "class0" / f"a.kind{i}").write_bytes(b"")
    assert names(root) == PLAIN
    (line,) = warnings(caplog)
    assert line.endswith("other kinds (192)")
    assert len(line) < 500


def test_a_usual_folder_causes_no_warning(root, caplog):
    assert names(root) == PLAIN
    assert warnings(caplog) == []


@pytest.mark.parametrize("ending", ["jfif", "jpe", "JPG", "gif", "avif", "PnG", "webp", "jp2", "tga", "tiff", "ppm"])
def test_every_ending_of_a_format_that_is_decoded_is_taken(ending, root):
    if ending == "avif" and ".avif" not in extensions():
        pytest.skip("this Pillow has no AVIF")
    (root / "train" / "class0" / "000.png").rename(root / "train" / "class0" / f"x.{ending}")
    assert names(root)[:2] == ["class0/001.png", f"class0/x.{ending}"]


def test_formats_that_are_not_decoded_or_run_a_program_are_not_taken(root):
    assert not extensions() & {".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf", ".txt", ""}


def test_a_class_of_other_files_is_refused_with_what_it_has(root):
    shutil.rmtree(root / "train" / "class1")
    (root / "train" / "class1").mkdir()
    for name in ("a.heic", "b.HEIC", "photo"):
        (root / "train" / "class1" / name).write_bytes(b"")
    assert refused(root).startswith(
        f"data.root: class folder '{root / 'train' / 'class1'}' has no image but other things: files ending in .heic "
        "(2), files without an ending (1), expected files that end in .jpg, .png, "
    )


def test_a_link_to_a_folder_above_is_left_out(root, caplog):
    for link, target in (("up", ".."), ("self", "."), ("root", "/"), ("images", str(root))):
        os.symlink(target, root / "train" / "class0" / link)
    os.symlink("..", root / "train" / "up")
    assert names(root) == PLAIN
    assert warnings(caplog) == [f"{root / 'train'}: left out links to a folder above (5)"]


def test_a_link_to_itself_beside_the_classes_is_no_class(root, caplog):
    os.symlink("circle", root / "train" / "circle")
    assert names(root) == PLAIN
    assert warnings(caplog) == [f"{root / 'train'}: left out files outside the class folders (1)"]


def test_each_real_file_is_taken_once_however_many_links_lead_to_it(root, caplog, tmp_path):
    place = root / "train" / "class0"
    (place / "inside").mkdir()
    shutil.copy(place / "000.png", place / "inside" / "a.png")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("c.png", "d.png"):
        shutil.copy(place / "000.png", elsewhere / name)
    os.symlink("inside", place / "again")  # sorted before the folder itself
    os.symlink("000.png", place / "00.png")
    os.symlink(elsewhere / "d.png", place / "aa.png")
    os.symlink(elsewhere, place / "further")
    os.symlink(elsewhere / "c.png", place / "z.png")
    os.symlink(place, elsewhere / "back")
    found = names(root)
    expected = [*(root / "train" / name for name in PLAIN), place / "inside" / "a.png", elsewhere / "c.png"]
    real = [os.path.realpath(root / "train" / name) for name in found]
    assert sorted(real) == sorted(map(os.path.realpath, [*expected, elsewhere / "d.png"]))
    assert len(warnings(caplog)) == 1


def test_linked_files_have_the_ending_of_the_link(root, tmp_path):
    """Version control of data stores contents under their hash and links to them."""
    store = tmp_path / "0a1b2c"
    (root / "train" / "class0" / "000.png").rename(store)
    os.symlink(store, root / "train" / "class0" / "000.png")
    assert names(root) == PLAIN


def test_class_folders_may_be_links(root, tmp_path):
    (root / "train" / "class1").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", root / "train" / "class1")
    assert names(root) == PLAIN


@pytest.mark.parametrize("how", ["folder", "file", "class", "below"])
def test_a_file_in_two_classes_is_refused(how, root):
    train = root / "train"
    if how == "folder":
        os.symlink("../class1", train / "class0" / "more")
    elif how == "file":
        os.symlink("../class1/000.png", train / "class0" / "more.png")
    elif how == "class":
        shutil.rmtree(train / "class1")
        os.symlink("class0", train / "class1")
    else:
        (train / "class0" / "deep").mkdir()
        shutil.copy(train / "class0" / "000.png", train / "class0" / "deep" / "x.png")
        shutil.rmtree(train / "class1")
        os.symlink("class0/deep", train / "class1")
    text = refused(root)
    assert text.startswith(f"data.root: '{train}/class0/")
    assert text.endswith("are one file in two classes, through a link; remove the link")


def test_a_chain_of_folders_that_link_to_each_other_ends(root, tmp_path):
    """Each of forty folders has links to all of them; every image is found once."""
    places = [tmp_path / "web" / str(i) for i in range(40)]
    for i, place in enumerate(places):
        place.mkdir(parents=True)
        shutil.copy(root / "train" / "class0" / "000.png", place / f"{i}.png")
        for j in range(40):
            os.symlink(places[j], place / f"to{j}")
    os.symlink(places[0], root / "train" / "class0" / "web")
    assert len(names(root)) == 4 + 40


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named_in_the_error(root):
    (root / "train" / "class0" / "locked").mkdir(mode=0o000)
    assert "locked' cannot be read (Permission denied)" in refused(root)


def test_a_folder_that_cannot_be_listed_is_one_line(root, monkeypatch):
    scandir = os.scandir

    def broken(path):
        if str(path).endswith("class1"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", broken)
    assert "class1' cannot be read (Permission denied); make it readable, or remove it" in refused(root)


COMPOSED, DECOMPOSED = "café", unicodedata.normalize("NFD", "café")


def test_class_names_are_compared_in_their_composed_form(root):
    """Files copied from macOS may have decomposed names in one part."""
    (root / "train" / "class0").rename(root / "train" / COMPOSED)
    (root / "test" / "class0").rename(root / "test" / DECOMPOSED)
    splits = opened(root)
    assert splits.class_names == (COMPOSED, "class1")
    assert Path(splits.test.path(0)).parent.name == DECOMPOSED
    assert splits.test.load([], augment=False).labels.tolist() == []
    assert splits.train.labels.tolist() == splits.test.labels.tolist() == [0, 0, 1, 1]


def test_a_class_folder_whose_name_is_no_utf_8_gives_a_class_that_can_be_written(root):
    """As archives of other systems leave them. Curves, JSON and pages take such names in no other form."""
    for part in ("train", "test"):
        (root / part / "class0").rename(os.fsdecode(os.fsencode(root / part) + b"/caf\xe9"))
    splits = opened(root)
    assert splits.class_names == (r"caf\xe9", "class1")
    assert splits.train.load([Item(0, 0, 0)], augment=False).labels.tolist() == [0]


def test_two_folders_of_one_name_are_refused_visibly(root):
    (root / "train" / "class0").rename(root / "train" / COMPOSED)
    shutil.copytree(root / "train" / "class1", root / "train" / DECOMPOSED)
    text = refused(root, 3)
    assert r"'caf\xe9'" in text
    assert r"'cafe\u0301'" in text


@pytest.mark.parametrize(("here", "there", "shown"), [("a b", "a\u00a0b", r"'a\xa0b'"), ("fi", "\ufb01", r"'\ufb01'")])
def test_names_that_look_alike_are_written_so_that_they_differ(here, there, shown, root):
    (root / "train" / "class0").rename(root / "train" / here)
    (root / "test" / "class0").rename(root / "test" / there)
    text = refused(root)
    assert f"1 missing (first: '{here}')" in text
    assert f"1 not in train/ (first: {shown})" in text


def test_a_wrong_root_is_answered_by_the_nearest_folder(root):
    assert refused(root.parent / "imags").endswith(f". Did you mean '{root}'?; correct it")
    (root / "train").rename(root / "training")
    assert refused(root).endswith(f". Did you mean '{root / 'training'}'?; add it or correct the path")
