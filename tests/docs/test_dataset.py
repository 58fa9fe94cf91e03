"""The sets of docs/extending/dataset.md are opened, searched and retrained, and a wrong set is refused in one line."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from engine.config import validate
from engine.data import BatchStream, DataConfig, Item, Splits, evaluation_batches, open_images, subset
from engine.errors import ConfigError
from search.config import SearchConfig
from supernet import user_modules
from supernet.space import Space

EXAMPLE = "docs/examples/own_data.py"


def opened(config: DataConfig, *, size: int = 8, channels: int = 1, classes: int = 2) -> Splits:
    return open_images(config, input_size=size, channels=channels, classes=classes, call=user_modules.call)


def all_images(images) -> torch.Tensor:
    return torch.cat([batch.images for batch in evaluation_batches(images, 500, 0)])


def test_the_example_of_arrays_is_split_normalised_and_labelled_by_parity():
    """Every pixel of scikit-learn's digits is there, normalised by the training part, with its label."""
    splits = opened(DataConfig(module=EXAMPLE, name="even_or_odd"))
    digits = load_digits()
    tests = np.arange(1797) % 5 == 0
    assert (len(splits.train), len(splits.test), splits.class_names) == (1437, 360, ("even", "odd"))
    assert splits.train.labels.tolist() == (digits.target[~tests] % 2).tolist()
    pixels = np.rint(digits.images * (255 / 16)) / 255
    mean, std = pixels[~tests].mean(), pixels[~tests].std()
    for part, rows in ((splits.train, ~tests), (splits.test, tests)):
        expected = torch.tensor((pixels[rows] - mean) / std).float().unsqueeze(1)
        torch.testing.assert_close(all_images(part), expected)


def test_augmentation_of_a_set_that_may_not_be_mirrored_is_a_shift():
    """The augmentation is a function of the item, as in built-in sets: here one of the nine places of a crop."""
    train = opened(DataConfig(module=EXAMPLE, name="even_or_odd")).train
    image = train.load([Item(0, 0, 5)], augment=False).images[0]
    padded = torch.nn.functional.pad(image, [1] * 4, value=float(image.min()))
    shifts = [padded[:, top : top + 8, left : left + 8] for top in range(3) for left in range(3)]
    seen = train.load([Item(0, epoch, 5) for epoch in range(40)], augment=True).images
    assert all(any(view.equal(shift) for shift in shifts) for view in seen)
    assert seen.equal(train.load([Item(0, epoch, 5) for epoch in range(40)], augment=True).images)


def test_files_of_a_list_are_read_as_those_of_folders_are(own, tmp_path):
    """16 bits become their high byte, the picture is turned by its orientation tag, and transparency is composed on
    white."""
    exif = Image.Exif()
    exif[0x0112] = 6
    half = np.zeros((8, 8), np.uint8)
    half[:, :4] = 255  # white at the left: stored by a camera that was turned, seen at the top
    Image.fromarray(half).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(half.T.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.merge("LA", (Image.new("L", (8, 8)), Image.fromarray(255 - half.T))).save(tmp_path / "cut.png")
    files = "Files(['turned.png', 'deep.png', 'cut.png'], [0, 1, 1])"
    config = own(f"f = {files}; return OwnSet(f, f, AB, True, [0.0], [1.0])")
    train = opened(config.model_copy(update={"root": tmp_path})).train
    seen = train.load([Item(0, 0, i) for i in range(3)], augment=False).images
    assert seen[0].equal(seen[1])
    assert seen[1].equal(seen[2])
    assert seen[0, 0, 0].min() > 0.99 > 0.01 > seen[0, 0, -1].max()


@pytest.fixture
def pngs(tmp_path) -> Path:
    """400 digits as PNG files in one folder, and labels.csv in a shuffled order."""
    digits = load_digits()
    rows = []
    for i in range(400):
        Image.fromarray(np.rint(digits.images[i] * (255 / 16)).astype(np.uint8)).resize((16, 16)).save(
            tmp_path / f"{i:03d}.png"
        )
        kind = "odd" if digits.target[i] % 2 else "even"
        rows.append({"file": f"{i:03d}.png", "class": kind, "part": "test" if i % 5 == 0 else "train"})
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "class", "part"])
        writer.writeheader()
        writer.writerows(np.random.default_rng(0).permutation(rows))
    return tmp_path


