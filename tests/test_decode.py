import contextlib
import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from gvit.images.decode import DecodeError, decode_image, read_image


def photo(width=37, height=23, mode="RGB"):
    """Make an image whose corners all differ, so that no two orientations look alike."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    planes = [x / width, y / height, np.hypot(x, y) / np.hypot(width, height)]
    return Image.fromarray((np.stack(planes, -1) * 255).astype(np.uint8)).convert(mode)


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def target(image, size=16):
    """Return the pinned target of an upright RGB image."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, bits, colour, rows=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# ---------------------------------------------------------------- the pinned target


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_a_photo_becomes_pillows_bicubic_square(file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(photo(), file_format, **options)
    decoded = decode_image(data, 16)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.writeable
    np.testing.assert_array_equal(decoded.pixels, target(photo()))
    assert (decoded.width, decoded.height) == (37, 23)
    assert decoded.sha256 == hashlib.sha256(data).hexdigest()


def test_a_jpeg_is_decoded_at_full_size_before_it_is_resized():
    data = encoded(photo(800, 600), "JPEG")
    np.testing.assert_array_equal(decode_image(data, 16).pixels, target(Image.open(io.BytesIO(data))))


def test_center_crop_takes_the_largest_centred_square_and_keeps_the_true_size():
    decoded = decode_image(encoded(photo(41, 20)), 16, "center")
    np.testing.assert_array_equal(decoded.pixels, target(photo(41, 20).crop((10, 0, 30, 20))))
    assert (decoded.width, decoded.height) == (41, 20)


@pytest.mark.parametrize("crop", ["none", "center"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (10000, 30), (30, 10000), (1, 500), (16, 16)])
def test_extreme_shapes_are_decoded(width, height, crop):
    decoded = decode_image(encoded(photo(width, height)), 16, crop)
    assert decoded.pixels.shape == (16, 16, 3)
    assert (decoded.width, decoded.height) == (width, height)


def test_a_one_pixel_image_is_a_square_of_its_colour():
    pixels = decode_image(encoded(Image.new("RGB", (1, 1), (10, 200, 30))), 16).pixels
    assert (pixels == (10, 200, 30)).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_any_size_goes_onto_any_canvas(width, height, size):
    decoded = decode_image(encoded(photo(width, height)), size)
    np.testing.assert_array_equal(decoded.pixels, target(photo(width, height), size))


# ---------------------------------------------------------------- orientation


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotated_image_is_turned_upright(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), file_format, exif=exif)
    decoded = decode_image(data, 16)
    # Each of these, applied to the pixels as stored, shows them upright (EXIF 2.3, tag 274).
    stored = np.asarray(Image.open(io.BytesIO(encoded(photo(), file_format))).convert("RGB"))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    np.testing.assert_array_equal(decoded.pixels, target(Image.fromarray(np.ascontiguousarray(upright))))
    assert (decoded.height, decoded.width) == upright.shape[:2]
    again = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decoded.pixels, target(again))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_damaged_metadata_does_not_cost_the_image(exif):
    decoded = decode_image(encoded(photo(), "JPEG", exif=exif), 16)
    np.testing.assert_array_equal(decoded.pixels, decode_image(encoded(photo(), "JPEG"), 16).pixels)


def test_an_orientation_that_does_not_exist_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 99
    np.testing.assert_array_equal(decode_image(encoded(photo(), exif=exif), 16).pixels, target(photo()))


# ---------------------------------------------------------------- kinds of pixels


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("L", "PNG"), ("L", "JPEG"), ("1", "PNG"), ("1", "TIFF"), ("P", "PNG"), ("P", "GIF")],
)
def test_gray_one_bit_and_palette_become_rgb(mode, file_format):
    data = encoded(photo(mode=mode), file_format)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(decode_image(data, 16).pixels, target(expected))


def test_one_bit_is_black_and_white():
    pixels = decode_image(encoded(Image.new("1", (4, 4), 1)), 8).pixels
    assert (pixels == 255).all()


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_over_white(file_format):
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    image = Image.new("RGBA", (3, 1))
    image.putdata([(200, 0, 100, 255), (200, 0, 100, 0), (200, 0, 100, 51)])
    wide = image.resize((24, 8), Image.Resampling.NEAREST)
    pixels = decode_image(encoded(wide, file_format, **options), 24).pixels
    np.testing.assert_array_equal(pixels[12, [4, 12, 20]], [(200, 0, 100), (255, 255, 255), (244, 204, 224)])


def test_gray_with_alpha_is_composited_over_white():
    image = Image.new("LA", (8, 8), (100, 51))
    assert (decode_image(encoded(image), 8).pixels == 224).all()


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_becomes_white(file_format):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(0, (0, 0, 4, 8))
    pixels = decode_image(encoded(image, file_format, transparency=1), 8).pixels
    np.testing.assert_array_equal(pixels[4, [0, 7]], [(10, 20, 30), (255, 255, 255)])


def test_a_palette_with_partial_transparency_is_composited():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 0, 100])
    assert (decode_image(encoded(image, transparency=bytes([51])), 8).pixels == (244, 204, 224)).all()


