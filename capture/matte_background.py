"""What is behind the person: learnt from the clip as a whole, where the camera stands still.

A pixel that shows the background in some frames tells its colour in all of them. Where a frame shows
that colour it is background, whatever the segmenter says (it leaks into what looks like skin);
where it shows another, the person covers it (it cuts holes); and at the person's edge the pixel
lies between the two, which gives hair its coverage. What never moves gets one label for
the whole clip instead of one in each frame, so nothing that stands still flickers.

Where the camera moves, colours of one pixel disagree between frames: such a pixel is not known, and
the segmenter decides alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from capture.matte import LIMIT, log_odds, probability_of
from capture.matte_border import largest_channel

SAMPLES = 32
"""Frames that the background is learnt from, spread over the clip: their pictures are the memory
it costs (24 MiB), whatever the clip's length."""

SURE = 0.12
"""A probability of person under which a pixel and its surroundings may show the background."""

SEEN = 3
"""Frames in which a pixel must have shown its colour."""

_NOISE = 2.0
"""Least standard deviation of a still pixel, levels of 255: rounding and compression."""

_NOISY = 5.0
"""Most of it in a picture that is taken to stand still: more is a moving camera or flickering light."""

_ANY = -3 * float(np.log(256))
"""Log density of a colour of which nothing is known, per level^3."""

_BINS = 16
"""Levels a channel in the person's colour histogram."""


@dataclass(frozen=True)
class Background:
    """The still part of a clip; arrays have the ``matte_size``, [h, w], or half of it."""

    colour: np.ndarray
    """uint8 [h, w, 3] sRGB: what the pixel shows when the person does not cover it."""
    known: np.ndarray
    """uint8 [h, w], 1 where ``colour`` is known."""
    noise: float
    """Standard deviation of a still pixel, levels of 255."""
    still: np.ndarray
    """uint8 [h/2, w/2, 3]: the colours of what stands still, background or person."""
    label: np.ndarray
    """float32 [h/2, w/2] log odds of person of the still pixel; 0 where nothing stands still."""
    person: np.ndarray
    """float32 [_BINS ** 3] log density of the person's colours, per level^3."""

    @property
    def share(self) -> float:
        """Share of the picture of which the background is known."""
        return float(self.known.mean())

    def judge(self, image: np.ndarray, probability: np.ndarray) -> np.ndarray:
        """Correct a frame's probability of person by what its colours say; float32 [h/2, w/2].

        Args:
            image: uint8 [., ., 3] sRGB, of any size.
            probability: float32 [., .] in [0, 1]: what the segmenter says.
        """
        shape = self.label.shape[::-1]
        if (image.shape[1], image.shape[0]) != shape:
            image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
            probability = cv2.resize(probability, shape, interpolation=cv2.INTER_LINEAR)
        odds = log_odds(probability)
        away = cv2.absdiff(image, self.still).astype(np.float32)
        # The tail of noise and compression is wider than a normal distribution's.
        scale = 2.0 * self.noise
        squared = np.einsum("hwc,hwc->hw", away, away) / scale**2
        # What it would be instead: the person before a wall, but anything behind a shoulder.
        other = np.where(self.label > 0, _ANY, self.person[_bin_of(image)])
        other += 3.0 * np.log(scale * np.sqrt(2 * np.pi))
        # A single pixel of a face may by chance be coloured like what is behind it, a patch of its
        # texture hardly: the still thing shows where all about the pixel does, and it is covered
        # where nothing about the pixel shows.
        ratio = (
            0.5 * (-0.5 * change(squared, np.ones((3, 3), np.uint8)) - other)
            for change in (cv2.dilate, cv2.erode)
        )
        shows, covers = (sign * one / LIMIT for sign, one in zip((1, -1), ratio, strict=True))
        shows = np.clip(shows, 0, 1) * np.minimum(np.abs(self.label) / 0.75, 1)
        # The label was voted on by all frames: it replaces this one's opinion.
        result = odds + shows * (np.clip(2 * self.label, -LIMIT, LIMIT) - odds)
        # A shadow covers too, so this says half as much.
        return probability_of(result + 0.5 * np.clip(covers, 0, 1) * np.maximum(-self.label, 0))