def test_the_example_of_files_gives_each_file_the_label_of_its_row(pngs):
    """Each file has the label of its row, whatever the order of the rows; images are those of the files."""
    splits = opened(DataConfig(module=EXAMPLE, name="labelled_files", root=pngs), size=14, channels=3)
    digits = load_digits()
    assert (len(splits.train), len(splits.test), splits.class_names) == (320, 80, ("even", "odd"))
    for part in (splits.train, splits.test):
        numbers = [int(Path(part.path(i)).stem) for i in range(len(part))]
        assert part.labels.tolist() == [int(digits.target[n] % 2) for n in numbers]
        assert numbers == sorted(numbers, key=lambda n: (digits.target[n] % 2, n))
    middle = np.array(Image.open(splits.train.path(7)))[1:15, 1:15]  # 16 px, of which the central 14
    shown = splits.train.load([Item(0, 0, 7)], augment=False).images[0]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(shown, (torch.tensor(middle / 255).float().expand(3, -1, -1) - mean) / std)


def test_a_damaged_file_of_a_list_is_named_once_and_replaced(pngs, caplog):
    config = DataConfig(module=EXAMPLE, name="labelled_files", root=pngs)
    train = opened(config, size=16).train
    bad = Path(train.path(3))
    bad.write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        stream = BatchStream(subset(train, np.arange(320)), batch_size=32, seed=0, workers=2)
        batches = [next(stream) for _ in range(2 * stream.batches_per_epoch)]
        stream.close()
    assert sum(3 in batch.corrupt for batch in batches) == 2
    assert [r.getMessage() for r in caplog.records if "unreadable" in r.getMessage()] == [
        f"{bad}: unreadable image (is no image, or of a format that is not read), replaced by the next one of its class"
    ]


def test_files_are_mirrored_only_if_their_set_allows_it(own, tmp_path):
    """A picture whose left and right half differ by far keeps its dark side where it is."""
    picture = np.zeros((16, 16), np.uint8)
    picture[:, 8:] = 255
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(tmp_path / name)
    for flip, sides in ((False, {True}), (True, {False, True})):
        config = own(f"return OwnSet(Files(['a.png', 'b.png'], [0, 1]), Files(['a.png'], [0]), ['a', 'b'], {flip})")
        train = opened(config.model_copy(update={"root": tmp_path}), size=16).train
        views = train.load([Item(0, epoch, 0) for epoch in range(60)], augment=True).images
        uneven = [view for view in views if view[..., 0].mean() != view[..., -1].mean()]
        assert len(uneven) > 20
        assert {bool(view[..., 0].mean() < view[..., -1].mean()) for view in uneven} == sides


def test_stated_mean_and_std_are_used(own):
    config = own("return OwnSet(Arrays(ones(4), [0, 1, 0, 1]), Arrays(ones(1), [0]), ['a', 'b'], False, [0.5], [0.25])")
    expected = torch.full((4, 1, 8, 8), (1 / 255 - 0.5) / 0.25)
    torch.testing.assert_close(all_images(opened(config).train), expected)


HEAD = """import numpy as np
from pathlib import Path
from engine.data import Arrays, Files, OwnSet

def ones(n, c=1):
    return np.ones((n, 8, 8, c), np.uint8)

GOOD = Arrays(ones(4), [0, 1, 0, 1])
AB = ['a', 'b']

"""


