"""Every kind of image file becomes the right 8-bit pixels, or is refused with a reason."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, PngImagePlugin

from engine.data import DataConfig, Item, open_images
from engine.data.folder import FolderImages
from engine.data.pictures import Box, UnreadableError, extensions, for_a_gpu, read_picture
from engine.data.preprocessing import Preprocessing
from engine.data.survey import facts_of
from engine.errors import UserError

RAMP = np.arange(256, dtype=np.uint8).reshape(8, 32)
SIXTEEN = RAMP.astype(np.uint16) * 257  # 0 to 65535, whose high bytes are the ramp


def read(path, channels=1):
    return np.array(read_picture(str(path), channels))


def saved(path, image, **options):
    image.save(path, **options)
    return path


def pgm(path, values, most):
    path.write_bytes(b"P5 32 8 %d\n" % most + values.astype(">u2").tobytes())
    return path


def test_sixteen_bits_become_eight_by_their_high_byte(tmp_path):
    files = [
        saved(tmp_path / "a.png", Image.fromarray(SIXTEEN)),
        saved(tmp_path / "a.tif", Image.fromarray(SIXTEEN)),
        saved(tmp_path / "b.tif", Image.fromarray(SIXTEEN.astype(">u2"))),
        saved(tmp_path / "a.jp2", Image.fromarray(SIXTEEN), irreversible=False),
        pgm(tmp_path / "a.pgm", SIXTEEN, 65535),
    ]
    for path in files:
        np.testing.assert_array_equal(read(path), RAMP, err_msg=path.name)
        np.testing.assert_array_equal(read(path, 3), np.stack([RAMP] * 3, axis=-1), err_msg=path.name)


def test_fewer_than_sixteen_bits_are_spread_over_the_whole_range(tmp_path):
    assert read(pgm(tmp_path / "a.pgm", RAMP.astype(np.uint16) * 4 + 3, 1023)).max() == 255


def test_a_sixteen_bit_tiff_whose_zero_is_white_is_inverted(tmp_path):
    path = saved(tmp_path / "a.tif", Image.fromarray(SIXTEEN))
    content = path.read_bytes()
    black_is_zero, white_is_zero = (struct.pack("<HHII", 262, 3, 1, photometric) for photometric in (1, 0))
    assert content.count(black_is_zero) == 1
    path.write_bytes(content.replace(black_is_zero, white_is_zero))
    np.testing.assert_array_equal(read(path), 255 - RAMP)


def test_floats_from_0_to_1_are_spread_and_others_refused(tmp_path):
    np.testing.assert_array_equal(
        read(saved(tmp_path / "a.tif", Image.fromarray((RAMP / 255).astype(np.float32)))), RAMP
    )
    for values, words in ((RAMP * 1.0, "floats from 0 to 255, expected 0"), (RAMP / 255 - 0.5, "from -0.5 to 0.5")):
        path = saved(tmp_path / "b.tif", Image.fromarray(values.astype(np.float32)))
        with pytest.raises(UnreadableError, match=words):
            read(path)
    broken = (RAMP / 255).astype(np.float32)
    broken[0, 0] = np.nan
    with pytest.raises(UnreadableError, match="floats"):
        read(saved(tmp_path / "c.tif", Image.fromarray(broken)))


def test_whole_numbers_of_32_bits_or_with_a_sign_are_refused(tmp_path):
    with pytest.raises(UnreadableError, match="32-bit whole numbers, expected 8 or 16 bits"):
        read(saved(tmp_path / "a.tif", Image.fromarray(RAMP.astype(np.int32))))
    signed = saved(tmp_path / "b.tif", Image.fromarray(RAMP), tiffinfo={339: 2})  # -128 to 127
    with pytest.raises(UnreadableError, match="signed whole numbers, expected 8 or 16 bits"):
        read(signed)


COLOURS = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_may_lie_plane_after_plane_in_a_tiff(bits, order, tmp_path):
    kind = np.dtype(f"{order}u{bits // 8}")
    planes = [(COLOURS[..., i].astype(np.uint16) * (257 if bits == 16 else 1)).astype(kind).tobytes() for i in range(3)]
    begin, size = 8 + 2 + 10 * 12 + 4, len(planes[0])  # of the lists behind the tags, and of a plane
    lists = struct.pack(f"{order}3H6I", *[bits] * 3, *(begin + 30 + i * size for i in range(3)), *[size] * 3)
    tags = [(256, 4, 1, 32), (257, 4, 1, 8), (258, 3, 3, begin), (262, 3, 1, 2), (273, 4, 3, begin + 6)]
    tags += [(277, 3, 1, 3), (278, 4, 1, 8), (279, 4, 3, begin + 18), (284, 3, 1, 2), (259, 3, 1, 1)]
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + struct.pack(f"{order}H2x" if kind == 3 and count == 1 else f"{order}I", value)
        for tag, kind, count, value in sorted(tags)
    )
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags))
    (tmp_path / "a.tif").write_bytes(head + entries + bytes(4) + lists + b"".join(planes))
    np.testing.assert_array_equal(read(tmp_path / "a.tif", 3), COLOURS)


def test_colours_of_more_than_8_bits_in_jpeg_2000_are_refused(tmp_path):
    """Pillow decodes their white to black."""
    content = saved(tmp_path / "a.jp2", Image.fromarray(COLOURS), irreversible=False).read_bytes()
    np.testing.assert_array_equal(read(tmp_path / "a.jp2", 3), COLOURS)
    three = bytes([7, 1, 1] * 3)  # 8 bits, no subsampling, for each component
    assert content.count(three) == 1
    (tmp_path / "b.jp2").write_bytes(content.replace(three, bytes([15, 1, 1] * 3)))
    with pytest.raises(UnreadableError, match="has colours of 16 bits in JPEG 2000"):
        read(tmp_path / "b.jp2", 3)


DISC = (np.hypot(*np.mgrid[-4:4, -4:4] + 0.5) < 3).astype(np.uint8) * 255  # (8, 8), opaque inside


def palette_with_transparency(path, **options):
    image = Image.fromarray((DISC == 0).astype(np.uint8) * 3)
    image.putpalette([0, 0, 0] * 4)
    return saved(path, image.convert("P") if image.mode != "P" else image, **options)


@pytest.mark.parametrize(
    "kind", ["RGBA", "LA", "palette", "palette bytes", "grey key", "colour key", "16-bit key", "1"]
)
def test_transparent_pixels_become_white(kind, tmp_path):
    """A picture that is black everywhere and transparent outside a disc becomes a black disc on white."""
    path = tmp_path / "a.png"
    black = Image.new("RGB", (8, 8))
    key = np.where(DISC == 0, 200, 0).astype(np.uint8)  # outside: a value that the file declares transparent
    if kind == "RGBA":
        black.putalpha(Image.fromarray(DISC))
        black.save(path)
    elif kind == "LA":
        Image.merge("LA", (black.convert("L"), Image.fromarray(DISC))).save(path)
    elif kind == "palette":
        palette_with_transparency(path, transparency=3)
    elif kind == "palette bytes":
        palette_with_transparency(path, transparency=bytes([255, 255, 255, 0]))
    elif kind == "grey key":
        Image.fromarray(key).save(path, transparency=200)
    elif kind == "colour key":
        Image.fromarray(np.stack([key] * 3, axis=-1)).save(path, transparency=(200, 200, 200))
    elif kind == "16-bit key":
        Image.fromarray(key.astype(np.uint16) * 100).save(path, transparency=20000)
    else:
        Image.fromarray(DISC == 0).save(path, transparency=1)
    for channels in (1, 3):
        expected = 255 - DISC
        np.testing.assert_array_equal(read(path, channels), expected if channels == 1 else np.stack([expected] * 3, -1))


def test_half_transparent_colours_are_mixed_with_white(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGBA", (2, 2), (255, 0, 100, 51)))  # a fifth
    np.testing.assert_allclose(read(path, 3)[0, 0], [255, 204, 224], atol=1)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path, bits, colour, rows, key):
    """A PNG of one row byte string per row, with the transparent value `key`."""
    height, width = len(rows), len(rows[0]) * 8 // bits // {0: 1, 2: 3}[colour]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"tRNS", key)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )
    return path


def test_the_transparent_value_of_a_png_with_2_4_or_16_bits_becomes_white(tmp_path):
    grey = png(tmp_path / "2.png", 2, 0, [bytes([0b00011011])], struct.pack(">H", 1))  # 0 1 2 3, of which 1 is clear
    np.testing.assert_array_equal(read(grey), [[0, 255, 170, 255]])
    grey = png(tmp_path / "4.png", 4, 0, [bytes([0x0F, 0x5A])], struct.pack(">H", 5))
    np.testing.assert_array_equal(read(grey), [[0, 255, 255, 170]])
    pixels = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x1034, 0x2078, 0x30BC)
    colour = png(tmp_path / "16.png", 16, 2, [pixels], struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    np.testing.assert_array_equal(read(colour, 3), [[[255, 255, 255], [0x10, 0x20, 0x30]]])


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_is_followed(orientation, ending, tmp_path):
    """A picture that a turned camera has stored is shown as it was seen: its white corner is at the top left."""
    seen = Image.fromarray(np.zeros((8, 16), np.uint8))
    seen.paste(255, (0, 0, 8, 4))
    stored = {
        1: seen, 2: seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 3: seen.rotate(180),
        4: seen.transpose(Image.Transpose.FLIP_TOP_BOTTOM), 5: seen.transpose(Image.Transpose.TRANSPOSE),
        6: seen.rotate(90, expand=True), 7: seen.transpose(Image.Transpose.TRANSVERSE),
        8: seen.rotate(-90, expand=True),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{ending}", stored.convert("RGB"), exif=exif)
    shown = read(path).astype(int)
    assert shown.shape == (8, 16)
    assert np.abs(shown - np.array(seen)).mean() < 12  # JPEG and WebP lose a little at the edge


def test_damaged_metadata_of_a_whole_picture_is_no_reason_to_refuse_it(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.fromarray(RAMP), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff damaged")
    np.testing.assert_array_equal(read(path), RAMP)

    def broken(self):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "getexif", broken)  # as some damage makes it do
    np.testing.assert_array_equal(read(path), RAMP)


def test_other_colours_become_rgb(tmp_path):
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    for name, image, options in (
        ("cmyk.jpg", red.convert("CMYK"), {"quality": 100}),
        ("cmyk.tif", red.convert("CMYK"), {}),
        ("ycbcr.tif", red.convert("YCbCr"), {}),
        ("palette.gif", red.convert("P"), {}),
    ):
        np.testing.assert_allclose(
            read(saved(tmp_path / name, image, **options), 3)[0, 0], [255, 0, 0], atol=3, err_msg=name
        )
    planes = [Image.new("L", (4, 4), value) for value in (138, 81 + 128, 70 + 128)]  # L* 54, a* 81, b* 70 (D50) is red
    path = saved(tmp_path / "lab.tif", Image.merge("LAB", planes))
    np.testing.assert_allclose(read(path, 3)[0, 0], [255, 0, 0], atol=8)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (6, 6), (n, n, n)) for n in (40, 90, 200)]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        lossless = {"lossless": True} if name.endswith("webp") else {}
        path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **lossless)
        assert (read(path) == 40).all(), name


def test_the_first_image_of_an_animated_png_is_read_even_if_it_is_no_frame(tmp_path):
    """Browsers do not show it; a program that knows no animations, as on the device, sees it alone."""
    frames = [Image.new("RGB", (6, 6), (n, n, n)) for n in (40, 90, 200)]
    path = saved(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:], default_image=True)
    content = path.read_bytes()
    assert content.index(b"IDAT") < content.index(b"fcTL")
    assert (read(path) == 40).all()


def test_the_largest_of_several_sizes_is_read(tmp_path):
    images = [Image.new("RGB", (size, size), (size, 0, 0)) for size in (16, 48)]
    path = saved(tmp_path / "a.ico", images[1], sizes=[(16, 16), (48, 48)], append_images=images[:1])
    assert read(path, 3).shape == (48, 48, 3)
    assert (read(path, 3)[..., 0] == 48).all()


@pytest.mark.parametrize("options", [{}, {"transparency": 0}])
def test_what_the_first_frame_of_a_gif_leaves_uncovered_is_white(tmp_path, options):
    content = bytearray(saved(tmp_path / "a.gif", Image.new("RGB", (4, 4), (255, 0, 0)), **options).read_bytes())
    content[6:10] = struct.pack("<HH", 8, 6)  # the canvas, whose corner the frame covers
    (tmp_path / "a.gif").write_bytes(content)
    colour = read(tmp_path / "a.gif", 3)
    assert colour.shape == (6, 8, 3)
    assert (colour[4:] == 255).all()
    assert (colour[:, 4:] == 255).all()
    assert (colour[:4, :4] == ([255, 255, 255] if options else [255, 0, 0])).all()
    assert (read(tmp_path / "a.gif")[4:] == 255).all()


def animated_webp(frame, *, alpha, at=(0, 0), canvas=(8, 6)):
    """The bytes of an animation of one frame, whose file says in its header whether it has transparency."""

    def chunk(kind, data):
        return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    def three(*numbers):
        return b"".join(struct.pack("<I", number)[:3] for number in numbers)

    still = io.BytesIO()
    frame.save(still, "WEBP", lossless=True)
    place = three(at[0] // 2, at[1] // 2, frame.width - 1, frame.height - 1, 100) + b"\0"
    content = b"WEBP" + chunk(b"VP8X", bytes([2 | 16 * alpha, 0, 0, 0]) + three(canvas[0] - 1, canvas[1] - 1))
    content += chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", place + still.getvalue()[12:])
    return b"RIFF" + struct.pack("<I", len(content)) + content


@pytest.mark.parametrize("alpha", [False, True])
def test_what_the_first_frame_of_a_webp_leaves_uncovered_is_white(alpha, tmp_path):
    (tmp_path / "a.webp").write_bytes(animated_webp(Image.new("RGB", (4, 2), (255, 0, 0)), alpha=alpha, at=(2, 4)))
    expected = np.full((6, 8, 3), 255, np.uint8)
    expected[4:, 2:6] = (255, 0, 0)
    np.testing.assert_array_equal(read(tmp_path / "a.webp", 3), expected)
    whole = animated_webp(Image.fromarray(COLOURS), alpha=alpha, canvas=(32, 8))
    (tmp_path / "a.webp").write_bytes(whole)
    np.testing.assert_array_equal(read(tmp_path / "a.webp", 3), COLOURS)


def with_alpha(kind, path, colours, alpha):
    """A file of 32 bits a pixel; ICO: without a mask."""
    height, width = alpha.shape
    rows = np.dstack([colours[..., ::-1], alpha])[::-1].tobytes()  # blue first, the lowest row first
    if kind == "tga":
        path.write_bytes(struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, width, height, 32, 0) + rows)
        return path
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    if kind == "ico":
        header = struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0)
        content = header + rows + bytes(height * -(-width // 32) * 4)
        path.write_bytes(struct.pack("<HHHBBBBHHII", 0, 1, 1, width, height, 0, 0, 1, 32, len(content), 22) + content)
        return path
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + bytes(52)
    path.write_bytes(b"BM" + struct.pack("<III", 14 + len(header) + len(rows), 0, 14 + len(header)) + header + rows)
    return path


@pytest.mark.parametrize("kind", ["bmp", "tga", "ico"])
def test_a_file_whose_pixels_are_all_transparent_shows_their_colours(kind, tmp_path):
    """Its fourth byte is not used; one opaque pixel says that it is."""
    alpha = np.zeros((8, 32), np.uint8)
    np.testing.assert_array_equal(read(with_alpha(kind, tmp_path / f"a.{kind}", COLOURS, alpha), 3), COLOURS)
    alpha[2, 3] = 255
    shown = np.full_like(COLOURS, 255)
    shown[2, 3] = COLOURS[2, 3]
    np.testing.assert_array_equal(read(with_alpha(kind, tmp_path / f"b.{kind}", COLOURS, alpha), 3), shown)


def test_a_png_whose_pixels_are_all_transparent_is_white(tmp_path):
    clear = Image.fromarray(np.dstack([COLOURS, np.zeros_like(RAMP)]))
    assert (read(saved(tmp_path / "a.png", clear), 3) == 255).all()


@pytest.mark.parametrize("marked", [True, False])
def test_cmyk_of_a_jpeg_is_inverted_with_and_without_adobes_marker(marked, tmp_path):
    """As in browsers."""
    red = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (0, 200, 200, 50)])
    content = saved(tmp_path / "a.jpg", red, quality=100).read_bytes()
    begin = content.index(b"\xff\xee")
    if not marked:
        (tmp_path / "a.jpg").write_bytes(content[:begin] + content[begin + 16 :])
    np.testing.assert_allclose(read(tmp_path / "a.jpg", 3)[0, 0], [205, 44, 44], atol=1)


def test_ycck_of_a_jpeg_becomes_the_colours_that_it_stands_for(tmp_path):
    """Stored are Y, Cb and Cr of the three inks taken for red, green and blue, and the inverted black: here none."""
    inks = [*Image.new("RGB", (16, 16), (50, 211, 165)).convert("YCbCr").split(), Image.new("L", (16, 16), 255)]
    stored = Image.merge("CMYK", [Image.eval(ink, lambda value: 255 - value) for ink in inks])  # Pillow inverts them
    content = saved(tmp_path / "a.jpg", stored, quality=100).read_bytes()
    transform = content.index(b"\xff\xee") + 15  # the last byte of Adobe's marker
    (tmp_path / "a.jpg").write_bytes(content[:transform] + b"\2" + content[transform + 1 :])
    np.testing.assert_allclose(read(tmp_path / "a.jpg", 3)[0, 0], [205, 44, 90], atol=2)


def test_a_gpu_gets_no_jpeg_file_whose_colours_are_stored_as_rgb(tmp_path):
    """Not every decoder sees that they are no YCbCr."""
    image = Image.fromarray(COLOURS)
    plain = saved(tmp_path / "a.jpg", image).read_bytes()
    by_name = saved(tmp_path / "b.jpg", image, keep_rgb=True).read_bytes()
    by_marker = plain[:2] + b"\xff\xee\0\x0eAdobe\0\x64" + bytes(5) + plain[2:]
    assert Image.open(io.BytesIO(by_marker)).info["adobe_transform"] == 0
    chosen = [for_a_gpu(content, lambda height, width: Box(0, 0, height, width)) for content in (plain, by_name)]
    assert chosen == [Box(0, 0, 8, 32), None]
    assert for_a_gpu(by_marker, lambda height, width: Box(0, 0, height, width)) is None


def test_the_first_of_two_views_is_read_under_either_ending(tmp_path):
    """A stereo camera's file, which ends in .mpo or .jpg."""
    views = [Image.new("RGB", (16, 16), colour) for colour in ((200, 100, 40), (0, 0, 0))]
    for name in ("a.mpo", "a.jpg"):
        path = saved(tmp_path / name, views[0], format="MPO", save_all=True, append_images=views[1:], quality=100)
        assert path.suffix in extensions()
        np.testing.assert_allclose(read(path, 3)[0, 0], [200, 100, 40], atol=2)