def learn_background(
    picture: Callable[[int], np.ndarray],
    probability: Callable[[np.ndarray], np.ndarray],
    frames: int,
    size: tuple[int, int],
) -> Background | None:
    """Learn what stands still behind the person.

    Args:
        picture: gives a frame, uint8 [H, W, 3] sRGB.
        probability: gives a picture's probability of person, float32 [., .] in [0, 1].
        frames: of the clip.
        size: width and height to work at, pixels.

    Returns:
        None where too few frames or too little that stands still make it worthless.
    """
    if frames < 2 * SEEN:
        return None
    chosen = np.unique(np.linspace(0, frames - 1, min(SAMPLES, frames)).round().astype(int))
    half = (size[0] // 2, size[1] // 2)
    colours = np.empty((len(chosen), size[1], size[0], 3), np.uint8)
    odds = np.empty((len(chosen), half[1], half[0]), np.float32)
    for k, frame in enumerate(chosen):
        image = picture(int(frame))
        colours[k] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        found = cv2.resize(probability(image), half, interpolation=cv2.INTER_LINEAR)
        odds[k] = log_odds(found)
    return background_of(colours, odds)


def background_of(colours: np.ndarray, odds: np.ndarray) -> Background | None:
    """Make the model of pictures, uint8 [K, h, w, 3], and log odds of person [K, h/2, w/2]."""
    count, height, width = colours.shape[:3]
    behind = np.stack([_away_from_person(one, (width, height)) for one in odds])
    seen = behind.sum(0)
    median, spread = _median_and_spread(colours, behind)
    often = seen >= max(SEEN, count // 2)
    if often.mean() < 0.05:
        return None
    noise = max(_NOISE, float(np.median(spread[often])))
    steady = (seen >= SEEN) & (spread < 3 * noise)
    if noise > _NOISY or (steady & often).sum() < 0.6 * often.sum():
        return None  # the camera moves, or the light does
    half = (width // 2, height // 2)
    cells = np.stack([cv2.resize(one, half, interpolation=cv2.INTER_AREA) for one in colours])
    # Elsewhere what stands still may be the person, or background that is taken for it.
    usual, usual_spread = _median_and_spread(cells, np.ones(odds.shape, bool))
    still = np.where(steady[..., None], median, cv2.resize(usual, (width, height)))
    at_rest = steady | (cv2.resize(usual_spread, (width, height)) < 3 * noise)
    small = cv2.resize(still, half, interpolation=cv2.INTER_AREA)
    votes = _vote(cells, odds, small, noise)
    person, other = _colour_densities(cells, odds, votes, small, noise)
    label = _label(votes, small, person - other)
    label *= cv2.resize(at_rest.astype(np.float32), half, interpolation=cv2.INTER_AREA)
    outside = cv2.resize(label, (width, height), interpolation=cv2.INTER_LINEAR) < -0.5
    # What was never surely seen without the person must be clear of it: a label is a cell wide.
    clear = cv2.dilate((~outside).astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    return Background(
        colour=still,
        known=((steady & outside) | (at_rest & clear)).astype(np.uint8),
        noise=noise,
        still=small,
        label=label,
        person=person,
    )


def _away_from_person(odds: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where a frame surely shows background, bool [h, w]: no person within a few cells."""
    near = cv2.dilate(odds, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    return cv2.resize(near, size, interpolation=cv2.INTER_LINEAR) < np.log(SURE / (1 - SURE))


def _median_and_spread(colours: np.ndarray, take: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median, uint8 [h, w, 3], and standard deviation from quartiles, float32 [h, w], of the taken
    frames (bool [K, h, w]); of no frame where none is taken."""
    median = np.empty(colours.shape[1:], np.uint8)
    spread = np.empty(colours.shape[1:3], np.float32)
    for row in range(0, len(median), 32):  # bands: a copy of all pictures is not needed
        part = np.s_[row : row + 32]
        values = np.where(take[:, part, :, None], colours[:, part], np.uint8(255))
        values.sort(axis=0)  # what is not taken goes to the end
        last = np.maximum(take[:, part].sum(0) - 1, 0)[None, ..., None]
        low, middle, high = (
            np.take_along_axis(values, (last * share).astype(np.int64), 0)[0]
            for share in (0.25, 0.5, 0.75)
        )
        median[part] = middle
        spread[part] = (high.astype(np.float32) - low).mean(-1) / 1.35
    return median, spread


@dataclass(frozen=True)
class _Votes:
    """What the frames say of what stands still; arrays are [h/2, w/2]."""

    mean: np.ndarray
    """float32: log odds of person, mean over the frames that show the still colour."""
    enough: np.ndarray
    """bool: at least SEEN frames show it."""


def _same(image: np.ndarray, still: np.ndarray, noise: float) -> np.ndarray:
    """Where a picture shows the still colour, bool."""
    return largest_channel(cv2.absdiff(image, still)) < 4 * noise + 4


def _vote(small: np.ndarray, odds: np.ndarray, still: np.ndarray, noise: float) -> _Votes:
    total = np.zeros(odds.shape[1:], np.float32)
    votes = np.zeros(odds.shape[1:], np.float32)
    for image, odd in zip(small, odds, strict=True):
        same = _same(image, still, noise).astype(np.float32)
        total += same * odd
        votes += same
    return _Votes(total / np.maximum(votes, 1), votes >= SEEN)


def _label(votes: _Votes, still: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Log odds of person [h/2, w/2] of what stands still, from all frames that show it.

    A leak that comes and goes, and a shoulder that drops out, are outvoted by the other frames.
    Where the vote is close, the colour decides: the background's own or the person's.
    """
    certain = (votes.mean / LIMIT) ** 2
    # Doubtful pixels decide together with the doubtful ones around them: single ones may look like
    # either, and it is regions that leak or drop out.
    doubt = np.where(votes.enough, 1 - certain, 0).astype(np.float32)
    sigma = 0.03 * float(np.sqrt(doubt.size))
    ratios = np.clip(ratio[_bin_of(still)], -LIMIT, LIMIT)
    around = cv2.GaussianBlur(doubt * ratios, (0, 0), sigma)
    colour = around / (cv2.GaussianBlur(doubt, (0, 0), sigma) + 1e-3)
    label = certain * votes.mean + (1 - certain) * colour
    return np.where(votes.enough, label, 0).astype(np.float32)


def _bin_of(image: np.ndarray) -> np.ndarray:
    step = 256 // _BINS
    index = (image // step).astype(np.int32)
    return (index[..., 0] * _BINS + index[..., 1]) * _BINS + index[..., 2]


def _colour_densities(
    small: np.ndarray, odds: np.ndarray, votes: _Votes, still: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Log density, float32 [_BINS ** 3] per level^3, of the colours that are surely the person's
    and of those that are surely the background's."""
    counts = np.zeros((2, _BINS**3))
    doubted = votes.enough & (np.abs(votes.mean) < 3)
    for image, odd in zip(small, odds, strict=True):
        bins = _bin_of(image)
        clear = ~(doubted & _same(image, still, noise))
        for row, where in zip(counts, (odd > 3, odd < -3), strict=True):
            row += np.bincount(bins[where & clear], minlength=_BINS**3)
    share = counts.reshape(2, _BINS, _BINS, _BINS)
    for axis in (1, 2, 3):  # neighbouring bins are like colours
        share = 0.5 * share + 0.25 * (np.roll(share, 1, axis) + np.roll(share, -1, axis))
    share = share.reshape(2, -1) / np.maximum(counts.sum(1), 1)[:, None]
    # One colour in ten is unforeseen: any.
    density = np.log((0.9 * share + 0.1 / _BINS**3) / (256 / _BINS) ** 3).astype(np.float32)
    return density[0], density[1]
