from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from boxwright.errors import ImageError, InputError
from boxwright.images import Pixels, find_images, load_image

if TYPE_CHECKING:
    from pathlib import Path


def gradient(height: int = 24, width: int = 32) -> Pixels:
    """Each channel differs, and no two corners are alike: swaps and turns show."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack(
        [columns * 255 // (width - 1), rows * 255 // (height - 1), 0 * rows + 40], axis=-1
    ).astype(np.uint8)


def encoded(pixels: Pixels | Image.Image, kind: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    np.testing.assert_array_equal(load_image(encoded(gradient(), kind)), gradient())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_keep_colours_in_order(kind: str) -> None:
    loaded = load_image(encoded(gradient(), kind, quality=95)).astype(int)
    assert np.abs(loaded - gradient()).max() < 30
    assert np.abs(loaded - gradient()).mean() < 4


def test_sources_give_the_same_pixels(tmp_path: Path) -> None:
    data = encoded(gradient(), "PNG")
    path = tmp_path / "gradient.png"
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(load_image(source), gradient())
    np.testing.assert_array_equal(load_image(Image.open(path)), gradient())
    np.testing.assert_array_equal(load_image(gradient()), gradient())


def test_jpeg_decoders_agree(fixtures_dir: Path) -> None:
    path = fixtures_dir / "photos" / "dog.jpg"
    by_pillow = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(load_image(path).astype(int) - by_pillow).max() <= 3


# PIL.ImageOps.exif_transpose is the second opinion on what each value means.
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_once(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(gradient(), kind, exif=exif)
    stored = Image.open(io.BytesIO(data))
    expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB")).astype(int)
    assert expected.shape == ((32, 24, 3) if orientation > 4 else (24, 32, 3))
    assert np.abs(load_image(data).astype(int) - expected).max() <= 3
    assert np.abs(load_image(Image.open(io.BytesIO(data))).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_impossible_orientations_are_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert load_image(encoded(gradient(), "PNG", exif=exif)).shape == (24, 32, 3)


def test_pillow_image_is_not_changed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(gradient(), "PNG", exif=exif)))
    load_image(image)
    assert image.size == (32, 24)
    assert image.getexif()[0x0112] == 6


def test_grey() -> None:
    grey = gradient()[..., 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(load_image(encoded(grey, "PNG")), expected)
    np.testing.assert_array_equal(load_image(grey), expected)
    np.testing.assert_array_equal(load_image(grey[:, :, None]), expected)
    assert np.abs(load_image(encoded(grey, "JPEG", quality=98)).astype(int) - expected).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_cut_off(kind: str) -> None:
    values = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    expected = np.rint(values / 257.0).astype(np.uint8)
    loaded = load_image(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(loaded[..., 0], expected)


def test_palette_and_one_bit() -> None:
    palette = Image.fromarray(gradient()).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(load_image(encoded(palette, "PNG")), expected)
    bits = Image.fromarray(gradient()[..., 0]).convert("1")
    assert set(np.unique(load_image(encoded(bits, "PNG")))) == {0, 255}


def test_cmyk_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxwright.images._decode_jpeg", None)  # Pillow's work
    pixels = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    cmyk = Image.fromarray(pixels).convert("CMYK")
    loaded = load_image(encoded(cmyk, "JPEG", quality=98)).astype(int)
    assert np.abs(loaded - pixels).max() < 12


def test_transparency_is_laid_over_white() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[0, 1] = (10, 20, 30, 0)
    rgba[1, 0] = (0, 0, 0, 128)
    for loaded in (load_image(rgba), load_image(encoded(rgba, "PNG"))):
        assert loaded[0, 0].tolist() == [10, 20, 30]
        assert loaded[0, 1].tolist() == [255, 255, 255]
        assert loaded[1, 0].tolist() == [127, 127, 127]


def test_transparent_palette_colour() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putpixel((1, 1), 1)
    loaded = load_image(encoded(image, "PNG", transparency=0))
    assert loaded[0, 0].tolist() == [255, 255, 255]
    assert loaded[1, 1].tolist() == [0, 200, 0]


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data)[0, 0].tolist() == [255, 0, 0]


def test_non_contiguous_array() -> None:
    flipped = gradient()[:, ::-1]
    loaded = load_image(flipped)
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, flipped)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"uint8, got float32.*255"),
        (np.zeros((4, 4, 3), bool), "uint8, got bool"),
        (np.zeros((3, 4, 4), np.uint8)[:, :, :2], "shape"),
        (np.zeros((3, 8, 8), np.uint8), "transpose"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels: 4x0"),
    ],
)
def test_wrong_arrays(array: Pixels, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(array)


def test_wrong_type() -> None:
    with pytest.raises(ImageError, match="got int"):
        load_image(5)  # type: ignore[arg-type]


# A decoder that believed these headers would allocate 2.7 GB and 160 MB.
@pytest.mark.parametrize(("width", "height"), [(30000, 30000), (8000, 6700), (1, 2**31 - 1)])
def test_bomb_is_refused_by_its_header(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(ImageError, match=r"bomb\.png.*pixels"):
        load_image(path)


def test_limit_can_be_set() -> None:
    data = encoded(gradient(), "PNG")
    with pytest.raises(ImageError, match=r"32x24.*limit"):
        load_image(data, max_pixels=32 * 24 - 1)
    assert load_image(data, max_pixels=32 * 24).shape == (24, 32, 3)
    for source in (Image.fromarray(gradient()), gradient()):
        with pytest.raises(ImageError, match="limit"):
            load_image(source, max_pixels=100)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_truncated_file_is_refused(tmp_path: Path, kind: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(noise, kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageError, match="cut"):
        load_image(path)


def grey_decoder(data: bytes, size: tuple[int, int]) -> Pixels:
    """Some releases of OpenCV: what is missing of a truncated JPEG is grey."""
    return np.full((size[1], size[0], 3), 128, np.uint8)


@pytest.mark.parametrize("part", [0.5, 0.95])
def test_truncated_jpeg_is_refused_before_opencv_sees_it(
    monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    monkeypatch.setattr("boxwright.images._decode_jpeg", grey_decoder)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(noise, "JPEG")
    assert (load_image(data) == 128).all()
    with pytest.raises(ImageError, match="truncated"):
        load_image(data[: int(len(data) * part)])


def test_truncated_jpeg_with_a_whole_thumbnail_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxwright.images._decode_jpeg", grey_decoder)
    # The end marker inside the EXIF thumbnail must not pass for the image's own.
    thumbnail = encoded(gradient(8, 8), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    data = encoded(gradient(), "JPEG")
    whole = data[:2] + segment + data[2:]
    assert load_image(whole).shape == (24, 32, 3)
    with pytest.raises(ImageError, match="truncated"):
        load_image(whole[:-60])


def test_trailing_bytes_are_allowed() -> None:
    assert load_image(encoded(gradient(), "JPEG") + b"\0" * 100).shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"this is a text file\n", "text"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 50, "7f 45 4c 46"),
        (b"\xff\xd8\xff", "image"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"GIF89a" + b"\xff" * 20, "image"),
        # A format Pillow reads and we do not: its parsers are never tried.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"image\.jpg") as caught:
        load_image(path)
    assert message in str(caught.value)


def test_mutated_files_never_escape_image_error() -> None:
    rng = np.random.default_rng(1)
    originals = [encoded(gradient(), kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP")]
    for _ in range(300):
        data = bytearray(originals[rng.integers(len(originals))])
        for at in rng.integers(0, len(data), rng.integers(1, 8)):
            data[at] = rng.integers(256)
        try:
            pixels = load_image(bytes(data), max_pixels=100_000)
        except ImageError:
            continue
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3


def test_missing_and_odd_paths(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="directory"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="null"):
        load_image("a\0b.png")
    with pytest.raises(ImageError, match="download"):
        load_image("https://example.org/dog.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "notes.md", "sub/deep/d.bmp"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_find_in_folder(folder: Path) -> None:
    assert names(find_images(folder), folder) == ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.bmp"]


def test_find_by_glob(folder: Path) -> None:
    assert names(find_images(f"{folder}/*.[jP]*"), folder) == ["a.PNG", "b.jpg"]
    assert names(find_images([f"{folder}/**/*.bmp"]), folder) == ["sub/deep/d.bmp"]


def test_find_keeps_order_and_drops_duplicates(folder: Path) -> None:
    found = find_images([folder / "sub" / "c.webp", folder, str(folder / "sub" / ".." / "b.jpg")])
    assert names(found, folder) == ["sub/c.webp", "a.PNG", "b.jpg", "sub/deep/d.bmp"]


def test_named_file_is_taken_whatever_its_suffix(folder: Path) -> None:
    assert names(find_images(folder / "notes.md"), folder) == ["notes.md"]


def test_file_whose_name_looks_like_a_glob(folder: Path) -> None:
    odd = folder / "odd[1].jpg"
    odd.touch()
    assert find_images(odd) == [odd]


def test_find_in_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = folder / "list.txt"
    listing.write_text(f"\ufeff# comment\n\nb.jpg\n{folder / 'a.PNG'}\nphotos/sub/c.webp\n")
    monkeypatch.chdir(folder.parent)
    found = [path.resolve() for path in find_images(listing)]
    assert names(found, folder.resolve()) == ["b.jpg", "a.PNG", "sub/c.webp"]


def test_find_errors(folder: Path, tmp_path: Path) -> None:
    listing = folder / "list.txt"
    listing.write_text("b.jpg\nmissing.jpg\n")
    with pytest.raises(InputError, match=r"list\.txt:2: no such file: missing\.jpg"):
        find_images(listing)
    listing.write_text("\n")
    with pytest.raises(InputError, match="names no images"):
        find_images(listing)
    listing.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read the list"):
        find_images(listing)
    with pytest.raises(InputError, match="no such file or folder"):
        find_images(tmp_path / "none")
    with pytest.raises(InputError, match="no image matches"):
        find_images(f"{folder}/*.gif")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        find_images(tmp_path / "empty")
    with pytest.raises(InputError, match="no images were given"):
        find_images([])
