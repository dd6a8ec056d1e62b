"""Getting images in: one function from anything to RGB pixels, and one that finds files.

Which decoder reads what: Pillow reads every header, before any pixel is decoded. JPEG
pixels (RGB and grey) are then decoded by OpenCV's libjpeg-turbo, about twice as fast;
every other format, and CMYK JPEG, by Pillow. EXIF orientation is applied here, once, by
the same code for both.
"""

from __future__ import annotations

import glob
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import ImageError, InputError
from boxwright.files import human_size, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL import Image

Pixels = NDArray[np.uint8]
ImageSource: TypeAlias = "str | Path | bytes | bytearray | memoryview | Image.Image | NDArray[Any]"

MAX_PIXELS = 50_000_000
"""Larger images are refused unless the caller raises the limit: a 20 kB file can claim
900 million pixels and cost gigabytes to decode."""

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"}
    | {".webp"}
)
"""What `find_images` takes from a folder (in any case); each is a format `load_image` reads."""

# Pillow knows some forty formats, several with a history of defects. Only these are tried.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_FORMATS_TEXT = "JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
_ORIENTATION_TAG = 0x0112
# Uncompressed 16-bit RGBA is 8 bytes a pixel; no sound file of a permitted size is longer.
_BYTES_PER_PIXEL = 8
_HEADER_ALLOWANCE = 16 << 20


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read an image as RGB pixels.

    Args:
        source: A path; the bytes of an image file; a Pillow image; or a uint8 array of
            shape ``(H, W, 3)`` in RGB, ``(H, W, 4)`` in RGBA, ``(H, W)`` or ``(H, W, 1)``
            grey. An RGB array is returned as it is, without a copy.
        max_pixels: Refuse images of more pixels. Pillow's own limit,
            ``PIL.Image.MAX_IMAGE_PIXELS``, applies as well.

    Returns:
        uint8 ``(H, W, 3)``, RGB, C-contiguous, upright: all eight EXIF orientations are
        honoured, for Pillow images too (an array has none). Transparency is laid over
        white; 16-bit values keep their upper byte (grey ones rounded); of an animation,
        the first frame.

    Raises:
        ImageError: The image is missing, damaged, truncated, too large, or of a format or
            array type that is not read; the message names it and says what to do.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, (str, Path)):
        return _from_path(source, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return _from_stream(io.BytesIO(data), data, "the image given as bytes", max_pixels)
    from PIL import Image

    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "the Pillow image"
        _check_size(source.size, str(name), max_pixels)
        return _decode_with_pillow(source, str(name))
    raise ImageError(
        "an image must be a path, bytes, a numpy array or a Pillow image, "
        f"got {type(source).__name__}"
    )


def _from_array(array: NDArray[Any], max_pixels: int) -> Pixels:
    shape, name = array.shape, "the image array"
    if array.dtype != np.uint8:
        hint = "; multiply values of 0..1 by 255 first" if array.dtype.kind == "f" else ""
        raise ImageError(
            f"{name} must be uint8, got {array.dtype}; convert it with .astype(numpy.uint8){hint}"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        hint = "; transpose it from channels first" if shape[:1] in ((1,), (3,), (4,)) else ""
        raise ImageError(
            f"{name} must have shape (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), got {shape}{hint}"
        )
    _check_size((shape[1], shape[0]), name, max_pixels)
    if array.ndim == 2 or shape[2] == 1:
        return _grey_to_rgb(array.reshape(shape[:2]))
    if shape[2] == 4:
        return _flatten_alpha(array)
    return np.ascontiguousarray(array)


def _from_path(path: str | Path, max_pixels: int) -> Pixels:
    if str(path).startswith(("http://", "https://")):
        raise ImageError(f"{path}: images are not fetched from the network; download it first")
    try:
        with open_regular(path) as stream:
            return _from_stream(stream, None, str(path), max_pixels)
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"cannot read {path!r}: {error}") from error


def _from_stream(stream: Any, data: bytes | None, name: str, max_pixels: int) -> Pixels:
    """`data` is the stream's content where it is in memory already."""
    with _open_header(stream, name) as image:
        _check_size(image.size, name, max_pixels)
        # MPO is a JPEG followed by more pictures, as some cameras and phones write.
        if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
            return _decode_with_pillow(image, name)
        if data is None:
            data = _read_whole(stream, name, image.size)
        _refuse_truncated_jpeg(data, name)
        pixels = _decode_jpeg(data, image.size)
        if pixels is None:
            return _decode_with_pillow(image, name)
        return _upright(pixels, _orientation(image))


def _open_header(stream: Any, name: str) -> Image.Image:
    # The plugins for these three are otherwise found by importing all forty.
    from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

    try:
        return Image.open(stream, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} claims more pixels than Pillow allows and was not decoded ({error}); "
            "scale it down, or raise max_pixels and PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not an image of a known format ({_FORMATS_TEXT}){_what_it_is(stream)}; "
            "convert it first"
        ) from error
    except Exception as error:
        # Parsers of hostile headers fail in any way (struct, zlib, index, memory, ...).
        raise ImageError(f"{name} has a damaged header: {error}; get a sound copy") from error


