"""Reduced Gaussian blendshapes: expression and pose choose a few weights of linear offsets.

A tiny network maps what drives the head to K weights; every Gaussian has K linear offsets of its
mean, rotation, scale and colour (RGBAvatar, Li et al. 2025, eq. 4-6, where the bases are learned
and K is about 20). Linear is what makes posing cheap on a CPU and possible in a shader.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avatar.model.deform import CHANNELS, Deformer, Setup, network
from avatar.raster.fused import blend_offsets


class BlendshapeDeformer(Deformer):
    """Map driving features to weights of offset shapes."""

    kind = "blendshapes"
    sizes: ClassVar[Mapping[str, int]] = {"shapes": 20, "hidden": 64}
    gaussian_dims: ClassVar[Mapping[str, int]] = {"offsets": 1}
    half = frozenset({"offsets"})

    def __init__(self, setup: Setup, settings: Mapping[str, Any] | None = None) -> None:
        """Create with ``shapes`` offset shapes K and hidden layers of width ``hidden``."""
        super().__init__(setup, settings)
        shapes, hidden = self.size["shapes"], self.size["hidden"]
        self.network = network(setup.features, hidden, hidden, shapes)
        self.offsets = nn.Parameter(torch.zeros(shapes, len(setup.means), CHANNELS))

    def weights(self, features: Tensor) -> Tensor:
        """Return the shape weights [..., K] for driving features [..., D]."""
        return self.network(self.standardise(features))

    def forward(self, features: Tensor) -> Tensor:
        """Return offsets [N, 13] in units of ``unit`` for features [D], or [B, N, 13] for [B, D]."""
        if features.ndim > 1:
            return torch.stack([self(each) for each in features])
        return blend_offsets(self.offsets, self.weights(features))

    def low_rank(self, features: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Write the gradient of ``offsets`` as a sum over S of weights times gradient of a blend.

        Args:
            features: [R, D] of R frames.
            gradients: [R, N, 13] of the loss to the offsets of these frames.

        Returns:
            Weights [S, K], differentiable in the networks, and gradients [S, N, 13].
        """
        return self.weights(features), gradients
