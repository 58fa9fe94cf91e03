"""A part of a picture is what the whole picture shows there, decoded at the smallest size that keeps its pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from engine.data import pictures
from engine.data.images import RawBatch
from engine.data.pictures import Box, UnreadableError, part_of_picture, whole_picture
from engine.data.preprocessing import Preprocessing

ENDLESS = 10**6  # more pixels than a part has: it is decoded at its full size


def smooth(height: int, width: int) -> Image.Image:
    """Colours that change slowly, so that JPEG keeps them."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([x * 255 / width, y * 255 / height, 128 + 60 * np.sin(x / 31)], axis=-1).astype(np.uint8)
    )


def stored(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def slice_of(picture: Image.Image, box: Box) -> np.ndarray:
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1)
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]


@pytest.fixture(params=["Pillow", "simplejpeg"])
def decoder(request, monkeypatch):
    """Each of the two decoders."""
    if request.param == "Pillow":
        monkeypatch.setattr(pictures, "_fast_decoder", lambda: None)
    else:
        pytest.importorskip("simplejpeg", reason="needs the extra [jpeg]")


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_part_is_a_slice_of_the_upright_picture(orientation):
    content = stored(smooth(75, 101), exif=turned(orientation))
    asked = []

    def choose(height, width):
        asked.append((height, width))
        return Box(3, 20, 50, 41)

    part = part_of_picture(content, 3, choose, ENDLESS)
    whole = whole_picture(content, 3)
    assert asked == [(whole.height, whole.width)]
    np.testing.assert_array_equal(part, slice_of(whole, Box(3, 20, 50, 41)))


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA")])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_files_give_slices_of_what_they_always_gave(kind, mode, channels):
    content, box = stored(smooth(40, 30).convert(mode), kind), Box(8, 0, 20, 30)
    part = part_of_picture(content, channels, lambda height, width: box, 10)
    np.testing.assert_array_equal(part, slice_of(whole_picture(content, channels), box))


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_part_never_has_fewer_pixels_than_are_needed(orientation):
    """For boxes of all kinds, the picture decoded at 1/n covers the box, and n is as large as the needed pixels
    allow."""
    random = np.random.default_rng(0)
    content = stored(smooth(203, 307), exif=turned(orientation))
    whole = whole_picture(content, 3)
    fractions = set()
    for _ in range(60):
        least = int(random.integers(8, 60))
        height, width = (int(random.integers(1, side + 1)) for side in whole.size[::-1])
        top, left = int(random.integers(whole.height - height + 1)), int(random.integers(whole.width - width + 1))
        box = Box(top, left, height, width)
        part = part_of_picture(content, 3, lambda h, w, box=box: box, least)
        n = max(n for n in (1, 2, 4, 8) if n == 1 or min(height, width) / n >= least)
        fractions.add(n)
        for size, got in zip((height, width), part.shape[:2], strict=True):
            assert size / n <= got < size / n + 2
            assert n == 1 or got >= least
        centre = slice_of(whole, box).mean((0, 1))
        if n > 1:  # the same part of the same picture
            assert np.abs(part.mean((0, 1)) - centre).max() < 6
    assert fractions == {1, 2, 4, 8}


@pytest.mark.parametrize("least", [ENDLESS, 100, 50, 25])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_both_decoders_give_the_same_pixels(least, subsampling, progressive, monkeypatch):
    pytest.importorskip("simplejpeg", reason="needs the extra [jpeg]")
    noise = np.random.default_rng(0).integers(0, 256, (203, 307, 3), dtype=np.uint8)
    content = stored(Image.fromarray(noise), quality=40, subsampling=subsampling, progressive=progressive)
    decode = pictures._fast_decoder()
    used = []
    monkeypatch.setattr(pictures, "_fast_decoder", lambda: lambda *a, **b: used.append(1) or decode(*a, **b))
    box = Box(1, 3, 200, 301)
    fast = part_of_picture(content, 3, lambda height, width: box, least)
    assert used
    monkeypatch.setattr(pictures, "_fast_decoder", lambda: None)
    np.testing.assert_array_equal(fast, part_of_picture(content, 3, lambda height, width: box, least))


@pytest.mark.usefixtures("decoder")
def test_a_damaged_file_has_the_same_verdict_in_training_and_evaluation():
    content = stored(smooth(75, 101))
    for damaged in (content[: len(content) // 2], content[:200], b"", content[:-2], content[:-2] + b"\0" * 30):
        verdicts = []
        for read in (lambda c: part_of_picture(c, 3, lambda h, w: Box(0, 0, h, w), 8), lambda c: whole_picture(c, 3)):
            try:
                read(damaged)
                verdicts.append("whole")
            except UnreadableError as error:
                verdicts.append(str(error))
        assert verdicts[0] == verdicts[1]


PREPROCESSING = {3: Preprocessing.of_files(7, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
                 1: Preprocessing.of_files(7, (0.449,), (0.226,))}  # fmt: skip


def raw_batch(channels: int, amount: int, size: int = 7) -> RawBatch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (amount, channels, size, size), dtype=torch.uint8, generator=generator)
    factors = torch.rand((amount, 2), generator=generator) + 0.5
    return RawBatch(pixels, torch.arange(amount), {}, factors)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_follow_their_formula(channels):
    """clip(b (s x + (1 - s) grey)), normalised, in float64; where nothing is clipped, as torchvision has it."""
    batch, way = raw_batch(channels, 50), PREPROCESSING[channels]
    found = way.finished(batch).images.double()
    x = batch.pixels.double()
    b, s = batch.factors.double().view(-1, 2, 1, 1, 1).unbind(1)
    grey = (x * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)).sum(1, keepdim=True)
    linear = b * (s * x + (1 - s) * grey) if channels == 3 else b * x
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (way.mean, way.std))
    torch.testing.assert_close(found, (linear.clamp(0, 255) / 255 - mean) / std, rtol=0, atol=1e-5)
    if channels == 3:
        mild = batch._replace(factors=torch.tensor([[0.97, 0.8]]).expand(50, 2), pixels=batch.pixels // 2 + 20)
        theirs = functional.adjust_saturation(functional.adjust_brightness(mild.pixels.double() / 255, 0.97), 0.8)
        found = way.finished(mild).images.double() * std + mean
        torch.testing.assert_close(found, theirs, rtol=0, atol=1e-4)  # its grey has weights of four digits


@pytest.mark.parametrize(("channels", "size"), [(1, 7), (3, 7), (3, 33), (3, 400)])
def test_a_finished_image_does_not_depend_on_its_batch(channels, size):
    """Images of 400 pixels are finished one at a time; those of 7 pixels have lengths that are no multiples of a vector
    register's."""
    batch = raw_batch(channels, 5 if size == 400 else 70, size)
    together = PREPROCESSING[channels].finished(batch).images
    for i in (0, 1, 4):
        alone = RawBatch(batch.pixels[i : i + 1], batch.labels[:1], {}, batch.factors[i : i + 1])
        assert PREPROCESSING[channels].finished(alone).images[0].equal(together[i])


def test_an_evaluation_sees_exactly_what_it_always_saw():
    """(x - 255 mean) / (255 std) in float32, each operation rounded."""
    batch = raw_batch(3, 70)._replace(factors=None)
    mean, std = (255 * torch.tensor(v).view(1, -1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert PREPROCESSING[3].finished(batch).images.equal((batch.pixels.float() - mean) / std)