def test_a_transparent_colour_without_alpha_channel_becomes_white():
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    assert (decode_image(encoded(image, transparency=(1, 2, 3)), 8).pixels == 255).all()


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb_and_is_not_inverted(file_format):
    options = {"quality": 100} if file_format == "JPEG" else {}
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), file_format, **options)
    red = decode_image(data, 8).pixels.astype(int)
    assert np.abs(red - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_is_scaled_and_not_clipped(file_format):
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    data = encoded(Image.fromarray(values), file_format)
    expected = np.round(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(data, 16).pixels, np.stack([expected] * 3, -1))


def test_big_endian_16_bit_tiff_reads_as_little_endian_does():
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    little = encoded(Image.fromarray(values), "TIFF")
    big = encoded(Image.frombytes("I;16B", (16, 16), values.astype(">u2").tobytes()), "TIFF")
    assert (little[:2], big[:2]) == (b"II", b"MM")
    np.testing.assert_array_equal(decode_image(little, 16).pixels, decode_image(big, 16).pixels)


def test_every_16_bit_value_is_rounded_to_the_nearest_8_bit_value():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = decode_image(encoded(Image.fromarray(values)), 256).pixels
    np.testing.assert_array_equal(pixels[..., 0], np.round(values / 257))


def test_16_bit_colour_png_is_decoded():
    row = b"\0" + struct.pack(">3H", 0xFFFF, 0x8000, 0) * 4
    assert (decode_image(png(4, 4, 16, 2, row * 4), 4).pixels == (255, 128, 0)).all()


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], duration=50, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (decode_image(data, 8).pixels == (255, 0, 0)).all()


def test_lab_becomes_rgb():
    red = Image.new("LAB", (8, 8), (136, 208, 195))  # pure red in CIE Lab
    pixels = decode_image(encoded(red, "TIFF"), 8).pixels.astype(int)
    assert np.abs(pixels - (255, 0, 0)).max() <= 12


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_fixed_range_are_refused(mode):
    refused(
        encoded(Image.new(mode, (8, 8)), "TIFF"), "pixels of 32-bit integers or floats have no fixed range"
    )


# ---------------------------------------------------------------- bad files


def refused(data, reason):
    with pytest.raises(DecodeError) as caught:
        decode_image(data, 16)
    assert str(caught.value) == reason


def test_an_empty_file_is_refused():
    refused(b"", "the file is empty")


@pytest.mark.parametrize(
    "data",
    [b"\n", b"Hello, this is a text file.\n" * 10, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", bytes(1000)],
)
def test_a_file_that_is_no_image_is_refused(data):
    refused(data, "the file is not an image of a known format")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_image_is_refused(file_format, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, file_format)
    refused(data[: int(len(data) * share)], "the image is truncated or damaged")


@given(st.data())
def test_damaged_bytes_are_decoded_or_refused_and_nothing_else(data):
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP"]))
    content = bytearray(encoded(photo(9, 7), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        assert decode_image(bytes(content), 8).pixels.shape == (8, 8, 3)


@pytest.mark.parametrize("side", [16385, 60000])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    bomb = png(side, side, 8, 2)
    assert len(bomb) < 100
    refused(bomb, "the image declares more than 2^28 pixels")


def test_a_large_image_within_the_limit_is_no_bomb_to_pillow_either(monkeypatch):
    # Pillow refuses from twice its own limit; the real one would take a gigabyte here.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(decode_image(encoded(photo()), 16).pixels, target(photo()))


def test_pillows_own_limit_is_left_as_it_was():
    limit = Image.MAX_IMAGE_PIXELS
    refused(png(60000, 60000, 8, 2), "the image declares more than 2^28 pixels")
    assert limit == Image.MAX_IMAGE_PIXELS


# ---------------------------------------------------------------- reading


def test_a_file_is_read_whole(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"abc" * 1000)
    assert read_image(tmp_path / "a.jpg") == b"abc" * 1000


def make_folder(path):
    path.mkdir()


def make_broken_link(path):
    path.symlink_to("nowhere")


def make_link_to_itself(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_folder, "it is a folder"),
        (make_broken_link, "it does not exist"),
        (make_link_to_itself, "it is a link that leads to itself"),
        (os.mkfifo, "it is no regular file"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once_without_naming_its_path(tmp_path, make, reason):
    make(tmp_path / "x.jpg")
    with pytest.raises(DecodeError) as caught:
        read_image(tmp_path / "x.jpg")
    assert str(caught.value) == f"the file cannot be read: {reason}"


@pytest.mark.parametrize(
    ("code", "reason"), [(13, "permission is denied"), (5, "EIO"), (9999, "unknown error")]
)
def test_an_error_of_the_system_has_a_fixed_reason(tmp_path, monkeypatch, code, reason):
    def refuse(path, flags, *_):
        raise OSError(code, "words that differ between systems", path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DecodeError) as caught:
        read_image(Path("a.jpg"))
    assert str(caught.value) == f"the file cannot be read: {reason}"


def test_decoding_on_many_threads_leaves_pillow_and_the_warnings_as_they_were():
    import warnings
    from concurrent.futures import ThreadPoolExecutor

    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: decode_image(buffer.getvalue(), 4), range(400)))
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before
