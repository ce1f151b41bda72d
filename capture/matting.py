"""The matte stage: a mask for every frame, made from the pictures or taken from a given clip."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from avatar.capture_data import Landmarks
from avatar.checks import InputError
from avatar.types import Progress, Reporter
from capture.folder import Pictures, fresh_folder, write_image
from capture.ingest import ClipInfo, ends_whole, read_frames
from capture.matte import Segmenter, follow, refine, steady
from capture.matte_background import Background, learn_background
from capture.matte_border import matte_size
from capture.quality import FrameLook, look_at_face
from capture.threads import Writer, prefetched
from capture.timeline import Take, missing_of

LOOKS = 6
"""Looks of the segmenter at each picture that the background is learnt from: they are few, and a
mistake there goes into every frame."""


def make_masks(
    ingest: dict[str, Any],
    mask: ClipInfo | None,
    output: Path,
    report: Reporter,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, Any]:
    """Write a mask for every frame, and measure every frame's face while it is in memory.

    Args:
        ingest: values of the ingest stage, of one camera.
        mask: a clip of masks, as it is to be read.
        output: the capture folder.
        report: listener.
        change: what was done to each picture, and is to be done to each given mask of its size.

    Returns:
        ``looks``: each field of ``FrameLook`` as a list over frames. ``background``: the share of
        the picture of which the background is known; 0 where the camera moves, None where the mask
        was given. ``seconds``.
    """
    start = time.perf_counter()
    total: int = ingest["frames"]
    camera: int = ingest.get("camera", 0)
    missing = missing_of(ingest)
    there = [frame for frame in range(total) if frame not in missing]
    frames = len(there)
    size = (ingest["width"], ingest["height"])
    if mask is not None and mask.frames < frames:
        raise _short(mask, mask.frames, frames)
    folder = fresh_folder(output / "masks", camera)
    landmarks = Landmarks.load(output / f"landmarks{camera or ''}.safetensors")
    points, valid = landmarks.points.numpy(), landmarks.valid.numpy()
    pictures = Pictures(output, *size, camera)
    looks: list[FrameLook | None] = [None] * total

    backdrop: Background | None = None

    def finish(frame: int, image: np.ndarray, coarse: np.ndarray) -> None:
        face = points[frame] if valid[frame] else None
        soft = refine(image, coarse, face, backdrop) if mask is None else coarse
        write_image(folder / f"{frame:06d}.png", soft, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        looks[frame] = None if face is None else look_at_face(image, face)

    images = (pictures.frame(frame) for frame in there)
    with Writer() as writer:

        def hand_on(count: int, image: np.ndarray, coarse: np.ndarray) -> None:
            writer.put(finish, there[count], image, coarse)
            report(Progress("matte", count + 1, frames))

        if mask is None:
            with Segmenter() as segmenter:
                backdrop = learn_background(
                    lambda count: pictures.working(there[count])[0],
                    lambda image: segmenter(image, looks=LOOKS),
                    frames,
                    matte_size(*size),
                )
                _segment(segmenter, backdrop, images, hand_on)
        else:
            with prefetched(zip(images, read_frames(mask), strict=False)) as pairs:
                count = 0
                for count, (image, given) in enumerate(pairs, 1):
                    grey = cv2.cvtColor(given, cv2.COLOR_RGB2GRAY)
                    if (grey.shape[1], grey.shape[0]) != size:
                        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
                    grey = grey if change is None else change(grey)
                    hand_on(count - 1, image, grey)
            if count < frames:
                raise InputError(
                    f"{mask.path} is cut off: {count} of {frames} pictures could be read. "
                    f"A mask clip needs one picture for every frame of the video."
                )
    return {
        "looks": looks_of(looks),
        "background": None if mask is not None else backdrop.share if backdrop else 0.0,
        "seconds": {"matte": time.perf_counter() - start},
    }


def need_mask(mask: ClipInfo, clip: ClipInfo, take: Take | None = None) -> None:
    """Refuse a mask clip that is too short by what the two containers tell, before anything is made.

    Of a clip that is cut off, how many frames it has is known only once it was decoded: ``make_masks``
    looks then.

    Args:
        mask: the mask clip, as it was opened.
        clip: its video, as it was opened.
        take: the part of the video that is used; None for all of it.

    Raises:
        InputError: it is too short.
    """
    frames, given = clip.frames, mask.frames
    if take is not None:
        frames, given = take.frames, take.frames_in(mask)
    if given < frames and ends_whole(clip):
        raise _short(mask, given, frames)


def _short(mask: ClipInfo, given: int, frames: int) -> InputError:
    return InputError(
        f"{mask.path} has {given} pictures at the capture's rate, the video has {frames}. "
        f"A mask clip needs one picture for every frame of the video, at the same rate."
    )


def looks_of(looks: Sequence[FrameLook | None]) -> dict[str, list[float | None]]:
    """Return each field of ``FrameLook`` as a list over frames; None where there is no face."""
    return {
        field.name: [None if look is None else getattr(look, field.name) for look in looks]
        for field in fields(FrameLook)
    }


def _segment(
    segmenter: Segmenter,
    backdrop: Background | None,
    images: Iterable[np.ndarray],
    put: Callable[[int, np.ndarray, np.ndarray], None],
) -> None:
    """Hand each picture's number in ``images``, picture and steadied probability on; one frame behind."""

    def rough(image: np.ndarray) -> _Rough:
        probability = segmenter(image)
        if backdrop is not None:
            probability = backdrop.judge(image, probability)
        height, width = probability.shape
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return _Rough(image, small, probability)

    with prefetched(images, depth=2) as ahead:  # they may be 4K: 25 MiB each
        held: list[_Rough] = []  # the frame before, this one, the one after
        frame = -1
        for frame, image in enumerate(ahead):
            held.append(rough(image))
            if frame == 1:
                put(0, held[0].image, held[0].probability)
            elif frame > 1:
                here = held[1]
                moved = [follow(here.small, one.small, one.probability) for one in held[::2]]
                put(frame - 1, here.image, steady([moved[0], here.probability, moved[1]]))
                del held[0]
        put(frame, held[-1].image, held[-1].probability)


class _Rough(NamedTuple):
    """A frame and what is known of its person before the edge is made."""

    image: np.ndarray
    """uint8 [H, W, 3] sRGB."""
    small: np.ndarray
    """uint8 [h, w, 3], the same, reduced."""
    probability: np.ndarray
    """float32 [h, w] of person."""
