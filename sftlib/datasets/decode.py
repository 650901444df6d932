"""From a picture file to uint8 (H, W, 3), whatever its mode; what cannot be read says why in one line."""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

WHITE = (255, 255, 255, 255)
# What carries transparency; a palette, grey or RGB file may carry it as one transparent colour.
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def decode(data: bytes, size: int | None = None) -> np.ndarray:
    """bytes of a picture file -> uint8 (H, W, 3), or (size, size, 3): shorter side resized, middle kept

    Turned as its EXIF orientation says; palette, grey and CMYK become RGB; transparency lies on white; 16-bit
    grey is scaled (v / 257, rounded); of an animation the first frame. Embedded colour profiles are not
    applied, as in torchvision. ValueError with the reason for everything else.
    """
    if not data:
        raise ValueError("an empty file (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            picture = to_rgb(ImageOps.exif_transpose(image), image.format)
        if size is not None:
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError:
        raise ValueError("no picture that Pillow can read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller") from None
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        raise ValueError(f"damaged or of an unknown kind ({error or type(error).__name__})") from None
    return np.array(picture)  # a copy that may be written to


def to_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    """a Pillow picture of any mode, read from a file of this format -> the same in 8-bit RGB"""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")  # 65535 / 255 = 257
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}, pixels of 32 bits in an unknown range: save it with 8 or 16 bits")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, WHITE), picture).convert("RGB")
    return image.convert("RGB")


def in_threads(function: Callable, items: Iterable, *, label: str | None = None) -> Iterator:
    """function of every item, in order, on four threads (files and decoding, no tensors)

    With a label, a progress bar appears when it takes longer than two seconds.
    """
    items = list(items)
    with _strict_about_bombs(), ThreadPoolExecutor(4) as pool:
        results = pool.map(function, items)
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
