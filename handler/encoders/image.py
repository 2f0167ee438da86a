"""A picture feature: JPEG or PNG, decoded and resized by Pillow, as most training code does.

Pillow decodes JPEG and PNG alone. It reads the size first, so a picture with too many pixels is
refused before anything is allocated for it.
"""

# ruff: noqa: D102  (the base class has the docstrings)

from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
import orjson
from PIL import Image, PngImagePlugin

from handler import core_schema as cs
from handler.core_schema import PydanticCustomError, PydanticKnownError
from handler.feature_types import Array, FeatureType
from handler.manifest import Feature

FORMATS = ("JPEG", "PNG")
PNG, START_OF_PIXELS = b"\x89PNG\r\n\x1a\n", b"\xff\xda"
MAX_SEGMENTS = 5000  # libpng writes 8 kB a chunk
PngImagePlugin.MAX_TEXT_MEMORY = PngImagePlugin.MAX_TEXT_CHUNK  # of compressed comments: 1 MB
Image.MAX_IMAGE_PIXELS = None  # the contract has its own limit


def to_json_body(data: bytes, name: str) -> bytes:
    """Return the JSON of a request of one picture. `name`: of the feature."""
    text = b2a_base64(data, newline=False).decode()
    return orjson.dumps({"instances": [{name: text}]})


class Picture:
    """A decoded picture: `data` as it was sent, `array` [height, width, channels] as resized."""

    __slots__ = ("array", "brightness", "contrast", "data", "pixels")

    def __init__(self, data: bytes, pixels: int, array: Array) -> None:
        self.data, self.pixels, self.array = data, pixels, array
        self.brightness = float(array.mean()) / 255
        self.contrast = float(array.std()) / 255


def _check_segments(data: bytes) -> None:
    """Raise ValueError unless a file is segments of JPEG up to its pixels, or chunks of PNG.

    Pillow reads both in Python, byte by byte where they are broken: 4 MB would take 1.5 seconds.
    """
    is_png = data.startswith(PNG)
    position = len(PNG) if is_png else 2
    for _ in range(MAX_SEGMENTS):
        if is_png:
            if data[position + 4 : position + 8] == b"IEND":
                return
            position += 12 + int.from_bytes(data[position : position + 4])
            continue
        marker, length = data[position : position + 2], data[position + 2 : position + 4]
        if marker == START_OF_PIXELS:
            return
        if marker[:1] != b"\xff":
            break
        position += 1 if marker == b"\xff\xff" else 2 + int.from_bytes(length)  # a fill byte
    raise ValueError


class ImageType(FeatureType):
    """A JPEG or PNG picture, in JSON as base64."""

    name, tensor_kinds = "image", "O"
    is_encoded, has_json_form = True, True
    summaries = ("brightness", "contrast", "pixels")

    def __init__(self, feature: Feature, dtype: str) -> None:
        super().__init__(feature, dtype)
        if feature.image is None:
            raise TypeError
        self.encoding = feature.image
        self._filter = Image.Resampling[feature.image.filter.upper()]

    def schema(self) -> cs.CoreSchema:
        return cs.plain_function_schema(self.parse)

    def parse(self, value: Any) -> Picture:
        """Return the picture in base64 text or in bytes."""
        if isinstance(value, str):
            if len(value) > (self.encoding.max_bytes + 2) // 3 * 4:
                raise self._too_large()
            try:
                value = a2b_base64(value, strict_mode=True)
            except (Error, ValueError):
                raise PydanticCustomError("base64", "") from None
        if not isinstance(value, bytes):
            raise PydanticKnownError("string_type")
        if len(value) > self.encoding.max_bytes:
            raise self._too_large()
        try:
            _check_segments(value)
            with Image.open(BytesIO(value), formats=FORMATS) as image:
                pixels = image.width * image.height
                self._check_pixels(pixels)
                array = np.asarray(self._resize(image))
        except PydanticCustomError:
            raise
        except Exception:  # Pillow raises ten kinds for a broken picture
            raise PydanticCustomError("picture", "") from None
        return Picture(value, pixels, array.reshape(*self.encoding.size, -1))

    def _too_large(self) -> PydanticCustomError:
        return PydanticCustomError("picture_bytes", "", {"max_length": self.encoding.max_bytes})

    def _check_pixels(self, count: int) -> None:
        if count > self.encoding.max_pixels:
            limit = {"max_length": self.encoding.max_pixels}
            raise PydanticCustomError("picture_pixels", "", limit)

    def _resize(self, image: Image.Image) -> Image.Image:
        """Return the picture in the mode and the size of the contract, as torchvision does."""
        (height, width), side = self.encoding.size, self.encoding.resize
        if self.encoding.exif_orientation:
            from PIL import ImageOps

            image = ImageOps.exif_transpose(image)
        if image.mode != self.encoding.mode:  # or else it would be copied
            image = image.convert(self.encoding.mode)
        if side is None:
            return image.resize((width, height), self._filter)
        shorter = min(image.size)
        scaled = [side if n == shorter else int(side * n / shorter) for n in image.size]
        self._check_pixels(scaled[0] * scaled[1])  # of a very long picture
        image = image.resize((scaled[0], scaled[1]), self._filter)
        left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def to_json(self, value: Any) -> Any:
        return b2a_base64(value.data, newline=False).decode()

    def encode(self, values: Iterable[Any]) -> dict[str, Array]:
        pictures = [v if type(v) is Picture else self.parse(v) for v in values]
        return {self.encoding.input: np.stack([picture.array for picture in pictures])}

    def parse_cell(self, cell: str) -> Any:
        return cell
