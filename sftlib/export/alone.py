"""Name the class of pictures with the network beside this file. Needs onnxruntime, NumPy and Pillow, and nothing else.

python predict.py PICTURE [PICTURE …] writes file, class and the probability of each class, as CSV.
"""

import csv
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
# others may start other programs; the last two are not in every Pillow
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "TGA", "JPEG2000", "AVIF")
MOST_PIXELS = 89_478_485


def read(file, size, resize):
    """A path or a binary file -> uint8 (3, size, size), as the network was trained on

    Turned as EXIF says, on white where it is transparent, grey (of 8 or 16 bits) as three equal channels; the shorter
    side is made ``resize`` pixels long, the middle square of ``size`` pixels is kept. ValueError for what cannot be
    read.
    """
    Image.init()
    try:
        if isinstance(file, str | Path):  # from a path Pillow maps some files into memory, and turns them wrongly
            file = io.BytesIO(Path(file).read_bytes())
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            written = image.format
            if math.prod(image.size) > MOST_PIXELS:
                raise ValueError(f"more than {MOST_PIXELS:,} pixels")
            image.draft(None, (resize, resize))
            image.load()  # which turns a TIFF, and takes the word of it out of its EXIF block
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16") or (image.mode == "I" and written in ("PNG", "PPM")):
                grey = (np.asarray(image).astype(np.uint32) * 510 + 65535) // 131070  # 16 bits: v / 257, rounded
                image = Image.fromarray(grey.astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"mode {image.mode}, pixels of 32 bits: save it with 8 or 16 bits a channel")
            if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
                image = image.convert("RGBA")
                white = Image.new("RGB", image.size, (255, 255, 255))
                white.paste(image, mask=image)
                image = white
            image = ImageOps.fit(image.convert("RGB"), (resize, resize), Image.Resampling.BILINEAR)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        raise ValueError(f"cannot be read as a picture ({error or type(error).__name__})") from None
    start = (resize - size) // 2
    pixels = np.asarray(image)[start : start + size, start : start + size]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class Network:
    """``Network(folder)(pictures)``: uint8 (N, 3, size, size) -> probabilities float32 (N, K)"""

    def __init__(self, folder=HERE):
        about = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
        self.classes, self.size, self.resize = about["classes"], about["size"], about["resize"]
        self.session = onnxruntime.InferenceSession(
            str(Path(folder) / "model.onnx"), providers=["CPUExecutionProvider"]
        )

    def __call__(self, pictures):
        (p,) = self.session.run(None, {"pictures": pictures})
        return p

    def predict(self, file):
        """A path or a binary file -> {class: probability}, the most probable first"""
        p = self(read(file, self.size, self.resize)[None])[0]
        return {self.classes[k]: float(p[k]) for k in np.argsort(-p)}


def main(files):
    """Write a row for each file; -> 1 where one cannot be read"""
    network, table, failed = Network(), csv.writer(sys.stdout), 0
    table.writerow(["file", "class", *network.classes])
    for file in files:
        try:
            found = network.predict(file)
            table.writerow([file, next(iter(found)), *(f"{found[c]:.6f}" for c in network.classes)])
        except ValueError as error:
            print(f"{file}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
