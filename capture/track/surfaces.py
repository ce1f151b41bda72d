"""The clip's frames beside the head's own texture: face and shell, cut out, averaged, compared.

Joins ``anchor`` (one surface, many frames) over the two surfaces of a head: the face's lattice, which
expressions bend, and the shell around it, which holds still.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar.rig.lattice import POINTS, lattice_table
from capture.track import anchor as texture
from capture.track.config import TrackConfig
from capture.track.shell import Shell

SHELL_WINDOW = 4.0
"""Sigma of the window over which a shell point collects flow, texture pixels at 256: a quarter of
the way to its neighbour."""


MOST_KEPT = 4000
"""Pictures whose patches are kept, 600 MB; those beyond are cut out again each time."""
AT_ONCE = 400
"""Pictures that are anchored together, with patches that need not be kept."""


@dataclass(frozen=True)
class _Cut:
    """What is cut out of a picture."""

    face: texture.FacePatch
    head: texture.FacePatch
    unit: float
    """Pixels of the picture for one of the points'."""


@dataclass(frozen=True)
class View:
    """Where a model puts the head in some frames."""

    points: Tensor
    """[n, 478 + S, 2] pixels."""
    face: Tensor
    """[n, 478] cosine between normal and line of sight, the face bent by its expression."""
    head: Tensor
    """[n, 478 + S] the same of lattice and shell at rest."""


class Surfaces:
    """Patches of the clip's frames, cut when first asked for and kept: about 150 KB a frame."""

    def __init__(
        self,
        lattice: Tensor,
        shell: Shell,
        frame: Callable[[int], tuple[np.ndarray, float]],
        mask: Callable[[int], np.ndarray],
        config: TrackConfig,
        workers: int,
    ) -> None:
        """Prepare.

        Args:
            lattice: [478, 3] about the person's, at rest; the face's texture is laid out after it.
            shell: of the person.
            frame: number of a picture to it, uint8 [H, W, 3] sRGB, and the pixels in it for one of the
                points'.
            mask: number of a picture to its person mask, uint8 [H, W].
            config: texture sizes.
            workers: threads.
        """
        self._frame, self._mask = frame, mask
        self._config, self._workers = config, workers
        self._patches: dict[int, _Cut] = {}
        rest = lattice.double().numpy()
        chart = shell.chart * [1, -1]
        self._layouts = (
            texture.texture_map(
                texture.unrolled(rest), rest[:, 2], lattice_table().triangles.numpy(),
                config.texture_px,
            ),
            texture.texture_map(
                chart, np.zeros(len(chart)), shell.triangles.numpy(), config.shell_px, SHELL_WINDOW
            ),
        )  # fmt: skip

    def _cut(
        self, which: Tensor, points: Tensor
    ) -> tuple[tuple[list[texture.FacePatch], list[texture.FacePatch]], np.ndarray]:
        """Return the patches of pictures, of the face and of the head, and their units [n, 1, 1]."""
        config = self._config
        cut = []
        for k, places in zip(which.tolist(), points.numpy(), strict=True):
            patches = self._patches.get(k)
            if patches is None:
                picture, unit = self._frame(k)
                places = places * np.float32(unit)
                face = texture.cut_patch(picture, places[:POINTS], config.texture_px)
                head = texture.cut_patch(
                    picture, places[POINTS:], config.shell_patch_px, self._mask(k)
                )
                patches = _Cut(face, head, unit)
                if len(self._patches) < MOST_KEPT:
                    self._patches[k] = patches
            cut.append(patches)
        unit = np.array([one.unit for one in cut], np.float32)[:, None, None]
        return ([one.face for one in cut], [one.head for one in cut]), unit

    def reference(
        self, which: Tensor, view: View, warp: Tensor, chosen: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Average the textures of some frames: of the face and of the shell, [h, w] each.

        Args:
            which: [n] long, frames.
            view: of those frames.
            warp: [n, 478 + S, 2] pixels, by which their pictures are warped.
            chosen: [m] long, indices into ``which`` of those that are averaged.
        """
        patches, unit = self._cut(which, view.points)
        face, head = (
            texture.mean_texture(
                layout, patches[part], warp[:, : turned.shape[1]].numpy() * unit,
                turned.numpy(), chosen.numpy(), self._workers,
            )
            for part, (layout, turned) in enumerate(
                zip(self._layouts, (view.face, view.head), strict=True)
            )
        )  # fmt: skip
        return face, head

    def anchor(
        self,
        reference: tuple[np.ndarray, np.ndarray],
        which: Tensor,
        view: View,
        tick: Callable[[int], None],
        fine: bool,
    ) -> tuple[Tensor, Tensor]:
        """Move the points of the frames ``which`` [n] to where the reference says they are.

        Args:
            reference: the mean textures.
            which: frames.
            view: where the model puts their heads.
            tick: called with the number of frames finished.
            fine: compare at the textures' full resolution, not at half of it.

        Returns:
            Points [n, 478 + S, 2] in pixels and their confidence [n, 478 + S] in [0, 1].
        """
        points, trust = [], []
        for start in range(0, len(which), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            part = View(view.points[some], view.face[some], view.head[some])
            found = self._anchor_some(
                reference, which[some], part, lambda done, start=start: tick(start + done), fine
            )
            points.append(found[0])
            trust.append(found[1])
        return torch.cat(points), torch.cat(trust)

    def _anchor_some(
        self,
        reference: tuple[np.ndarray, np.ndarray],
        which: Tensor,
        view: View,
        tick: Callable[[int], None],
        fine: bool,
    ) -> tuple[Tensor, Tensor]:
        patches, unit = self._cut(which, view.points)
        points, trust = [], []
        for part, turned in enumerate((view.face, view.head)):
            count = turned.shape[1]
            found = texture.anchor(
                self._layouts[part], reference[part], patches[part],
                np.ascontiguousarray(view.points[:, :count].numpy() * unit), turned.numpy(),
                self._workers, tick if part == 0 else lambda _: None, fine,
            )  # fmt: skip
            own = slice(0, POINTS) if part == 0 else slice(POINTS, None)
            points.append(torch.from_numpy(found.points[:, own] / unit))
            trust.append(torch.from_numpy(found.confidence[:, own]))
        return torch.cat(points, 1), torch.cat(trust, 1)
