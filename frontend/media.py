"""Pictures and films as base64 text, the form in which `/generate` takes them."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

from frontend.errors import ProgramError


def image_as_base64(source: Any) -> str:
    """`source` is a path, the bytes of a file, or an object with PIL's `save`. Raises `ProgramError` for others."""
    if isinstance(source, str | Path):
        return _encoded(Path(source).read_bytes())
    if isinstance(source, bytes):
        return _encoded(source)
    if not hasattr(source, "save"):
        raise ProgramError(f"an image must be a path, bytes or a PIL image, not {type(source).__name__}")
    buffer = BytesIO()
    source.save(buffer, format="PNG")
    return _encoded(buffer.getvalue())


def video_as_base64(path: str, num_frames: int) -> str:
    """`num_frames` frames as PNG files behind each other, marked as SGLang marks them. Needs OpenCV."""
    return "video:" + _encoded(b"".join(_frames(path, num_frames)))


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _frames(path: str, num_frames: int) -> list[bytes]:
    try:
        import cv2
    except ImportError as error:
        raise ProgramError("video needs OpenCV: pip install opencv-python-headless") from error
    film = cv2.VideoCapture(path)
    try:
        frames = list(iter(lambda: film.read()[1], None))
    finally:
        film.release()
    if not frames:
        raise ProgramError(f"no film can be read from {path}")
    chosen = [frames[index] for index in evenly_spaced(len(frames), num_frames)]
    return [cv2.imencode(".png", frame)[1].tobytes() for frame in chosen]


def evenly_spaced(num_items: int, num_wanted: int) -> list[int]:
    """Indices from the first to the last; some of them twice if there are not enough."""
    if num_wanted < 2:
        return [0] * num_wanted
    return [index * (num_items - 1) // (num_wanted - 1) for index in range(num_wanted)]
