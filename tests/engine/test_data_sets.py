"""Each data set opens, and each wrong setting is one line that names the key."""

import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from engine.config import Section, validate
from engine.data import DataConfig, Item, evaluation_batches, memory, open_images
from engine.data.cluttered import cluttered
from engine.data.memory import MemoryImages, Recipe
from engine.data.preprocessing import resized
from engine.errors import ConfigError
from tests.engine.image_folder import write_images


def fails(match, **settings):
    shape = {"input_size": 8, "channels": 3, "classes": 10}
    shape |= {key: settings.pop(key) for key in list(settings) if key in shape}
    with pytest.raises(ConfigError, match=match) as caught:
        open_images(DataConfig(**settings), **shape)
    assert "\n" not in str(caught.value)


def first_batch(images, amount=4):
    return images.load([Item(0, 0, i) for i in range(amount)], augment=False).images


class WithData(Section):
    data: DataConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "imagenet"}, "data.root: is missing, expected the folder that holds 'imagenet'; add it"),
        ({"name": "cifar10", "root": None}, "data.root: is missing, expected"),
        ({"name": "digits", "download": True}, "data.download: got true, expected false for 'digits'"),
        ({"name": "folder", "root": "x", "download": True}, "data.download: got true"),
        ({"name": "digits", "validation": 1.0}, "data.validation: got 1.0, expected a share"),
        ({"name": "digits", "validation": 0}, "data.validation: got 0, expected a share"),
        ({"name": "digits", "validation": -0.5}, "data.validation: got -0.5, expected a share"),
        ({"name": "digits", "validation": True}, "data.validation: got true"),
        ({"name": "digits", "fake_images": 7}, "data.fake_images: got 7, but data.name is 'digits'; remove it"),
        ({"name": "digits", "fake_classes": 7}, "data.fake_classes: got 7, but data.name is 'digits'"),
        ({"name": "fake", "fake_images": 7}, "data.fake_classes: got 10, expected at most data.fake_images (7)"),
        ({"name": "digits", "workers": -1}, "data.workers: got -1"),
        ({"name": "mnist"}, "data.name: got 'mnist'"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_the_key(settings, message):
    with pytest.raises(ConfigError) as caught:
        validate(WithData, {"data": settings}, "search.yaml")
    assert str(caught.value).startswith(f"search.yaml: {message}")
    assert "\n" not in str(caught.value)


def test_valid_settings_keep_their_values_and_types():
    assert DataConfig(name="digits", validation=1).validation == 1
    assert isinstance(DataConfig(name="digits", validation=1).validation, int)
    assert DataConfig(name="digits").validation == 0.5
    assert DataConfig(name="cifar10", root="data/c", download=True).root.name == "c"
    read = validate(WithData, {"data": {"name": "folder", "root": "x", "validation": 50000}}, "search.yaml").data
    assert (read.root, read.validation, type(read.validation)) == (Path("x"), 50000, int)


def test_digits_have_1438_training_images_normalised_and_repeated_over_channels():
    splits = open_images(DataConfig(name="digits"), input_size=16, channels=3, classes=10)
    assert (len(splits.train), len(splits.test)) == (1438, 359)
    assert splits.class_names == tuple("0123456789")
    images = torch.cat([batch.images for batch in evaluation_batches(splits.train, 500, 0)])
    assert images.shape == (1438, 3, 16, 16)
    assert images[:, :1].expand_as(images).equal(images)  # grey, repeated
    native = open_images(DataConfig(name="digits"), input_size=8, channels=1, classes=10).train
    images = torch.cat([batch.images for batch in evaluation_batches(native, 500, 0)])
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(images.std(), torch.tensor(1.0), atol=1e-3, rtol=0)


def test_digits_are_never_mirrored_and_move_by_one_pixel_at_most():
    train = open_images(DataConfig(name="digits"), input_size=8, channels=1, classes=10).train
    image = train.load([Item(0, 0, 5)], augment=False).images[0]
    black = float(train.load([Item(0, 0, 5)], augment=False).images.min())
    padded = torch.nn.functional.pad(image, [1] * 4, value=black)
    shifts = [padded[:, top : top + 8, left : left + 8] for top in range(3) for left in range(3)]
    seen = train.load([Item(0, epoch, 5) for epoch in range(60)], augment=True).images
    matches = [[view.equal(shift) for shift in shifts] for view in seen]
    assert all(any(row) for row in matches)
    assert np.any(matches, axis=0).all()  # all nine places occur


def test_cluttered_digits_are_normalised_and_the_same_each_time():
    splits = open_images(DataConfig(name="cluttered_digits"), input_size=20, channels=1, classes=10)
    assert (len(splits.train), len(splits.test)) == (5000, 2000)
    assert splits.class_names == tuple("0123456789")
    images = torch.cat([batch.images for batch in evaluation_batches(splits.train, 500, 0)])
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(images.std(), torch.tensor(1.0), atol=1e-3, rtol=0)
    again = open_images(DataConfig(name="cluttered_digits"), input_size=20, channels=1, classes=10)
    assert again.test.content() == splits.test.content()
    assert splits.test.content() != splits.train.content()


def test_a_cluttered_image_has_the_digit_of_its_label_and_pieces_of_others():
    """Digits of one grey value each, so that an image shows what it is made of."""
    labels = np.arange(10)
    digits = np.repeat(10 * (labels[:, None, None] + 1), 8, axis=1).repeat(8, axis=2).astype(np.uint8)
    images, found = cluttered(digits, labels, 400, 0)
    assert np.bincount(found).tolist() == [40] * 10  # each digit equally often
    places = set()
    for image, label in zip(images, found, strict=True):
        mine = image >= 10 * (label + 1)  # of a digit, only what is brighter lies over it
        windows = np.lib.stride_tricks.sliding_window_view(mine, (8, 8)).all(axis=(2, 3))
        tops, lefts = np.nonzero(windows)
        inside = [(t, left) for t, left in zip(tops, lefts, strict=True) if 2 <= t <= 10 and 2 <= left <= 10]
        assert inside
        places.update(inside)
        assert set(np.unique(image)) <= {0, *range(10, 101, 10)}
    assert len(places) == 81
    others = [len(set(np.unique(image)) - {0, 10 * (label + 1)}) for image, label in zip(images, found, strict=True)]
    assert np.mean(others) > 1
    assert not np.array_equal(images, cluttered(digits, labels, 400, 1)[0])


def test_fake_is_balanced_and_always_the_same():
    config = DataConfig(name="fake", fake_images=45, fake_classes=4)
    one, two = (open_images(config, input_size=8, channels=2, classes=4) for _ in range(2))
    assert np.ptp(np.bincount(one.train.labels)) <= 1
    assert first_batch(one.train, 45).equal(first_batch(two.train, 45))
    assert not first_batch(one.train).equal(first_batch(one.test))
    assert (len(one.test), one.class_names[3]) == (11, "class 3")


def idx(array):
    """The file format of MNIST: type, number of dimensions, sizes, bytes."""
    return (
        bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes() + array.astype(np.uint8).tobytes()
    )


def test_fashion_mnist_is_normalised_and_refused_if_a_file_is_cut_off(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, 28, 28))
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(20) % 10))
    config = DataConfig(name="fashion_mnist", root=tmp_path)
    splits = open_images(config, input_size=28, channels=1, classes=10)
    expected = (torch.tensor(pixels[:4]).unsqueeze(1) / 255 - 0.2860) / 0.3530
    torch.testing.assert_close(first_batch(splits.train), expected.float())
    assert splits.class_names[9] == "Ankle boot"
    assert first_batch(open_images(config, input_size=32, channels=3, classes=10).test).shape == (4, 3, 32, 32)
    (raw / "train-images-idx3-ubyte").write_bytes(idx(pixels)[:100])
    fails(r"data\.root: no complete 'fashion_mnist'", name="fashion_mnist", root=tmp_path)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_absent_files_are_answered_with_the_setting_that_downloads_them(name, tmp_path):
    fails(r"data\.root: no complete '.*' in '.*set data\.download: true", name=name, root=tmp_path)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
