"""A small convolutional network draws a map of offsets, on which every Gaussian has its place.

As in DEGAS (Shao et al. 2024), where a decoder draws maps of Gaussian parameters on the UV
layout of a body; here the layout is made for a head: an azimuthal map around the face's line of
sight, and beside it rectangles for the torso and the inside of the mouth. Neighbours share pixels and so
move alike; a gain a Gaussian and channel gives back what is finer than a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avatar.model.binding import MOUTH as MOUTH_PART
from avatar.model.deform import CHANNELS, Deformer, Setup, network, zeroed
from avatar.rig.lattice import REGIONS

SEED = (4, 6)
"""Rows and columns of the map from which the decoder starts."""
DOUBLINGS = 4
"""How often it doubles them: the map is 64 x 96 pixels, the head's part 64 x 64, about 6 mm each."""

# Left, right, top, bottom of each part in [-1, 1]; the margins are two pixels or so, that what a
# convolution and the sampling take from beside a part is empty.
HEAD = (-0.96, 0.30, -0.95, 0.95)
TORSO = (0.40, 0.96, -0.95, 0.42)
MOUTH = (0.40, 0.96, 0.55, 0.95)


class UvMapDeformer(Deformer):
    """Map driving features to a map of offsets, sampled bilinearly where each Gaussian rests."""

    kind = "uvmap"
    sizes: ClassVar[Mapping[str, int]] = {"hidden": 64, "channels": 24}
    gaussian_dims: Mapping[str, int] = {"uv": 0, "gain": 0}
    half = frozenset({"gain"})

    uv: Tensor

    def __init__(self, setup: Setup, settings: Mapping[str, Any] | None = None) -> None:
        """Create with ``channels`` channels in the decoder and a layer of ``hidden`` before it."""
        super().__init__(setup, settings)
        channels = self.size["channels"]
        self.network = network(setup.features, self.size["hidden"], channels * math.prod(SEED))
        outputs = [channels] * (DOUBLINGS - 1) + [CHANNELS]
        self.decoder = nn.ModuleList(
            zeroed(nn.Conv2d, channels, output, 3, padding=1) for output in outputs
        )
        self.gain = nn.Parameter(torch.ones(len(setup.means), CHANNELS))
        self.register_buffer("uv", lay_out(setup))

    @torch.no_grad()
    def draw(self, generator: torch.Generator, setup: Setup) -> None:
        """Draw the networks, the last layer apart, which is zero: offsets start there."""
        super().draw(generator, setup)
        for parameter in self.decoder[-1].parameters():
            parameter.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Return offsets [N, 13] in units of ``unit`` for features [D], or [B, N, 13] for [B, D]."""
        if features.ndim == 1:
            return self(features[None])[0]
        x = self.network(self.standardise(features)).reshape(len(features), -1, *SEED)
        for convolution in self.decoder:
            x = nn.functional.interpolate(x.relu(), scale_factor=2, mode="nearest")
            x = convolution(x)
        grid = self.uv.expand(len(features), 1, -1, 2)
        found = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
        return found[:, :, 0].mT * self.gain


def lay_out(setup: Setup) -> Tensor:
    """Return where on the map, [N, 2] (x, y) in [-1, 1], each Gaussian rests.

    Head: the direction from the middle of the head, by Lambert's azimuthal equal-area projection
    around +z.
    Torso, all that is below the chin: seen from the front. Inside of the mouth: seen from the front.
    """
    below = setup.means[:, 1] < setup.lattice[REGIONS["chin"][0], 1] - 0.01
    mouth = setup.binding.part == MOUTH_PART
    # The lattice is the front of the head; its ends at the temples lie about half way to the back.
    centre = (setup.lattice.amax(0) + setup.lattice.amin(0)) / 2
    centre[2] = setup.lattice[:, 2].amin()
    away = setup.means - centre
    aside = torch.linalg.norm(away[:, :2], dim=1)
    radius = torch.sin(torch.atan2(aside, away[:, 2]) / 2)
    uv = away[:, :2] / aside.clamp(min=1e-6)[:, None] * radius[:, None]
    uv = _place(uv, HEAD)
    for rows, rectangle in ((below, TORSO), (mouth, MOUTH)):
        if rows.any():
            flat = setup.means[rows, :2]
            low, high = flat.amin(0), flat.amax(0)
            spread = (high - low).clamp(min=1e-6)
            uv[rows] = _place((flat - low) / spread * 2 - 1, rectangle)
    return uv


def _place(uv: Tensor, rectangle: tuple[float, float, float, float]) -> Tensor:
    """Map [n, 2] in [-1, 1], y upwards, into a rectangle of the map, y downwards."""
    left, right, top, bottom = rectangle
    x = (left + right) / 2 + uv[:, 0] * (right - left) / 2
    y = (top + bottom) / 2 - uv[:, 1] * (bottom - top) / 2
    return torch.stack([x, y], 1)
