"""Colour profiles, and pixels that Pillow alone shows otherwise than a viewer does."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from gvit.images import more_formats
from gvit.images.accept import check_listing
from gvit.images.color import in_srgb
from gvit.images.decode import DecodeError, decode_image
from gvit.images.sources.folder import FolderSource
from gvit.schemas import GvitError
from small_dataset import encode_for_real

SIZE = 16
WHITE = (0.3457, 0.3585)  # D50


def colours():
    """A picture with strong and weak colours, uint8 [16, 16, 3]."""
    ramp = np.linspace(20, 235, SIZE).astype(np.uint8)
    return np.stack(
        [np.tile(ramp, (SIZE, 1)), np.tile(ramp[:, None], (1, SIZE)), np.full((SIZE, SIZE), 90)], -1
    ).astype(np.uint8)


def profile_of(primaries, gamma):
    """A matrix profile, ICC version 2, from xy primaries under D50 and one exponent."""
    xyz = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([WHITE[0] / WHITE[1], 1.0, (1 - sum(WHITE)) / WHITE[1]])
    matrix = xyz * np.linalg.solve(xyz, white)

    def fixed(values):
        return struct.pack(">3i", *(round(v * 65536) for v in values))

    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(white), b"cprt": b"text\0\0\0\0none\0"}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78)
    for name, column in zip((b"r", b"g", b"b"), matrix.T, strict=True):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(column)
        tags[name + b"TRC"] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    table, body = b"", b""
    at = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    rest = struct.pack(">I", len(tags)) + table + body
    head = struct.pack(">I4sI4s4s4s", 128 + len(rest), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed((0.9642, 1.0, 0.8249)) + bytes(48)
    return head + rest


WIDE = profile_of([(0.7, 0.3), (0.2, 0.75), (0.15, 0.06)], 1.8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixels(data, color="srgb", size=SIZE):
    return decode_image(data, size, color=color).pixels.astype(int)


def expected_from(profile, values):
    """What the profile means, worked out with matrices and curves alone, float [.., 3] of 255."""
    parsed = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
    matrix = np.array([parsed.red_colorant[0], parsed.green_colorant[0], parsed.blue_colorant[0]]).T
    srgb = ImageCms.createProfile("sRGB")
    target = np.array([srgb.red_colorant[0], srgb.green_colorant[0], srgb.blue_colorant[0]]).T
    linear = (values / 255) ** 1.8 @ matrix.T @ np.linalg.inv(target).T
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_wide_profile_is_converted_as_its_matrix_and_curve_say():
    plain = colours()
    data = saved(Image.fromarray(plain), icc_profile=WIDE)
    found = decode_image(data, SIZE)
    assert found.profile == "converted"
    assert np.abs(found.pixels - expected_from(WIDE, plain)).max() < 2
    assert np.abs(found.pixels.astype(int) - plain).mean() > 5
    np.testing.assert_array_equal(pixels(data, "raw"), plain)


def test_numbers_stay_where_the_profile_is_srgb_and_where_there_is_none():
    plain = Image.fromarray(colours())
    tagged = decode_image(saved(plain, icc_profile=SRGB), SIZE)
    assert tagged.profile == "srgb"
    np.testing.assert_array_equal(tagged.pixels, colours())
    assert decode_image(saved(plain), SIZE).profile == "none"


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"no profile"),
        ("RGB", WIDE[:300]),
        ("L", WIDE),
        ("CMYK", WIDE),
        ("RGB", WIDE[:128] + bytes(400)),
    ],
)
def test_a_profile_that_is_damaged_or_for_other_pixels_is_ignored(mode, profile):
    image = Image.fromarray(colours()).convert(mode)
    converted, what = in_srgb(image, profile)
    assert what == "ignored"
    np.testing.assert_array_equal(np.asarray(converted), np.asarray(image.convert("RGB")))


def test_colours_are_converted_before_they_are_laid_over_white():
    solid = Image.fromarray(colours())
    clear = solid.copy()
    clear.putalpha(128)
    over = 255 - (255 - pixels(saved(solid, icc_profile=WIDE))) * 128 / 255
    assert np.abs(pixels(saved(clear, icc_profile=WIDE)) - over).max() <= 1


def test_an_encode_says_and_keeps_what_became_of_profiles(tmp_path):
    for name, profile in (("a", WIDE), ("b", SRGB), ("c", None), ("d", b"no")):
        (tmp_path / "in").mkdir(exist_ok=True)
        extra = {} if profile is None else {"icc_profile": profile}
        (tmp_path / "in" / f"{name}.jpg").write_bytes(saved(Image.fromarray(colours()), "JPEG", **extra))
    summary = encode_for_real(tmp_path / "in", tmp_path / "out")
    assert (summary.converted, summary.profiles_ignored) == (1, 1)
    assert '"color":"srgb"' in (tmp_path / "out" / "dataset.json").read_text().replace(" ", "")
    raw = encode_for_real(tmp_path / "in", tmp_path / "raw", color="raw")
    assert (raw.converted, raw.profiles_ignored) == (0, 0)


# ---------------------------------------------------------------- pixels


def test_a_gray_tiff_of_16_bits_whose_zero_is_white_is_no_negative():
    gray = (np.arange(SIZE * SIZE).reshape(SIZE, SIZE) * 257 // 2).astype(np.uint16)
    plain = saved(Image.fromarray(gray), "TIFF")
    turned = saved(Image.fromarray(65535 - gray), "TIFF", tiffinfo={262: 0})
    assert Image.open(io.BytesIO(turned)).tag_v2[262] == 0
    assert np.abs(pixels(turned) - pixels(plain)).max() <= 1


def test_a_tiff_of_16_bits_in_planes_is_refused():
    values = np.zeros((3, SIZE, SIZE), "<u2")
    entries = [
        (256, 3, 1, SIZE),
        (257, 3, 1, SIZE),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (277, 3, 1, 3),
        (284, 3, 1, 2),
    ]
    count = len(entries) + 3
    after = 8 + 2 + 12 * count + 4
    start = after + 6 + 24
    length = SIZE * SIZE * 2
    entries += [(258, 3, 3, after), (273, 4, 3, after + 6), (279, 4, 3, after + 18)]
    data = struct.pack("<2sHIH", b"II", 42, 8, count)
    data += b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries)) + bytes(4)
    data += struct.pack("<3H", 16, 16, 16)
    data += struct.pack("<3I", *(start + i * length for i in range(3))) + struct.pack("<3I", *[length] * 3)
    with pytest.raises(DecodeError, match="16 bits whose channels lie apart"):
        decode_image(data + values.tobytes(), SIZE)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_a_transparent_gray_of_16_bits_is_white():
    gray = np.full((SIZE, SIZE), 1000, ">u2")
    gray[:, : SIZE // 2] = 2000
    rows = b"".join(b"\0" + row.tobytes() for row in gray)
    head = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 0, 0, 0, 0)
    parts = (
        chunk(b"IHDR", head),
        chunk(b"tRNS", struct.pack(">H", 2000)),
        chunk(b"IDAT", zlib.compress(rows)),
    )
    shown = pixels(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    assert (shown[:, 2] == 255).all()
    assert (shown[:, -2] == 4).all()


def test_what_a_frame_of_a_gif_leaves_free_is_white():
    frame = saved(Image.new("P", (4, 4), 0), "GIF")
    at = frame.index(b",", 13)
    canvas, corner = struct.pack("<2H", SIZE, SIZE), struct.pack("<2H", 6, 6)
    shown = pixels(frame[:6] + canvas + frame[10 : at + 1] + corner + frame[at + 5 :])
    assert (shown[0, 0] == 255).all()
    assert (shown[7, 7] == 0).all()


# ---------------------------------------------------------------- formats of extras


@pytest.mark.parametrize(
    ("suffix", "form", "module"), [("heic", "HEIF", "pillow_heif"), ("jxl", "JXL", "pillow_jxl")]
)
def test_formats_of_extras_are_read_where_these_are_installed(tmp_path, suffix, form, module):
    package = pytest.importorskip(module)
    if form == "HEIF":
        package.register_heif_opener()
    data = saved(Image.fromarray(colours()), form, quality=95)
    (tmp_path / f"a.{suffix}").write_bytes(data)
    assert len(FolderSource(tmp_path).scan().entries) == 1
    assert np.abs(pixels(data) - colours()).mean() < 12


def test_pictures_that_need_an_extra_are_refused_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(more_formats, "_is_installed", lambda extra: False)
    monkeypatch.setattr("gvit.images.sources.source.IMAGE_SUFFIXES", frozenset({"png"}))
    for name in ("cat/1.png", "dog/1.png", "dog/2.heic", "dog/3.jxl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(GvitError, match=r"\(\.heic, \.jxl\): convert them, or install .*'gvit\[heic,jxl\]'"):
        check_listing(tmp_path, FolderSource(tmp_path).scan(), ())
