"""How far a capture's masks are from the true ones: overlap, edges, leaks, cuts and flicker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatar.checks import InputError
from capture.ingest import ClipInfo, read_frames

BAND_AT_512 = 6.0
"""Half width, pixels of a picture of 512 x 512, of the band about the true outline in which the
boundary error is measured."""

MARGIN = 6
"""Levels of 255 by which a clip's encoding may miss black and white: a truth within them counts as
0 or 255, or every pixel of the person would add an error of a percent."""

WORST = 5
"""Frames named as the worst."""


@dataclass(frozen=True)
class MatteScore:
    """Errors of a clip's masks; masks count as coverage in [0, 1]. All but ``iou``: less is better."""

    frames: int
    """Frames compared."""
    iou: float
    """Sum of pixelwise minima over sum of maxima, mean over frames: overlap of soft masks."""
    error: float
    """Mean absolute error over all pixels."""
    boundary: float
    """Mean absolute error within BAND_AT_512 pixels (of a 512 x 512 picture) of the true outline."""
    leak: float
    """Share of the background, by area, that is counted as person."""
    cut: float
    """Share of the person, by area, that is lost."""
    flicker: float
    """Mean over all pixels of how much the error (mask minus truth) changes from one frame to the
    next; 0 where only single frames were given."""
    worst: tuple[tuple[int, float], ...]
    """The frames of the lowest overlap, and that overlap; the worst one first."""

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name, for a report or a file."""
        return asdict(self)

    def __str__(self) -> str:
        worst = " ".join(f"{frame}:{iou:.3f}" for frame, iou in self.worst)
        return (
            f"IoU {self.iou:.4f}  MAE {self.error:.4f}  boundary {self.boundary:.4f}  "
            f"leak {100 * self.leak:.2f} %  cut {100 * self.cut:.2f} %  "
            f"flicker {1000 * self.flicker:.2f}e-3  worst {worst}"
        )


def score_masks(
    triples: Iterable[tuple[int, np.ndarray, np.ndarray]],
) -> MatteScore:
    """Compare masks with the truth.

    Args:
        triples: frame number, mask and truth, both uint8 [H, W], 255 on the person; in order of
            time. Flicker is measured between frames whose numbers follow each other.

    Raises:
        InputError: no frames, or a mask and its truth differ in size.
    """
    rows: list[tuple[float, float, float, float, float]] = []
    numbers: list[int] = []
    flicker: list[float] = []
    before: tuple[int, np.ndarray] | None = None
    for frame, mask, truth in triples:
        if mask.shape != truth.shape:
            raise InputError(
                f"Frame {frame}: the mask is {mask.shape[1]}x{mask.shape[0]}, the true one "
                f"{truth.shape[1]}x{truth.shape[0]}. Both need one size."
            )
        truth = _without_margin(truth)
        error = mask.astype(np.int16) - truth
        rows.append(_row(mask, truth, error))
        numbers.append(frame)
        if before is not None and before[0] == frame - 1:
            flicker.append(float(np.abs(error - before[1]).mean()) / 255)
        before = frame, error
    if not rows:
        raise InputError("No frames to compare: the masks or the true ones are empty.")
    iou, mae, boundary, leak, cut = np.array(rows).T
    order = np.argsort(iou)[:WORST]
    return MatteScore(
        frames=len(rows),
        iou=float(iou.mean()),
        error=float(mae.mean()),
        # A frame that is all person or all background has no outline.
        boundary=float(np.nanmean(boundary)) if np.isfinite(boundary).any() else 0.0,
        leak=float(leak.mean()),
        cut=float(cut.mean()),
        flicker=float(np.mean(flicker)) if flicker else 0.0,
        worst=tuple((numbers[i], float(iou[i])) for i in order),
    )


def score_capture(masks: Path, truth: ClipInfo, frames: Sequence[int] | None = None) -> MatteScore:
    """Score a folder of masks against a clip of the true ones.

    Args:
        masks: the folder with ``000000.png`` and so on.
        truth: the clip of true masks, white on black, at the capture's rate (``ingest.probe``).
        frames: only these, in order; None takes every frame of the clip.

    Raises:
        InputError: a mask is missing or unreadable, or sizes differ.
    """

    def triples() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        wanted = None if frames is None else set(frames)
        last = truth.frames - 1 if wanted is None else max(wanted, default=-1)
        for frame, picture in enumerate(read_frames(truth)):
            if frame > last:
                return
            if wanted is not None and frame not in wanted:
                continue
            path = masks / f"{frame:06d}.png"
            # OpenCV prints a warning of its own for a file that is not there.
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
            if mask is None:
                raise InputError(
                    f"{path} is missing or cannot be read. The true masks are those of another "
                    f"clip, or the capture is not finished: run avatar capture again."
                )
            yield frame, mask, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)

    return score_masks(triples())


def _without_margin(truth: np.ndarray) -> np.ndarray:
    """Stretch a compressed clip's truth so that almost black is 0 and almost white 255."""
    level = (truth.astype(np.float32) - MARGIN) * (255 / (255 - 2 * MARGIN))
    return np.round(np.clip(level, 0, 255)).astype(np.uint8)


def _row(
    mask: np.ndarray, truth: np.ndarray, error: np.ndarray
) -> tuple[float, float, float, float, float]:
    """Overlap, error, boundary error (NaN without outline), leak and cut of one frame."""
    absolute = np.abs(error)
    union = float(np.maximum(mask, truth).sum(dtype=np.int64))
    both = float(np.minimum(mask, truth).sum(dtype=np.int64))
    person = float(truth.sum(dtype=np.int64))
    background = 255.0 * truth.size - person
    solid = (truth > 127).astype(np.uint8)
    reach = BAND_AT_512 * float(np.sqrt(truth.size)) / 512
    inside = cv2.distanceTransform(solid, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - solid, cv2.DIST_L2, 5)
    band = (inside <= reach) & (outside <= reach)
    has_outline = bool(solid.any()) and not bool(solid.all())
    return (
        both / union if union else 1.0,
        float(absolute.mean()) / 255,
        float(absolute[band].mean()) / 255 if has_outline else float("nan"),
        float(np.maximum(error, 0).sum(dtype=np.int64)) / background if background else 0.0,
        float(np.maximum(-error, 0).sum(dtype=np.int64)) / person if person else 0.0,
    )