def test_the_content_counts_and_not_the_name(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(RAMP), format="PNG")
    np.testing.assert_array_equal(read(path), RAMP)


def bomb(path):
    content = io.BytesIO()
    Image.new("1", (1, 1)).save(content, "PNG")
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    raw = content.getvalue()
    path.write_bytes(raw[:12] + header + struct.pack(">I", zlib.crc32(header)) + raw[33:])


def test_a_picture_of_too_many_pixels_is_refused_with_the_number(tmp_path):
    bomb(tmp_path / "a.png")
    says = "has more than 179 million pixels, expected fewer"
    with pytest.raises(UnreadableError, match=f"^{says}; make it smaller, or cut it up$"):
        read(tmp_path / "a.png")
    assert [facts_of(str(tmp_path / "a.png"), whole=whole).fault for whole in (True, False)] == [says] * 2


def odd_dds(path):
    """A header that Pillow's reader of DDS answers with an exception of its own kind."""
    path.write_bytes(
        b"DDS "
        + struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0)
        + bytes(44)
        + struct.pack("<8I", 32, 4, 0xFFFFFFFF, 0, 0, 0, 0, 0)
        + bytes(20)
    )


WRONG = {
    "nothing": lambda path: path.write_bytes(b""),
    "a page": lambda path: path.write_text("<html><body>404</body></html>"),
    "a drawing": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "a script of PostScript": lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "a bomb": bomb,
    "odd DDS": odd_dds,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "no file": lambda path: None,
}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC picture, which is not read; convert it"),
        (b"\xff\x0a\xfa\x1f", "is a JPEG XL picture"),
        (b"<html><body>404", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    ],
)
def test_a_file_of_another_kind_is_called_by_it(content, says, tmp_path):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableError, match=says):
        read(tmp_path / "a.jpg")