@pytest.fixture
def own(tmp_path):
    """own("return OwnSet(...)"): the config of a set whose function has this body."""
    written = []

    def write(body: str, name: str = "pairs") -> DataConfig:
        path = tmp_path / f"set{len(written)}.py"  # a module is imported once per process
        written.append(path)
        path.write_text(f"{HEAD}def pairs(root):\n    {body}\n")
        return DataConfig(module=str(path), name=name)

    return write


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return GOOD, GOOD, AB", "pairs(): returned a value of type tuple, expected an engine.data.OwnSet"),
        ("pass", "pairs(): returned a value of type NoneType"),
        ("return OwnSet(GOOD, (1, 2), AB, True)", "test: got a value of type tuple, expected Arrays or Files"),
        ("return OwnSet(GOOD, Files([], []), AB, True)", "train is a value of type Arrays, test is"),
        ("return OwnSet(GOOD, GOOD, 'ab', True)", "classes: got 'ab', expected a list of names"),
        ("return OwnSet(GOOD, GOOD, [0, 1], True)", "classes: got [0, 1], expected a list of names"),
        ("return OwnSet(GOOD, GOOD, ['a', 'a'], True)", "classes: got [a, a], expected at least two names"),
        ("return OwnSet(GOOD, GOOD, ['a'], True)", "classes: got [a], expected at least two names"),
        ("return OwnSet(GOOD, GOOD, AB, 1)", "flip: got 1, expected True or False"),
        (
            "return OwnSet(Arrays(ones(4) / 2, GOOD.labels), GOOD, AB, True)",
            "train.images: got float64 (4, 8, 8, 1), expected a numpy array (N, H, W, C) of uint8",
        ),
        ("return OwnSet(GOOD, Arrays(ones(4)[..., 0], GOOD.labels), AB, True)", "test.images: got uint8 (4, 8, 8),"),
        ("return OwnSet(GOOD, Arrays([1, 2], [0, 1]), AB, True)", "test.images: got a value of type list"),
        (
            "return OwnSet(Arrays(ones(4), [0, 1]), GOOD, AB, True)",
            "train.labels: got int64 (2,), expected integers of shape (4,)",
        ),
        ("return OwnSet(Arrays(ones(4), [0.0, 1, 0, 1]), GOOD, AB, True)", "train.labels: got float64 (4,)"),
        ("return OwnSet(Arrays(ones(4), ['a', 'b', 'a', 'b']), GOOD, AB, True)", "train.labels: got <U1 (4,)"),
        ("return OwnSet(Arrays(ones(4), [0, 1, 2, 1]), GOOD, AB, True)", "train.labels: image 2 has label 2, expected"),
        ("return OwnSet(GOOD, Arrays(ones(2), [0, -1]), AB, True)", "test.labels: image 1 has label -1, expected 0 to"),
        ("return OwnSet(Arrays(ones(2), [0, 0]), GOOD, AB, True)", "train.labels: class 1 ('b') has no image"),
        ("return OwnSet(GOOD, Arrays(ones(0), np.zeros(0, int)), AB, True)", "test: has no image"),
        ("return OwnSet(GOOD, Arrays(ones(4, 3), GOOD.labels), AB, True)", "test.images have 3 channels, train.images"),
        ("return OwnSet(GOOD, GOOD, AB, True)", "train.images: every pixel of channel 0 is 1"),
        ("return OwnSet(GOOD, GOOD, AB, True, [0.5])", "std: got None, expected 1 numbers"),
        ("return OwnSet(GOOD, GOOD, AB, True, [0.5, 1], [1])", "mean: got [0.5, 1], expected 1 numbers"),
        ("return OwnSet(GOOD, GOOD, AB, True, [0.5], [0])", "std: got (0,), expected numbers above 0"),
        (
            "f = Files(['a.png', 'b.png'], [0, 1]); return OwnSet(f, f, AB, True)",
            "train.paths: 2 of 2 are no files (first: 'a.png'), expected paths below data.root ('.')",
        ),
        (
            "f = Files(['a\\0.png', 'b.png'], [0, 1]); return OwnSet(f, f, AB, True)",
            "train.paths: 2 of 2 are no files (first: 'a\\x00.png'), expected paths below",
        ),
        (
            "f = Files(['/dev/zero', '/dev/tty'], [0, 1]); return OwnSet(f, f, AB, True)",
            "train.paths: 2 of 2 are no files (first: '/dev/zero'), expected paths below",
        ),
        (
            "f = Files(['\\ud800.png', 'b.png'], [0, 1]); return OwnSet(f, f, AB, True)",
            "train.paths: got '\\ud800.png', which is no file name",
        ),
        ("f = Files([1, 2], [0, 1]); return OwnSet(f, f, AB, True)", "train.paths: got 1, expected texts or paths"),
        (
            "raise ValueError('no labels.csv')",
            "pairs() failed: set0.py, line 12: ValueError: no labels.csv; correct it",
        ),
        ("return 1 / 0", "pairs() failed: set0.py, line 12: ZeroDivisionError: division by zero; correct it"),
        ("return np.load('absent.npy')", "pairs() failed: set0.py, line 12: FileNotFoundError: "),
    ],
)
def test_a_set_that_its_function_builds_wrongly_is_refused_in_one_line(own, body, words):
    with pytest.raises(ConfigError) as caught:
        opened(own(body))
    assert str(caught.value).startswith("data.module: '")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_set_with_other_classes_or_channels_than_the_space_is_refused(own):
    body = "return OwnSet(GOOD, GOOD, AB, True, [0.5], [1])"
    with pytest.raises(ConfigError, match=r"^space\.classes: got 3, but data\.name 'pairs' has 2 classes; set"):
        opened(own(body), classes=3)
    with pytest.raises(ConfigError, match=r"^space\.input_channels: got 2, but the images of data\.name 'pairs' have"):
        opened(own(body), channels=2)


