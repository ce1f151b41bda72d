"""Video to capture folder: ingest, landmarks, matte, track, report; resumable after every stage."""

from __future__ import annotations

import hashlib
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from avatar.capture_data import CAPTURE_FORMAT, CAPTURE_VERSION, Capture, Landmarks, Splits, Track
from avatar.checks import InputError
from avatar.tensorfile import write_json
from avatar.types import Progress, Reporter, ignore_progress
from capture.ingest import (
    MIN_FRAMES,
    ClipInfo,
    IngestConfig,
    extract_audio,
    open_video,
    probe,
    read_frames,
)
from capture.landmarks import FaceDetector, PersonFollower
from capture.matte import Segmenter, refine

STAGES_FORMAT = "headsplat.capture-stages"
STAGES_VERSION = 1
STAGES_FILE = "stages.json"

JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip
"""Full chroma: lips and irises are what halved chroma smears."""

T = TypeVar("T")


@dataclass(frozen=True)
class CaptureConfig:
    """How a clip becomes a capture."""

    max_side: int = 1280
    """Longer side of the stored frames in pixels; larger pictures are scaled down, never up."""
    max_fps: float = 45.0
    """Clips of a higher rate are thinned by the smallest whole number that brings them under it:
    50 and 60 frames/s become 25 and 30."""
    max_frames: int | None = None
    """Keep only so many frames from the start of the clip; None keeps all."""
    mask: Path | None = None
    """A clip of the person's mask (white on black), as many pictures as the video; None makes the
    mask from the video."""
    overwrite: bool = False
    """Replace a capture of another video in the same folder instead of refusing."""

    @property
    def ingest(self) -> IngestConfig:
        """The part that decides the frames."""
        return IngestConfig(self.max_side, self.max_fps, self.max_frames)