def test_a_tiff_of_a_kind_that_is_not_decoded_is_one_reason_and_no_log(tmp_path, caplog):
    content = saved(tmp_path / "a.tif", Image.fromarray(np.stack([RAMP] * 3, axis=-1))).read_bytes()
    samples = struct.pack("<HHIHH", 277, 3, 1, 3, 0)
    assert content.count(samples) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(samples, struct.pack("<HHIHH", 277, 3, 1, 12, 0)))
    with pytest.raises(UnreadableError, match="is a TIFF file, damaged or of a kind that Pillow does not decode"):
        read(tmp_path / "a.tif", 3)
    assert not caplog.records


def test_postscript_is_never_handed_to_another_program(tmp_path, monkeypatch):
    """Pillow would give it to Ghostscript, whatever the name of the file is."""
    WRONG["a script of PostScript"](tmp_path / "a.jpg")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was asked"))
    with pytest.raises(UnreadableError, match=r"^is no image, or of a format that is not read$"):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_image_has_a_reason_in_one_line(kind, tmp_path):
    WRONG[kind](tmp_path / "a.png")
    with pytest.raises(UnreadableError) as caught:
        read(tmp_path / "a.png")
    assert 5 < len(str(caught.value)) <= 300
    assert "BytesIO" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "error", [KeyError("x"), struct.error("short"), AssertionError(), RecursionError("deep"), MemoryError()]
)
def test_whatever_a_decoder_raises_is_a_reason(error, tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.fromarray(RAMP))

    def broken(self):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", broken)
    with pytest.raises(UnreadableError) as caught:
        read(path)
    assert str(caught.value)


