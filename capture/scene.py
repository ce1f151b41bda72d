"""What is told from whole pictures: cuts to another scene, and clips in which nothing moves."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np

CUT_SIDE = 32
"""Cells a side of the thumbnails in which cuts are looked for."""

CUT_LEVELS = 15.0
"""A cut changes the thumbnail by this mean number of grey levels at least. A hand-held phone, a person
who moves quickly, or a fade stay under 9 from one frame to the next."""

CUT_REACH = 2
"""Cells by which the picture may move between two frames, as a hand shakes a phone: a sixteenth of it."""

CUT_RATIO = 4.0
"""A cut changes the thumbnail so many times more than the frames before it: a fast pan does not."""

STILL_SIDE = 64
"""Cells a side of the thumbnails in which motion is looked for: averages over a cell keep a moving
edge and lose noise."""

STILL_LEVELS = 20.0
"""A still picture's cells vary by less than so many grey levels over the whole clip: coarse compression
(x264 at crf 40, starting over every 10 frames) makes 18, a head that sways by a pixel makes 60."""

REPEATED_LEVELS = 0.2
"""Pictures that differ by less are one picture, repeated to fill a gap: they say nothing of motion."""


class SceneWatch:
    """Sees the pictures of a clip in order, and keeps two thumbnails, whatever the clip's length."""

    def __init__(self) -> None:
        """Start before the first picture."""
        self.cuts: list[int] = []
        """Frames with which another scene begins."""
        self._frames = 0
        self._before: np.ndarray | None = None
        self._changes: deque[float] = deque(maxlen=12)
        self._low: np.ndarray | None = None
        self._high: np.ndarray | None = None

    def add(self, image: np.ndarray) -> bool:
        """Take the next picture, uint8 [H, W, 3] sRGB; return whether another scene begins with it."""
        # Every n-th pixel of a large picture is plenty: 4 x 4 or more of them make a cell.
        step = max(1, min(image.shape[:2]) // (4 * STILL_SIDE))
        grey = cv2.cvtColor(np.ascontiguousarray(image[::step, ::step]), cv2.COLOR_RGB2GRAY)
        fine = cv2.resize(grey, (STILL_SIDE, STILL_SIDE), interpolation=cv2.INTER_AREA)
        fine = fine.astype(np.float32)
        self._low = fine if self._low is None else np.minimum(self._low, fine)
        self._high = fine if self._high is None else np.maximum(self._high, fine)
        coarse = cv2.resize(fine, (CUT_SIDE, CUT_SIDE), interpolation=cv2.INTER_AREA)
        cut = False
        if self._before is not None:
            change = _change(self._before, coarse)
            usual = float(np.median(self._changes)) if self._changes else 0.0
            cut = change > CUT_LEVELS and change > CUT_RATIO * usual
            if cut:
                self.cuts.append(self._frames)
                self._changes.clear()
            elif change > REPEATED_LEVELS:
                self._changes.append(change)
        self._before = coarse
        self._frames += 1
        return cut

    @property
    def motion_levels(self) -> float:
        """How many grey levels the cells that change most (1 in 200) change over the whole clip."""
        if self._low is None or self._high is None:
            return 0.0
        return float(np.percentile(self._high - self._low, 99.5))


def _change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean difference of two thumbnails, grey levels, where they match best if one is moved."""
    reach, side = CUT_REACH, CUT_SIDE - 2 * CUT_REACH
    middle = before[reach:-reach, reach:-reach]
    return min(
        float(np.abs(middle - after[y : y + side, x : x + side]).mean())
        for y in range(2 * reach + 1)
        for x in range(2 * reach + 1)
    )
