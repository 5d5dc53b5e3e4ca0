"""Finds faces with MediaPipe's short-range BlazeFace: from an image file to boxes in fractions of its sides.

The model (arXiv 1907.05047) sees 128 x 128 pixels in -1 to 1 and judges 896 anchors. How its numbers are read follows
MediaPipe's `face_detection_short_range` graph: a box is an offset from its anchor in pixels of the input, and boxes
that overlap are merged, weighted by their score.
"""

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeagent.core.errors import EngineError, ModelFileError, RequestError
from edgeagent.execution.litert.network import Network

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Floats = NDArray[np.float32]

SIDE = 128
GRIDS = ((16, 2), (8, 6))
"""Cells a side, and anchors a cell, of the two feature maps (strides 8 and 16)."""
MIN_SCORE, MERGE_OVERLAP = 0.5, 0.3
LANDMARKS = ("right_eye", "left_eye", "nose_tip", "mouth", "right_ear", "left_ear")
"""The six points of a box, in the model's order; right and left are the person's own."""
MAX_PIXELS = 64 * 2**20
"""A small file can unpack to gigabytes."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """The square picture, and how much of its width and height the image fills, in the middle."""

    pixels: "Floats"
    width: float
    height: float


class FaceDetector:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._anchors = anchors()

    @classmethod
    def load(cls, model: str, delegate: str) -> "FaceDetector":
        """Raises EngineError, ModelFileError."""
        network = Network.load(model, delegate, 1)
        if network.input_shape != (1, SIDE, SIDE, 3):
            raise ModelFileError(f"{model} is another model (input {network.input_shape}); fetch the model again")
        return cls(network)

    def see(self, content: bytes, name: str) -> dict[str, object]:
        """`{faces, width, height}`, the surest face first. Raises RequestError, naming what is no image."""
        image = decode(content, name)
        square = letterbox(image)
        boxes, scores = self._network.outputs(square.pixels)
        found = merge(*candidates(boxes[0], scores[0, :, 0], self._anchors))
        faces = [_facts(points, score, square) for points, score in found]
        return {"faces": faces, "width": image.width, "height": image.height}


def decode(content: bytes, name: str) -> "Image":
    """The image in RGB, upright. Raises RequestError, and EngineError without Pillow."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise EngineError("images need Pillow; pip install 'edgeagent[perception]'") from None
    Image.MAX_IMAGE_PIXELS = None  # the limit here is an error before any pixel is read, not a warning
    try:
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise RequestError(f"{name} has {image.width} x {image.height} pixels; scale it down")
        return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise RequestError(f"{name} is no image; use JPEG or PNG") from None
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for broken files
        raise RequestError(f"{name} cannot be read as an image ({error}); make it anew") from None


def letterbox(image: "Image") -> Letterbox:
    """Scaled to fit the model's square, black around."""
    import numpy as np
    from PIL import Image

    scale = SIDE / max(image.size)
    width, height = (max(1, round(size * scale)) for size in image.size)
    square = Image.new("RGB", (SIDE, SIDE))
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((SIDE - width) // 2, (SIDE - height) // 2))
    pixels = np.asarray(square, np.float32) / 127.5 - 1
    return Letterbox(pixels, width / SIDE, height / SIDE)


def anchors() -> "Floats":
    """Centres `[896, 2]` in fractions of the square, row by row."""
    import numpy as np

    places = [
        ((x + 0.5) / cells, (y + 0.5) / cells)
        for cells, count in GRIDS
        for y in range(cells)
        for x in range(cells)
        for _ in range(count)
    ]
    return np.array(places, np.float32)


def candidates(boxes: "Floats", logits: "Floats", centres: "Floats") -> "tuple[Floats, Floats]":
    """Points `[n, 8, 2]` (two corners, six landmarks) and scores of the boxes that may be faces, the surest first."""
    import numpy as np

    sure = np.flatnonzero(logits >= math.log(MIN_SCORE / (1 - MIN_SCORE)))
    sure = sure[np.argsort(-logits[sure], kind="stable")]
    points = boxes[sure].reshape(-1, 8, 2) / SIDE
    centre, half = points[:, 0] + centres[sure], points[:, 1] / 2
    points[:, 2:] += centres[sure][:, None]
    points[:, 0], points[:, 1] = centre - half, centre + half
    is_box = (points[:, 1] > points[:, 0]).all(axis=1)
    scores = 1 / (1 + np.exp(-logits[sure].clip(-80, 80)))
    return points[is_box].astype(np.float32), scores[is_box].astype(np.float32)


def merge(points: "Floats", scores: "Floats") -> "list[tuple[Floats, float]]":
    """Boxes that overlap the surest one become one, at their weighted mean; then the rest likewise."""
    import numpy as np

    found: list[tuple[Floats, float]] = []
    while len(points):
        is_same = overlap(points, points[0]) > MERGE_OVERLAP
        is_same[0] = True
        found.append((np.average(points[is_same], axis=0, weights=scores[is_same]), float(scores[0])))
        points, scores = points[~is_same], scores[~is_same]
    return found


def overlap(points: "Floats", one: "Floats") -> "Floats":
    """Intersection over union of each box with `one`."""
    import numpy as np

    low, high = np.maximum(points[:, 0], one[0]), np.minimum(points[:, 1], one[1])
    shared = (high - low).clip(0).prod(axis=1)
    areas = (points[:, 1] - points[:, 0]).prod(axis=1)
    ratio: Floats = shared / (areas + (one[1] - one[0]).prod() - shared)
    return ratio


def _facts(points: "Floats", score: float, square: Letterbox) -> dict[str, object]:
    """Coordinates of the image itself: the black around is taken off."""
    inside = [
        (round(float((x - 0.5) / square.width + 0.5), 4), round(float((y - 0.5) / square.height + 0.5), 4))
        for x, y in points
    ]
    (left, top), (right, bottom) = inside[:2]
    box = {"left": left, "top": top, "right": right, "bottom": bottom}
    return box | {"probability": round(score, 4), "landmarks": dict(zip(LANDMARKS, inside[2:], strict=True))}