@pytest.mark.parametrize("name", ["a.avif", "a.png", "a.jpg", "a.webp", "a.gif", "a.tif", "a.jp2"])
def test_damaged_files_are_read_or_refused(name, tmp_path):
    """The test reads 200 files of which random bytes are changed or the end is missing. Each gives pixels or a reason,
    never another exception."""
    if f".{name[2:]}" not in extensions():
        pytest.skip("this Pillow has no such format")
    rng = np.random.default_rng(0)
    whole = saved(tmp_path / name, Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))).read_bytes()
    refused = 0
    for i in range(200):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), 1 + i % 8):
            content[place] = rng.integers(256)
        (tmp_path / name).write_bytes(content[: rng.integers(1, len(content))] if i % 4 == 0 else content)
        try:
            assert read_picture(str(tmp_path / name), 3).mode == "RGB"
        except UnreadableError:
            refused += 1
    assert refused >= 20


def test_a_limit_on_open_files_is_not_taken_for_an_unreadable_file(tmp_path):
    """If it were taken for a damaged image, the image would be replaced by another one without need."""
    resource = pytest.importorskip("resource")
    path = saved(tmp_path / "a.png", Image.fromarray(RAMP))
    read(path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(UserError, match=r"Too many open files\); raise the limit of open files") as caught:
            read_picture(str(path), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not isinstance(caught.value, UnreadableError)


def grey(size: int) -> Preprocessing:
    return Preprocessing.of_files(size, (0.449,), (0.226,))


@pytest.mark.parametrize("shape", [(1, 30_000), (30_000, 1), (2, 40_001)])
def test_a_line_of_pixels_is_evaluated_on_its_middle_in_bounded_memory(shape, tmp_path, monkeypatch):
    """The line is grey 40 at its ends and 200 in its middle half; the central square shows the middle."""
    ramp = np.full(max(shape), 40, np.uint8)
    ramp[len(ramp) // 4 : -len(ramp) // 4] = 200
    pixels = np.broadcast_to(ramp, (min(shape), len(ramp)))
    Image.fromarray(np.ascontiguousarray(pixels if shape[1] > shape[0] else pixels.T)).save(tmp_path / "a.png")
    images = FolderImages(tmp_path, np.array([b"a.png"]), np.zeros(1, int), grey(64), flip=True)
    largest = []
    resize = Image.Image.resize

    def watched(self, size, *args, **kwargs):
        largest.append(size[0] * size[1])
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    shown = images.load([Item(0, 0, 0)], augment=False).images
    assert shown.shape == (1, 1, 64, 64)
    torch.testing.assert_close(shown, torch.full_like(shown, (200 / 255 - 0.449) / 0.226))
    assert images.load([Item(0, 0, 0)], augment=True).images.shape == (1, 1, 64, 64)
    assert max(largest) <= 73 * 73 * 17


def test_pictures_of_usual_shapes_are_evaluated_as_a_whole(tmp_path):
    """A picture that is at most 16 times as long as it is wide is not cut before it is resized."""
    Image.fromarray(np.tile(RAMP.ravel()[:160], (10, 1))).save(tmp_path / "a.png")
    images = FolderImages(tmp_path, np.array([b"a.png"]), np.zeros(1, int), grey(14), flip=True)
    shown = images.load([Item(0, 0, 0)], augment=False).images[0, 0]
    resized = Image.fromarray(np.tile(RAMP.ravel()[:160], (10, 1))).resize((256, 16), Image.Resampling.BILINEAR)
    expected = torch.tensor(np.array(resized)[1:15, 121:135])
    torch.testing.assert_close(shown, (expected / 255 - 0.449) / 0.226)


def test_files_of_folders_and_of_lists_are_read_alike(tmp_path):
    """The one conversion is behind `folder`, in training and in evaluation."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            saved(tmp_path / part / name / "0.PNG", Image.new("LA", (8, 8), (0, 0)))  # black, clear
    splits = open_images(DataConfig(name="folder", root=tmp_path), input_size=8, channels=3, classes=2)
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    plain = splits.train.load([Item(0, 0, 0)], augment=False).images
    torch.testing.assert_close(plain, white.view(1, 3, 1, 1).expand_as(plain))
    augmented = splits.train.load([Item(0, 0, 0)], augment=True).images
    assert augmented.min() > 1  # white but for its brightness
