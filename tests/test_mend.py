"""Pictures whose pixels are all there, in files that are not quite whole."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gvit.images.decode import DecodeError, decode_image

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (37, 53, 3), np.uint8))


def jpeg(**options):
    file = io.BytesIO()
    PICTURE.save(file, "JPEG", **options)
    return file.getvalue()


def png(*chunks):
    """A PNG with more chunks behind its header, each (kind, data, whether its checksum is right)."""
    file = io.BytesIO()
    PICTURE.save(file, "PNG")
    plain = file.getvalue()
    more = b""
    for kind, data, right in chunks:
        checksum = zlib.crc32(kind + data) ^ (not right)
        more += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
    return plain[:33] + more + plain[33:]


def pixels(data):
    return decode_image(data, 32).pixels


@pytest.mark.parametrize("quality", [20, 95])
def test_a_jpeg_that_lacks_its_end_mark_alone_is_read(quality):
    whole = jpeg(quality=quality)
    assert whole.endswith(b"\xff\xd9")
    assert np.array_equal(pixels(whole[:-2]), pixels(whole))
    assert np.array_equal(pixels(whole[:-2] + bytes(64)), pixels(whole))  # padded in place of it


@pytest.mark.parametrize("options", [{"quality": 60}, {"quality": 95}, {"subsampling": 0}])
def test_no_cut_of_a_jpeg_ever_shows_another_picture(options):
    whole = jpeg(**options)
    expected, read = pixels(whole), 0
    for length in range(len(whole) - 400, len(whole)):
        with contextlib.suppress(DecodeError):
            assert np.array_equal(pixels(whole[:length]), expected)
            read += 1
    assert 1 <= read <= 3  # without the end mark, half of it, or a last byte that only fills up


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 2}])
def test_a_jpeg_that_may_lack_a_pass_or_a_part_stays_refused_without_its_end_mark(options):
    whole = jpeg(**options)
    for length in range(len(whole) - 400, len(whole) - 1):
        with pytest.raises(DecodeError, match="truncated or damaged"):
            pixels(whole[:length])


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"a\0" + b"x" * (3 << 20), True),
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(3 << 20)), True),
        (b"iTXt", b"a\0\0\0\0\0" + b"x" * (3 << 20), True),
        (b"iCCP", b"a\0\0" + zlib.compress(bytes(3 << 20)), True),
        (b"tEXt", b"a\0b", False),
    ],
    ids=["text", "packed", "international", "profile", "checksum"],
)
def test_text_and_profiles_of_a_png_do_not_make_its_pixels_any_worse(chunk):
    assert np.array_equal(pixels(png(chunk)), pixels(png()))


def test_a_png_whose_pixels_are_damaged_stays_refused():
    data = bytearray(png((b"tEXt", b"a\0b", False)))
    data[-30] ^= 1
    for damaged in (bytes(data), png((b"tEXt", b"a\0b", False))[:-60]):
        with pytest.raises(DecodeError, match="truncated or damaged"):
            pixels(damaged)
