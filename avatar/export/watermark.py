"""An invisible mark in exported pictures, found again after compression, scaling and cropping.

A spread-spectrum mark (Cox et al., "Secure Spread Spectrum Watermarking for Multimedia", IEEE Transactions
on Image Processing 6(12), 1997): a fixed tile of 32 x 32 chips, each +1 or -1 and 4 x 4 pixels large, repeats
over the picture and is added to its brightness, stronger where the picture is busy and not at all where it is
flat, so that a white background stays white. A third of the chips is the same in every picture (the pilot:
presence, and where the tile begins); the others carry 48 bits in six symbols of eight, each the index of one
of 256 sign sequences: 4 bits of version, 32 of the avatar's fingerprint, 12 of a checksum.

The detector takes from each cell what its neighbours do not explain, evens out its strength, adds up frames
and tiles and correlates with the pilot. The statistic is t = <c, x> / |x| with the pilot's signs c and the
picture's responses x. Whatever the picture, as long as it was made without knowledge of the signs,
P(t >= u) <= exp(-u^2 / 2) (Hoeffding, "Probability Inequalities for Sums of Bounded Random Variables", 1963,
theorem 2), so that the chance of a false alarm is bounded by the number of places tried times that; for all
chips of a payload that was read, by that times the 2^32 payloads that might have been.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

VERSION = 1
"""Four bits in every mark; another arrangement of chips gets another number."""

FALSE_ALARM = 1e-6
"""Bound on the chance that an unmarked picture or video is taken for a marked one."""

CELL = 4
"""Side of a chip, pixels. Larger ones are lost in the picture's own detail, smaller ones in compression."""
SIDE = 32
"""Chips along the side of the tile."""
PILOT = 340
"""Chips of the tile that are the same in every picture."""
SYMBOLS, ALPHABET = 6, 256
PER_SYMBOL = (SIDE * SIDE - PILOT) // SYMBOLS

STRENGTH = 1.75
"""Amplitude for each grey level by which a cell differs from its neighbourhood."""
WEAKEST, STRONGEST = 1.0, 3.0
"""Limits of the amplitude, grey levels of 255, where the picture is not flat."""
WHITE = 252
"""Grey level from which on nothing is made darker: there a trace would be seen."""

FLAT = 0.05
"""Variance of brightness among neighbouring cells below which a place counts as flat."""

FRAMES = 48
"""Frames of a video that are looked at, spread over its length."""
SEARCH_FRAMES = 6
"""Frames with which scales and places are searched."""


def _random_bytes(purpose: str, count: int) -> np.ndarray:
    """Return bytes that are the same for ever, on every machine and library version."""
    digest = hashlib.shake_256(f"headsplat watermark {VERSION} {purpose}".encode()).digest(count)
    return np.frombuffer(digest, np.uint8)