def test_an_absent_function_or_module_is_refused_in_one_line(own):
    with pytest.raises(ConfigError, match=r"no function 'pears', expected ones or pairs\. Did you mean 'pairs'\?$"):
        opened(own("return 1", name="pears"))
    with pytest.raises(ConfigError, match=r"^data\.module: no such file 'none\.py', neither in the working folder nor"):
        opened(DataConfig(module="none.py", name="pairs"))
    with pytest.raises(ConfigError, match=r"^data\.module: cannot import 'no\.such': ModuleNotFoundError: .*; give a"):
        opened(DataConfig(module="no.such", name="pairs"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "even_or_odd"}, "data.name: got 'even_or_odd', expected 'digits', "),
        ({"name": "even_or_odd"}, "; for a set of your own add data.module"),
        ({"name": "pairs", "module": "x.py", "download": True}, "data.download: got true, expected false for 'pairs'"),
        ({"name": "cifar10", "module": "x.py", "download": True}, "data.download: got true"),
        ({"name": "fake", "module": "x.py", "fake_images": 7}, "data.fake_images: got 7, but data.name is 'fake'"),
        ({"name": "pairs", "module": 3}, "data.module: got 3, expected text"),
        ({"name": "pairs", "module": ""}, "data.module: "),
    ],
)
def test_settings_that_a_set_of_a_module_cannot_have_are_refused(tiny_search, settings, message):
    with pytest.raises(ConfigError) as caught:
        validate(SearchConfig, tiny_search | {"data": settings}, "search.yaml")
    assert message in str(caught.value)
    assert "more)" not in str(caught.value)


def test_a_function_of_a_module_may_have_the_name_of_a_built_in_set():
    assert DataConfig(module="x.py", name="cifar10").root is None


def test_the_example_is_searched_retrained_and_evaluated_from_another_folder(
    checkout, door, tmp_path, monkeypatch, formula_table
):
    """The page's commands, on few steps, from another folder than the repository."""
    monkeypatch.chdir(tmp_path)
    path = checkout / "docs" / "examples" / "own_data_cpu.yaml"
    few = ["search.batch_size=256", "search.warmup_epochs=0", "search.epochs=1", "search.bn_batches=1"]
    few += ["search.regression.final_steps=2"]
    config = SearchConfig.read(path, few)
    formula_table(Space(config.space), config.measure).save(tmp_path / "tables" / "own_data_cpu.yaml")
    ended = door("check_search", path, *few)
    assert ended.status == 0, ended.out
    assert "data: 862 training and 575 validation images" in ended.out
    ended = door("run_search", path, "--out", "run", *few)
    assert ended.status == 0, ended.err

    retrain = checkout / "configs" / "retrain" / "quickstart.yaml"
    found = ["--architecture", "run/architecture.json"]
    data = [f"data.module={EXAMPLE}", "data.name=even_or_odd", "retrain.epochs=1", "retrain.warmup_epochs=0"]
    ended = door("run_retrain", retrain, *found, "--out", "retrained", *data)
    assert ended.status == 0, ended.err
    result = json.loads((tmp_path / "retrained" / "result.json").read_text())
    assert result["test"]["images"] == 360
    ended = door("run_retrain", retrain, *found, "--out", "retrained", "--resume", *data)
    assert ended.status == 0, ended.err
    checkpoint = max((tmp_path / "retrained" / "checkpoints").glob("step-*.pt"))
    ended = door("evaluate", retrain, *found, "--checkpoint", checkpoint, *data)
    assert ended.status == 0, ended.err
    assert f"360 images: top-1 {result['test']['top1']:.2f} %" in ended.out
