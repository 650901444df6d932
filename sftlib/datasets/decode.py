"""From a picture file to uint8 (H, W, 3), whatever its mode; what cannot be read says why in one line."""

import io
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from sftlib.datasets.ahead import ahead

# What is read. Pillow knows more, and starts another program for one of them (Ghostscript, for EPS of any name).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "TGA")
LARGEST_SIDE = 4096  # pixels; 50 MB a picture
LARGE = 2**24  # pixels: above it, one picture at a time (a gigabyte on its way through RGBA to an array)
WHITE = (255, 255, 255)
# What carries transparency; a palette, grey or RGB file may carry it as one transparent colour.
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_one_large_at_a_time = threading.Lock()


class Decoded(NamedTuple):
    """A picture uint8 (H, W, 3), and of a file with 16 bits the highest value in it, else None"""

    picture: np.ndarray
    highest: int | None


def decode(data: bytes, size: int | None = None, *, bits: int = 16) -> np.ndarray:
    """bytes of a picture file -> uint8 (H, W, 3), or (size, size, 3): shorter side resized, middle kept

    Turned as its EXIF orientation says; palette, grey and CMYK become RGB; transparency lies on white; 16-bit
    grey of which ``bits`` are used is scaled (for 16: v / 257, rounded); of an animation the first frame. Embedded
    colour profiles are not applied, as in torchvision. A JPEG file of at least twice `size` is made smaller by 2, 4 or
    8 while it is decoded. ValueError with the reason for everything else.
    """
    return decoded(data, size, bits).picture


def decoded(data: bytes, size: int | None = None, bits: int = 16) -> Decoded:
    """The same, and what is told of 16-bit files"""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"got a {type(data).__name__}; expected the bytes of a picture file: Path(name).read_bytes()")
    if not data:
        raise ValueError("an empty file (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            _refuse_bomb(image)
            if size is not None:
                image.draft(None, (size, size))
            with _one_large_at_a_time if math.prod(image.size) > LARGE else nullcontext():
                return _loaded(image, size, bits)
    except UnidentifiedImageError:
        raise ValueError(f"no picture that can be read here ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller") from None
    except MemoryError:
        raise  # no fault of the file
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        raise ValueError(f"damaged or of an unknown kind ({error or type(error).__name__})") from None


def _formats() -> tuple[str, ...]:
    """FORMATS that this Pillow has"""
    Image.init()
    return tuple(f for f in FORMATS if f in Image.OPEN)


def _refuse_bomb(image: Image.Image) -> None:
    if Image.MAX_IMAGE_PIXELS is not None and math.prod(image.size) > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError


def _loaded(image: Image.Image, size: int | None, bits: int) -> Decoded:
    image.load()
    file_format = image.format
    ImageOps.exif_transpose(image, in_place=True)
    highest = None
    if _has_16_bits(image, file_format):
        values = np.asarray(image)
        highest = int(values.max())
        picture = _scaled(values, highest, bits)
    else:
        picture = to_rgb(image)
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    return Decoded(np.array(picture), highest)  # a copy that may be written to


def _has_16_bits(image: Image.Image, file_format: str | None) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM"))


def _scaled(values: np.ndarray, highest: int, bits: int) -> Image.Image:
    """values (H, W) of which ``bits`` are used -> 8-bit RGB"""
    most = 2**bits - 1
    if highest > most:
        raise ValueError(f"a value of {highest}, more than bits={bits} hold")
    grey = (values.astype(np.uint32) * 510 + most) // (2 * most)  # v · 255 / most, rounded
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def to_rgb(image: Image.Image) -> Image.Image:
    """a Pillow picture of any mode with at most 8 bits a channel -> the same in 8-bit RGB"""
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}, pixels of 32 bits in an unknown range: save it with 8 or 16 bits")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        picture = image if image.mode == "RGBA" else image.convert("RGBA")
        canvas = Image.new("RGB", picture.size, WHITE)
        canvas.paste(picture, mask=picture)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def check_size(size: int | None) -> None:
    """ValueError unless size is a side in pixels that a picture in memory may have, or None"""
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if size is not None and not (whole and 1 <= size <= LARGEST_SIDE):
        raise ValueError(
            f"got size={size!r}; expected the side of a picture in pixels, 1 to {LARGEST_SIDE:,}, or None for pictures "
            "as they are (networks of this course take 96 to 300)"
        )


def in_threads(function: Callable, items: Iterable, *, label: str | None = None) -> Iterator:
    """function of every item, in order, on four threads (files and decoding, no tensors)

    With a label, a progress bar appears when it takes longer than two seconds.
    """
    items = list(items)
    with _strict_about_bombs():
        results = ahead(function, items, threads=4, depth=16, cost=lambda item: 0, budget=0)
        yield from tqdm(results, label, len(items), leave=False, delay=2, disable=label is None)


@contextmanager
def _strict_about_bombs() -> Iterator[None]:
    """Set once around all threads, for filters of warnings belong to the process: a bomb is an error, Pillow's
    other remarks (on odd EXIF blocks) are not the reader's concern."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_bytes(path: Path) -> bytes:
    """the file's bytes; ValueError with the reason when it cannot be opened"""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be opened ({error.strerror or error})") from None