def _signs(purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    bits = np.unpackbits(_random_bytes(purpose, -(-math.prod(shape) // 8)))[: math.prod(shape)]
    return (bits.astype(np.float32) * 2 - 1).reshape(shape)


_ORDER = np.argsort(_random_bytes("order", 8 * SIDE * SIDE).view("<u8"), kind="stable")
_PILOT_AT = _ORDER[:PILOT]
_SYMBOL_AT = _ORDER[PILOT : PILOT + SYMBOLS * PER_SYMBOL].reshape(SYMBOLS, PER_SYMBOL)
_PILOT_SIGNS = _signs("pilot", (PILOT,))
_CODEBOOK = _signs("symbols", (SYMBOLS, ALPHABET, PER_SYMBOL))


_PILOT_TILE = np.zeros(SIDE * SIDE, np.float32)
_PILOT_TILE[_PILOT_AT] = _PILOT_SIGNS
_PILOT_TILE = _PILOT_TILE.reshape(SIDE, SIDE)
_PILOT_SPECTRUM = np.conj(np.fft.rfft2(_PILOT_TILE))
_PILOT_MASK_SPECTRUM = np.conj(np.fft.rfft2(np.abs(_PILOT_TILE)))


def _symbols_of(avatar_id: int) -> list[int]:
    """Return the six symbols of a payload, checksum included."""
    body = bytes([VERSION]) + avatar_id.to_bytes(4, "big")
    number = VERSION << 44 | avatar_id << 12 | zlib.crc32(body) & 0xFFF
    return list(number.to_bytes(SYMBOLS, "big"))


def _signs_of(avatar_id: int) -> np.ndarray:
    """Return all chips of a mark [SIDE * SIDE]: 1, -1, and 0 for the few that are not used."""
    tile = _PILOT_TILE.ravel().copy()
    for places, book, symbol in zip(_SYMBOL_AT, _CODEBOOK, _symbols_of(avatar_id), strict=True):
        tile[places] = book[symbol]
    return tile


class Watermark:
    """Marks pictures of one avatar; may be used by one thread at a time."""

    def __init__(self, avatar_id: int) -> None:
        """Prepare the tile.

        Args:
            avatar_id: 0 to 2**32 - 1, for example the first eight digits of the avatar's fingerprint.
        """
        if not 0 <= avatar_id < 1 << 32:
            raise ValueError(f"avatar_id must lie in [0, 2**32); got {avatar_id}.")
        self.avatar_id = avatar_id
        self._tile = _signs_of(avatar_id).reshape(SIDE, SIDE)
        self._pattern = np.zeros((0, 0), np.float32)

    def mark(self, picture: np.ndarray) -> np.ndarray:
        """Return a marked copy of a picture, uint8 [H, W, 3] sRGB."""
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"a picture must be uint8 [H, W, 3]; got {picture.dtype} {list(picture.shape)}."
            )
        marked = picture.copy()
        rows, columns = picture.shape[0] // CELL, picture.shape[1] // CELL
        if not rows or not columns:
            return marked
        part = np.ascontiguousarray(picture[: rows * CELL, : columns * CELL])
        grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
        cells = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
        if self._pattern.shape != cells.shape:
            repeats = (-(-rows // SIDE), -(-columns // SIDE))
            self._pattern = np.ascontiguousarray(np.tile(self._tile, repeats)[:rows, :columns])
        change = cv2.multiply(_amplitude(cells), self._pattern)
        change = cv2.resize(change, part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        lighter = cv2.convertScaleAbs(cv2.threshold(change, 0, 0, cv2.THRESH_TOZERO)[1])
        darker = cv2.convertScaleAbs(cv2.threshold(change, 0, 0, cv2.THRESH_TOZERO_INV)[1])
        _, coloured = cv2.threshold(grey, WHITE - 1, 255, cv2.THRESH_BINARY_INV)
        darker = cv2.bitwise_and(darker, coloured)
        part = cv2.add(part, cv2.cvtColor(lighter, cv2.COLOR_GRAY2RGB))
        part = cv2.subtract(part, cv2.cvtColor(darker, cv2.COLOR_GRAY2RGB))
        marked[: rows * CELL, : columns * CELL] = part
        return marked


def _amplitude(cells: np.ndarray) -> np.ndarray:
    """Return how strongly each cell may be marked, grey levels; 0 where the picture is flat."""
    detail = cv2.blur(cv2.absdiff(cells, cv2.medianBlur(cells, 3)), (5, 5))
    amplitude = np.minimum(detail * STRENGTH + WEAKEST, STRONGEST)
    mean = cv2.blur(cells, (3, 3))
    variance = cv2.blur(cells * cells, (3, 3)) - mean * mean
    busy = cv2.erode((variance >= FLAT).astype(np.uint8), np.ones((3, 3), np.uint8))
    return amplitude * busy


@dataclass(frozen=True)
class Detection:
    """What was found of a mark."""

    found: bool
    """Whether there is one, with a chance of error below ``FALSE_ALARM``."""
    false_alarm: float
    """Bound on the chance that a picture without a mark looks as much like one, 1 at most."""
    avatar_id: int | None = None
    """The mark's payload; None where it is too weak to be read, or another version's. A wrong one passes
    the checksum about once in a hundred marks that are damaged beyond reading."""
    scale: float = 1.0
    """Size of the picture in relation to when it was marked."""


def detect(pictures: Sequence[np.ndarray]) -> Detection:
    """Look for a mark in a picture, or in frames of one video together.

    First where the mark would be in an untouched picture, then moved by any distance, then at sizes from
    half to one and a half as well. Each of the three may take a third of ``FALSE_ALARM``.

    Args:
        pictures: uint8 [H, W, 3] sRGB, all of one size; of a long video see ``spread``.
    """
    if not pictures or min(pictures[0].shape[:2]) < 2 * CELL:
        return Detection(False, 1.0)
    greys = [cv2.cvtColor(np.ascontiguousarray(p), cv2.COLOR_RGB2GRAY) for p in pictures]
    first = _correlate(_fold(greys, 1.0, 0, 0))
    best = _verdict(first, float(first.t[0, 0]), (0, 0), 1, 1.0)
    if best.found:
        return best
    phases = [(y, x) for y in range(CELL) for x in range(CELL)]
    for scales in ([1.0], _scales()):
        best = min(best, _search(greys, scales, phases), key=lambda d: (not d.found, d.false_alarm))
        if best.found:
            break
    return best


def spread(count: int, most: int = FRAMES) -> list[int]:
    """Return indices of at most ``most`` of ``count`` frames, evenly spread."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most))}) if count else []


def _scales() -> list[float]:
    """Return sizes to try: simple fractions, and steps of one percent between a half and one and a half."""
    steps = np.exp(np.arange(math.log(0.5), math.log(1.5), 0.01))
    simple = {a / b for b in range(2, 9) for a in range(1, 13) if 0.5 <= a / b <= 1.5}
    return sorted((simple | {float(s) for s in steps}) - {1.0})


@dataclass(frozen=True)
class _Correlation:
    folded: np.ndarray
    """[SIDE, SIDE] sum of the responses over tiles and frames."""
    t: np.ndarray
    """[SIDE, SIDE] statistic for the tile moved by so many cells."""


def _fold(greys: Sequence[np.ndarray], scale: float, dy: int, dx: int) -> np.ndarray:
    """Return the responses of all cells, added up over frames and tiles.

    Args:
        greys: uint8 [H, W].
        scale: size in relation to when the mark was made.
        dy: rows before the first whole cell, pixels of the picture as it was marked; ``dx`` likewise.
    """
    total = np.zeros((SIDE, SIDE), np.float32)
    top, left = round(dy * scale), round(dx * scale)
    for grey in greys:
        part = grey[top:, left:]
        if scale == 1.0:
            part = part[: len(part) // CELL * CELL, : part.shape[1] // CELL * CELL]
        factor = 1.0 / (CELL * scale)
        cells = cv2.resize(part, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        response = _response(cells.astype(np.float32))
        rows, columns = (-(-size // SIDE) * SIDE for size in response.shape)
        padded = np.zeros((rows, columns), np.float32)
        padded[: response.shape[0], : response.shape[1]] = response
        total += padded.reshape(rows // SIDE, SIDE, columns // SIDE, SIDE).sum((0, 2))
    return total


def _response(cells: np.ndarray) -> np.ndarray:
    """Return what its neighbours do not explain of each cell, of about equal strength everywhere."""
    rest = cells - cv2.medianBlur(cells, 3)
    level = np.sqrt(cv2.blur(rest * rest, (3, 3)))
    return np.clip(rest / (level + 0.2), -1.5, 1.5)


def _correlate(folded: np.ndarray) -> _Correlation:
    """Return t for every place at which the tile may begin."""
    product = np.fft.irfft2(np.fft.rfft2(folded) * _PILOT_SPECTRUM, s=folded.shape)
    energy = np.fft.irfft2(np.fft.rfft2(folded**2) * _PILOT_MASK_SPECTRUM, s=folded.shape)
    # Rounding of the transform must not make a large t of a flat picture.
    return _Correlation(folded, product / np.sqrt(np.maximum(energy, 1e-3)))


def _verdict(
    correlation: _Correlation, t: float, place: tuple[int, int], tests: int, scale: float
) -> Detection:
    """Bound the chance of a false alarm after ``tests`` tries, by the pilot and by all chips of a payload.

    A payload that all chips agree with is a mark where the pilot alone does not suffice, although any of
    2**32 would do.
    """
    # Three searches of two kinds, each with its share.
    bound = min(1.0, 6.0 * tests * math.exp(-(max(0.0, t) ** 2) / 2))
    chips = np.roll(correlation.folded, (-place[0], -place[1]), (0, 1)).ravel()
    avatar_id = _payload(chips)
    if avatar_id is not None:
        signs = _signs_of(avatar_id)
        t = float(signs @ chips / np.sqrt(max(1e-3, float((chips[signs != 0] ** 2).sum()))))
        bound = min(bound, 6.0 * tests * 2.0**32 * math.exp(-(max(0.0, t) ** 2) / 2))
    found = bound <= FALSE_ALARM
    return Detection(found, bound, avatar_id if found else None, scale)


def _search(
    greys: Sequence[np.ndarray], scales: Sequence[float], phases: Sequence[tuple[int, int]]
) -> Detection:
    """Try every size and place with few frames, then the best ones with all of them."""
    few = [greys[i] for i in spread(len(greys), SEARCH_FRAMES)]
    coarse = phases if len(scales) == 1 else [p for p in phases if not (p[0] % 2 or p[1] % 2)]
    tried = [
        (float(_correlate(_fold(few, scale, *phase)).t.max()), scale, phase)
        for scale in scales
        for phase in coarse
    ]
    tests = len(scales) * len(phases) * SIDE * SIDE
    best = Detection(False, 1.0)
    for _, scale, _ in heapq.nlargest(3, tried):
        for phase in phases:
            fine = _correlate(_fold(greys, scale, *phase))
            place = np.unravel_index(int(fine.t.argmax()), fine.t.shape)
            where = (int(place[0]), int(place[1]))
            found = _verdict(fine, float(fine.t.max()), where, tests, scale)
            best = min(best, found, key=lambda d: (d.false_alarm, d.avatar_id is None))
    return best


def _payload(chips: np.ndarray) -> int | None:
    """Read the avatar's id from chips in the tile's order: the likeliest symbols that pass the checksum."""
    options = []
    for places, book in zip(_SYMBOL_AT, _CODEBOOK, strict=True):
        scores = book @ chips[places]
        likely = np.argsort(-scores)[:3]
        options.append([(float(scores[likely[0]] - scores[i]), int(i)) for i in likely])
    ranked = sorted(
        (sum(loss for loss, _ in choice), bytes(symbol for _, symbol in choice))
        for choice in itertools.product(*options)
    )
    for _, symbols in ranked[:64]:
        number = int.from_bytes(symbols, "big")
        avatar_id = number >> 12 & 0xFFFFFFFF
        if list(symbols) == _symbols_of(avatar_id):
            return avatar_id
    return None