def _what_it_is(stream: Any) -> str:
    try:
        stream.seek(0)
        start = stream.read(64)
    except OSError:
        return ""
    if not start:
        return ": it is empty"
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        return ": it holds text"
    return f": it starts with {start[:8].hex(' ')}"


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: {width}x{height}")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width}x{height} pixels, {width * height / 1e6:.1f} million, above the "
            f"limit of {max_pixels / 1e6:.1f} million; scale it down, or raise max_pixels"
        )


def _read_whole(stream: Any, name: str, size: tuple[int, int]) -> bytes:
    limit = size[0] * size[1] * _BYTES_PER_PIXEL + _HEADER_ALLOWANCE
    stream.seek(0)
    data: bytes = stream.read(limit + 1)
    if len(data) > limit:
        raise ImageError(
            f"{name} is longer than an image of {size[0]}x{size[1]} pixels can be "
            f"({human_size(limit)}); it is damaged or not only an image"
        )
    return data


def _refuse_truncated_jpeg(data: bytes, name: str) -> None:
    """OpenCV fills the missing part of a truncated file with grey and says nothing.

    Walks the segments to the first scan (ITU T.81, B.1.1.4), then looks for the end
    marker: inside a scan 0xFF is always followed by 0x00 or a restart marker, so
    ``FF D9`` there can only be the end. An EXIF thumbnail's own end marker lies before.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill bytes are allowed before a marker
            position += 1
            continue
        if marker == 0xDA:
            if data.find(b"\xff\xd9", position) >= 0:
                return
            break
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise ImageError(
        f"{name} is truncated: the JPEG ends after {human_size(len(data))} without its end "
        "marker; get a complete copy"
    )


def _decode_jpeg(data: bytes, size: tuple[int, int]) -> Pixels | None:
    """RGB pixels as stored (not rotated), or ``None`` where OpenCV cannot read them."""
    cv2 = import_cv2()
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if pixels is None or pixels.shape != (size[1], size[0], 3):
        return None
    rgb: Pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    return rgb


def import_cv2() -> Any:
    """OpenCV, imported on first use with a limit on what its decoders may allocate."""
    # Read once, when the library loads. Our own check comes first; this is the second
    # line of defence for a decoder that reads another size than the header said.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))
    import cv2

    return cv2


def _decode_with_pillow(image: Image.Image, name: str) -> Pixels:
    try:
        image.load()
        return _upright(_to_rgb(image, name), _orientation(image))
    except ImageError:
        raise
    except Exception as error:
        # Codecs report damage in any way: OSError, SyntaxError, struct.error, ...
        raise ImageError(
            f"{name} cannot be decoded, it is damaged or truncated: {error}; get a complete copy"
        ) from error


def _to_rgb(image: Image.Image, name: str) -> Pixels:
    mode = image.mode
    # A 16-bit grey PNG or PGM is mode I in older releases of Pillow.
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        return _grey_to_rgb(((values * 255 + 32767) // 65535).astype(np.uint8))
    if mode in ("I", "F"):
        raise ImageError(
            f"{name} holds 32-bit values, whose range is not known; convert it to 8 or 16 bits"
        )
    if image.has_transparency_data:
        return _flatten_alpha(np.asarray(image.convert("RGBA")))
    return np.array(image if mode == "RGB" else image.convert("RGB"))


def _grey_to_rgb(grey: NDArray[np.uint8]) -> Pixels:
    return np.repeat(grey[:, :, None], 3, axis=2)


_STRIP = 64


def _flatten_alpha(rgba: NDArray[np.uint8]) -> Pixels:
    """Lay RGBA over white, as a browser shows it."""
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(colour)
    result = np.empty(colour.shape, np.uint8)
    # In strips, and in 16 bits (255 * 255 + 127 fits): a picture may hold 50 Mpx.
    for start in range(0, len(rgba), _STRIP):
        rows = slice(start, start + _STRIP)
        cover = alpha[rows].astype(np.uint16)
        blended = colour[rows] * cover
        blended += np.uint16(255) * (np.uint16(255) - cover) + np.uint16(127)
        result[rows] = blended // np.uint16(255)
    return result


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Damaged EXIF is common in sound images, and fails in any way.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (CIPA DC-008, 4.6.4, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def find_images(
    inputs: Iterable[str | Path] | str | Path, *, without: Iterable[Path] = ()
) -> list[Path]:
    """The image files that some inputs mean, in order, each once.

    Args:
        inputs: Files (of any suffix), folders (searched recursively for `IMAGE_SUFFIXES`,
            sorted), glob patterns (``**`` crosses folders, sorted), and text lists
            (``.txt``: one path a line, ``#`` comments; relative paths are looked up beside
            the list, then in the working folder).
        without: Folders of our own pictures, which a search passes by; a file that is
            named is taken wherever it lies.

    Raises:
        InputError: An input does not exist, or holds no image.
    """
    ours = [folder.resolve() for folder in without]
    items = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    if not items:
        raise InputError("no images were given; expected files, folders, globs or .txt lists")
    found: dict[Path, Path] = {}
    for item in items:
        if item == "":
            raise InputError("the name of an image is empty; is a variable not set?")
        searched = not Path(item).is_file()
        for path in _expand(item):
            whole = path.resolve()
            if not (searched and any(whole.is_relative_to(folder) for folder in ours)):
                found.setdefault(whole, path)
    if not found:
        raise InputError("there are no images but those that an earlier run wrote")
    return list(found.values())


def _expand(item: str | Path) -> list[Path]:
    path = Path(item)
    if path.is_dir():
        images = _images_below(path)
        if not images:
            raise InputError(
                f"the folder {path} holds no images; known suffixes are "
                + " ".join(sorted(IMAGE_SUFFIXES))
            )
        return images
    if path.exists():
        return _read_list(path) if path.suffix.lower() == ".txt" else [path]
    if glob.has_magic(str(item)):
        matches = [Path(match) for match in sorted(_glob(str(item)))]
        images = [match for match in matches if _is_image_file(match)]
        if not images:
            raise InputError(f"no image matches {item}")
        return images
    raise InputError(f"no such file or folder: {item}")


def _glob(pattern: str) -> list[str]:
    # Path.glob refuses absolute patterns.
    return glob.glob(pattern, recursive=True)  # noqa: PTH207


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if _is_image_file(path))


def _is_image_file(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


# A hundred thousand long paths fit.
_MAX_LIST_BYTES = 64 << 20


def _read_list(path: Path) -> list[Path]:
    try:
        with open_regular(path) as stream:
            data = stream.read(_MAX_LIST_BYTES + 1)
        if len(data) > _MAX_LIST_BYTES:
            raise InputError(f"the list {path} is longer than {human_size(_MAX_LIST_BYTES)}")
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list {path}: {error}") from error
    images = []
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        candidates = (path.parent / entry, Path(entry))
        image = next((candidate for candidate in candidates if candidate.is_file()), None)
        if image is None:
            raise InputError(
                f"{path}:{number}: no such file: {entry} "
                "(looked beside the list and in the working folder)"
            )
        images.append(image)
    if not images:
        raise InputError(f"the list {path} names no images")
    return images