@pytest.mark.parametrize("error", [urllib.error.URLError("unreachable"), OSError("refused"), RuntimeError("a\nb")])
def test_a_download_that_fails_is_one_line_that_names_the_key(name, error, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise error

    for module in (torchvision.datasets.mnist, torchvision.datasets.cifar):
        monkeypatch.setattr(module, "download_and_extract_archive", refuse)
    fails(r"data\.download: could not fetch '.*' into data\.root", name=name, root=tmp_path, download=True)


def test_cifar10_is_normalised_and_refused_with_one_channel(tmp_path, monkeypatch):
    class Tiny:
        classes = tuple("abcdefghij")
        data = np.random.default_rng(0).integers(0, 256, size=(20, 32, 32, 3), dtype=np.uint8)
        targets = [i % 10 for i in range(20)]  # noqa: RUF012

        def __init__(self, root, train, download):
            assert root == tmp_path

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Tiny)  # its checksums rule out a small set of files
    splits = open_images(DataConfig(name="cifar10", root=tmp_path), input_size=32, channels=3, classes=10)
    expected = (Tiny.data[:4] / 255 - [0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]
    torch.testing.assert_close(first_batch(splits.train), torch.tensor(expected).permute(0, 3, 1, 2).float())
    fails(r"space\.input_channels: got 1, but .* have 3; set it to 3", name="cifar10", root=tmp_path, channels=1)


def test_resizing_keeps_flat_images_flat_and_averages_detail():
    flat = torch.full((1, 1, 8, 8), 77, dtype=torch.uint8)
    assert (resized(flat, 5) == 77).all()
    stripes = torch.tensor([0, 0, 0, 200], dtype=torch.uint8).repeat(8).expand(1, 1, 32, 32)
    assert (resized(stripes, 8)[..., 1:-1] >= 40).all()  # 50 on average; without antialiasing the 200 is never seen


def test_a_space_with_other_classes_or_channels_than_the_images_is_refused():
    fails(
        r"space\.classes: got 100, but data\.name 'digits' has 10 classes; set space\.classes: 10",
        name="digits",
        classes=100,
    )
    fails(r"space\.classes: got 10, .* has 4 classes \(data\.fake_classes\)", name="fake", fake_classes=4)
    fails(r"space\.input_channels: got 2, .* have 1; set it to 1, or 3", name="digits", channels=2)


def test_a_folder_of_images_is_sorted_by_class_resized_cropped_and_normalised(tmp_path):
    root = write_images(tmp_path, 3, size=20)
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "class0" / "notes.txt").write_text("no image")
    (root / "train" / "class0" / "._000.png").write_text("no image")
    config = DataConfig(name="folder", root=root)
    splits = open_images(config, input_size=14, channels=3, classes=2)
    assert splits.class_names == ("class0", "class1")
    assert splits.train.labels.tolist() == splits.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.train.path(4) == str(root / "train" / "class1" / "001.png")
    # 20 x 22 -> 16 x 18 -> the central 14 x 14
    picture = Image.open(splits.train.path(4)).resize((int(16 * 22 / 20), 16), Image.Resampling.BILINEAR)
    left, top = round((picture.width - 14) / 2), 1
    pixels = torch.tensor(np.array(picture)[top : top + 14, left : left + 14]).permute(2, 0, 1)
    expected = (pixels / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    torch.testing.assert_close(splits.train.load([Item(0, 0, 4)], augment=False).images[0], expected)
    grey = open_images(config, input_size=14, channels=1, classes=2).train
    assert grey.load([Item(0, 0, 4)], augment=True).images.shape == (1, 1, 14, 14)


@pytest.mark.parametrize(("name", "part"), [("imagenet", "val"), ("folder", "test")])
def test_the_test_part_is_val_for_imagenet_and_test_for_a_folder(name, part, tmp_path):
    root = write_images(tmp_path, 1, parts=("train", "val", "test"))
    splits = open_images(DataConfig(name=name, root=root), input_size=8, channels=3, classes=2)
    assert splits.test.root == root / part


def test_a_folder_that_lacks_a_part_or_a_class_is_refused_in_one_line(tmp_path):
    fails(r"data\.root: no folder '.*absent'", name="folder", root=tmp_path / "absent")
    fails(r"data\.root: no train/ in", name="folder", root=tmp_path)
    write_images(tmp_path, 1, parts=("train",))
    fails(r"data\.root: neither val/ nor test/ in", name="imagenet", root=tmp_path)
    write_images(tmp_path, 1, classes=3, parts=("val",))
    fails(
        r"data\.root: the class folders of val/ are not those of train/ .*: 1 not in train/ \(first: 'class2'\)",
        name="folder",
        root=tmp_path,
    )
    (tmp_path / "train" / "class2").mkdir()
    fails(r"space\.classes: got 10, but data\.name 'folder' has 3 classes", name="folder", root=tmp_path)
    fails(r"space\.input_channels: got 4", name="folder", root=tmp_path, classes=3, channels=4)
    fails(r"data\.root: class folder '.*class2' has no image", name="folder", root=tmp_path, classes=3)


@pytest.mark.parametrize("flip", [True, False])
def test_a_training_image_in_memory_is_the_drawn_window_of_the_padded_picture(flip):
    """The picture gets S // 8 pixels of zeros on each side, a window of S x S is cut from it, and it is mirrored (He et
    al. 2015). The test goes through every place of a window."""
    pixels = torch.randint(1, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    recipe = Recipe((0.5,) * 3, (0.25,) * 3, flip)
    images = MemoryImages(pixels, np.zeros(60), recipe, channels=3)
    shown = images.read([Item(4, epoch, i) for epoch in (0, 1) for i in range(60)], augment=True).pixels
    padded = torch.nn.functional.pad(pixels, [2] * 4)
    places = [memory._draws(4, epoch, 60, 2) for epoch in (0, 1)]
    for k, (top, left, mirrored) in enumerate(np.concatenate(places).tolist()):
        window = padded[k % 60, :, top : top + 16, left : left + 16]
        assert torch.equal(shown[k], window.flip(-1) if flip and mirrored else window)
    assert len({tuple(place) for place in np.concatenate(places).tolist()}) > 40  # of 50
