"""Finds the face of a clip: one square for all frames, around the largest face.

The detector is either OpenCV's frontal-face cascade (Viola and Jones 2001, CVPR; needs the extra `faces`), or an ONNX
model (needs the extra `onnx`) with

- one input (1, 3, H, W), float32, RGB from 0 to 1. Frames are resized to H × W without keeping their aspect; if the
  model leaves H and W open, they keep their size.
- two outputs: `boxes` (N, 4) with x1, y1, x2, y2 from 0 to 1 of the frame's width and height, and `scores` (N,).
  Outputs with other names are used in that order. Boxes with a score below 0.5 are ignored.
"""

import threading
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emorec.errors import UserError
from emorec.media.resizing import Frames, resized
from emorec.storage.digests import FileDigests

NO_FACES, HAAR = "none", "haar"
CASCADE = "haarcascade_frontalface_alt2.xml"
SMALLEST_FACE = 0.08  # share of the frame's shorter side; smaller faces are in the background
LEAST_SCORE = 0.5

Boxes = NDArray[np.float64]  # (N, 4): x1, y1, x2, y2, pixels
Detector = Callable[[Frames], Boxes]

_lock = threading.Lock()
_digests = FileDigests()
_local = threading.local()  # a cascade is not thread-safe: each thread has its own


class FaceMisses:
    """Counts clips in which no face was found, and which were therefore cut from the middle. It is thread-safe."""

    def __init__(self) -> None:
        self._clips: deque[None] = deque()  # unlike a lock it can be copied with its encoder

    def add(self) -> None:
        """Counts one clip."""
        self._clips.append(None)

    def take(self) -> int:
        """The number of clips since the last call."""
        count = len(self._clips)
        for _ in range(count):
            self._clips.popleft()
        return count


def face_identity(faces: str, where: str) -> dict[str, str]:
    """What identifies a detector: the name of the cascade, or the sha256 of the model's file; its path does not count.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    return {"cascade": CASCADE} if faces == HAAR else {"onnx": _model(faces, where)[1]}


def _model(faces: str, where: str) -> tuple[str, str]:
    """Path and sha256 of a model's file, which is hashed again only where it changed."""
    path = Path(faces).expanduser()
    try:
        return str(path), _digests.digest(path)
    except OSError as error:
        raise UserError(f"expected {where} to be a file that can be read, got {path}: {error.strerror}") from error


def find_face(frames: Frames, faces: str, margin: float, where: str) -> tuple[int, int, int] | None:
    """The square around the face of a clip (N, H, W, 3): top, left and side, pixels; `None` where no frame shows one.

    The largest face of each frame counts. The square's centre and size are the medians of theirs, so it does not move
    during the clip, and frames without a face or with a wrong detection hardly change it. A share `margin` of the size
    is added on each side.

    Raises:
        UserError: the detector is not installed or missing, or the model has other inputs or outputs.
    """
    detect = _haar(where) if faces == HAAR else _onnx(*_model(faces, where), where)
    faces_found = []  # (x, y, size) of the frames that show one
    for frame in frames:
        boxes = detect(frame)
        widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        if len(boxes):
            largest = int(np.argmax(widths * heights))
            middle = (boxes[largest, :2] + boxes[largest, 2:]) / 2  # x, y
            faces_found.append((*middle, max(widths[largest], heights[largest])))
    if not faces_found:
        return None
    height, width = frames.shape[1:3]
    x, y, size = np.median(np.array(faces_found), axis=0)
    side = max(1, min(round(size * (1 + 2 * margin)), height, width))
    top, left = (round(min(max(at - side / 2, 0), limit - side)) for at, limit in ((y, height), (x, width)))
    return top, left, side


def _haar(where: str) -> Detector:
    if not hasattr(_local, "cascade"):
        with _lock:  # while another thread imports OpenCV, it is not complete
            _local.cascade = _loaded_cascade(where)
    cascade = _local.cascade

    def detect(frame: Frames) -> Boxes:
        import cv2

        smallest = max(24, round(SMALLEST_FACE * min(frame.shape[:2])))  # the cascade was trained on 20 pixels
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        detections = cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=4, minSize=(smallest, smallest))
        boxes = np.array(sorted(map(tuple, detections)), np.float64).reshape(-1, 4)  # x, y, width, height
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)

    return detect


def _loaded_cascade(where: str) -> Any:
    advice = "install emorec with its extra: pip install 'emorec[faces]'"
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"expected the package opencv-python-headless 4 for {where}=haar, got none; {advice}"
        ) from error
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    if not hasattr(cv2, "CascadeClassifier") or not Path(folder, CASCADE).is_file():
        raise UserError(
            f"expected opencv-python-headless 4, with its cascades, for {where}=haar, "
            f"got OpenCV {cv2.__version__} without {CASCADE}; {advice}"
        )
    return cv2.CascadeClassifier(str(Path(folder, CASCADE)))


def _onnx(path: str, digest: str, where: str) -> Detector:
    with _lock:  # all threads share one session
        session = _session(path, digest, where)
    given, names = session.get_inputs()[0], [output.name for output in session.get_outputs()]
    outputs = ["boxes", "scores"] if {"boxes", "scores"} <= set(names) else names[:2]
    fixed = [length if isinstance(length, int) else 0 for length in given.shape[2:]]

    def detect(frame: Frames) -> Boxes:
        height, width = frame.shape[:2]
        wanted = fixed[0] or height, fixed[1] or width
        picture = frame if wanted == (height, width) else resized(frame[None], wanted)[0]
        pixels = picture.transpose(2, 0, 1)[None].astype(np.float32) / 255  # (1, 3, H, W)
        try:
            boxes, scores = session.run(outputs, {given.name: pixels})
        except _onnx_errors() as error:
            raise UserError(f"expected the detector {path} ({where}) to take {pixels.shape}: {error}") from error
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
            raise UserError(
                f"expected boxes (N, 4) and scores (N,) of the detector {path} ({where}), "
                f"got {boxes.shape} and {scores.shape}"
            )
        kept = boxes[(scores >= LEAST_SCORE) & np.isfinite(boxes).all(axis=1)].astype(np.float64).clip(0, 1)
        kept = kept[(kept[:, 2:] > kept[:, :2]).all(axis=1)]
        return np.asarray(kept * (width, height, width, height), np.float64)

    return detect


def _onnx_errors() -> tuple[type[Exception], ...]:
    """The errors of onnxruntime; they have no common base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return tuple(getattr(state, name) for name in (*names, "RuntimeException"))


@lru_cache(maxsize=4)
def _session(path: str, digest: str, where: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"expected the package onnxruntime for {where}={path}, got none; "
            "install emorec with its extra: pip install 'emorec[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # several threads read media at once
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except _onnx_errors() as error:
        raise UserError(f"expected {where} to be an ONNX model, got {path}: {error}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)" or len(outputs) < 2:
        raise UserError(
            f"expected a detector with one float input (1, 3, H, W) and the outputs boxes and scores at {where}, got "
            f"inputs {[(item.name, item.type, item.shape) for item in inputs]} and outputs "
            f"{[item.name for item in outputs]} of {path}"
        )
    return session
