"""Training batches whose JPEG files a GPU decodes: the same parts of the same pictures, whatever the files are.

The decoder stands in for the GPU's: Pillow's, and TorchCodec's on the CPU where it is installed.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.data import Batch, BatchStream, DataConfig, Item, Splits, evaluation_batches, open_images
from engine.data import on_gpu as module
from engine.data import stream as streams
from engine.data.augmentation import Augmentation, augmented
from engine.data.on_gpu import check_decoder, decoded
from engine.errors import ConfigError, InvalidError

SIZE = 24
needs_torchcodec = pytest.mark.skipif(importlib.util.find_spec("torchcodec") is None, reason="needs torchcodec")


def photograph(draws: np.random.Generator, height: int, width: int) -> Image.Image:
    """A smooth picture: noise would differ between two decoders by its own size."""
    small = draws.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two classes of JPEG files; in the first also a PNG, a grey one, one turned by its EXIF tag, and one cut off."""
    root, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part in ("train", "test"):
        for label in range(2):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(104):
                photograph(draws, 40 + i % 7, 50 - i % 5).save(folder / f"{i:03d}.jpg", quality=95)
    odd = root / "train" / "class0"
    photograph(draws, 30, 44).save(odd / "000.jpg", format="PNG")
    photograph(draws, 30, 44).convert("L").save(odd / "001.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(draws, 30, 44).save(odd / "002.jpg", exif=exif)
    content = (odd / "003.jpg").read_bytes()
    (odd / "003.jpg").write_bytes(content[: len(content) // 2])
    return root


def opened(root: Path, **data: Any) -> Splits:
    config = DataConfig.model_validate({"name": "folder", "root": root} | data)
    return open_images(config, input_size=SIZE, channels=3, classes=2)


def by_pillow(files: list[Tensor]) -> list[Tensor]:
    pictures = []
    for file in files:
        picture = Image.open(io.BytesIO(file.numpy().tobytes()))
        assert picture.format == "JPEG"
        assert picture.mode == "RGB"
        try:
            pictures.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
        except OSError as error:  # as TorchCodec does
            raise RuntimeError("cannot decode") from error
    return pictures


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    """Lets the CPU stand in for the GPU."""
    monkeypatch.setattr(streams, "check_decoder", lambda _: None)
    monkeypatch.setattr(streams, "decoded", partial(decoded, decode=by_pillow))


def first(root: Path, count: int = 13, **settings: Any) -> list[Batch]:
    images = opened(root, **({"decode": "cuda"} if settings.pop("on_gpu", True) else {})).train
    stream = BatchStream(images, batch_size=16, seed=3, workers=settings.pop("workers", 0), **settings)
    found = list(islice(stream, count))
    stream.close()
    return found


def test_the_batches_are_those_that_a_cpu_decodes_up_to_rounding(root, no_gpu):
    """All pictures are decoded whole, since none has twice the pixels that are needed. A file that is no plain JPEG is
    decoded on the CPU alone, and an unreadable file is replaced as on a CPU."""
    mine, theirs = first(root), first(root, on_gpu=False)
    assert [sorted(batch.corrupt) for batch in mine] == [sorted(batch.corrupt) for batch in theirs]
    assert 3 in {index for batch in mine for index in batch.corrupt}
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert (one.images - other.images).abs().max() < 2.5 / 255 / 0.224


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_a_function_of_its_items(root, no_gpu, workers):
    whole, later = first(root, workers=workers), first(root, count=4, start=9)
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[9:], later, strict=True))


def test_only_plain_jpeg_files_go_to_the_gpu(root):
    images = opened(root, decode="cuda").train
    raw = images.read([Item(0, 0, i) for i in range(8)], augment=True)
    assert raw.encoded_at.tolist() == [4, 5, 6, 7]
    assert raw.pixels.shape == (4, 3, SIZE, SIZE)
    assert images.read([Item(0, 0, 5)], augment=False).encoded is None
    part = next(iter(evaluation_batches(images, 4, 0)))
    assert part.images.shape == (4, 3, SIZE, SIZE)


def test_a_file_that_the_gpu_refuses_is_decoded_on_the_cpu_and_the_others_are_not(root):
    images = opened(root, decode="cuda").train
    items = [Item(0, 0, i) for i in (10, 11, 12)]
    raw = images.read(items, augment=True)
    refused = raw.encoded.content[: int(raw.encoded.ends[0])]

    def choosy(files: list[Tensor]) -> list[Tensor]:
        if any(torch.equal(file, refused) for file in files):
            raise RuntimeError("nvJPEG cannot")
        return [torch.full_like(picture, 7) for picture in by_pillow(files)]

    pixels = decoded(raw, SIZE, torch.device("cpu"), images.read_here, choosy).pixels
    assert torch.equal(pixels[:1], images.read_here(items[:1]).pixels)
    assert (pixels[1:] == 7).all()


def test_what_cannot_be_decoded_on_a_gpu_is_refused(root, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"data\.decode: got 'cuda', but the training is on device 'cpu'.*run\.device"
    ):
        BatchStream(opened(root, decode="cuda").train, batch_size=8, seed=0, workers=0)
    with pytest.raises(ConfigError, match=r"data\.decode: got 'cuda', but the set is in memory"):
        open_images(DataConfig(name="fake", decode="cuda"), input_size=8, channels=3, classes=10)
    with pytest.raises(ConfigError, match=r"data\.decode: got 'cuda' for grey images"):
        open_images(DataConfig(name="folder", root=root, decode="cuda"), input_size=8, channels=1, classes=2)
    with pytest.raises(ValueError, match=r"beside data\.cache"):
        opened(root, decode="cuda", cache="ram")
    with pytest.raises(InvalidError, match=r"randaugment beside data\.decode"):
        augmented(opened(root, decode="cuda").train, Augmentation("randaugment"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    module.decoder.cache_clear()
    with pytest.raises(ConfigError, match=r"data\.decode: TorchCodec .*proxylessnas\[torchcodec\]"):
        check_decoder(torch.device("cuda"))
    module.decoder.cache_clear()


@needs_torchcodec
def test_torchcodec_decodes_what_pillow_decodes(root, monkeypatch):
    """Both use libjpeg-turbo on the CPU."""
    images = opened(root, decode="cuda").train
    raw = images.read([Item(0, 0, i) for i in range(10, 20)], augment=True)
    found = [decoded(raw, SIZE, torch.device("cpu"), images.read_here, decode).pixels for decode in (None, by_pillow)]
    assert torch.equal(*found)


@needs_torchcodec
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_decodes_the_batches_of_a_cpu_up_to_a_few_levels(root, workers):
    """A GPU repeats the colour samples that libjpeg interpolates. These small, steeply coloured pictures differ by 1.6
    levels of 255 on average on an H100; by 2.1, at most 28, if libjpeg repeats them too."""
    mine = first(root, workers=workers, device=torch.device("cuda"))
    for one, other in zip(mine, first(root, on_gpu=False), strict=True):
        difference = (one.images.cpu() - other.images).abs() * 255 * 0.224
        assert difference.mean() < 2.5
        assert difference.max() < 40
