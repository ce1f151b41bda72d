"""Reduced Gaussian blendshapes: expression and pose choose a few weights of linear offsets.

A tiny network maps what drives the head to K weights; every Gaussian has K linear offsets of its
mean, rotation, scale and colour (RGBAvatar, Li et al. 2025, eq. 4-6, where the bases are learned
and K is about 20). Linear is what makes posing cheap on a CPU and possible in a shader.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avatar.raster.fused import blend_offsets

CHANNELS = 13
"""Channels of an offset: mean (3, head frame), quaternion (4), log scale (3), sRGB colour (3)."""

# One learning rate drives all channels: with these units an Adam step of 1e-3 on an offset moves a
# mean by 20 micrometres, a log scale by 1e-3 and a colour by 1e-3.
CHANNEL_UNITS = (0.02,) * 3 + (1.0,) * 4 + (1.0,) * 3 + (1.0,) * 3

# Inputs are standardised by their spread in training; beyond this many deviations the network has
# seen nothing and its answer would be an extrapolation, so the input is held there.
INPUT_LIMIT = 3.0


class BlendshapeDeformer(nn.Module):
    """Map driving features to offsets of all Gaussians."""

    unit: Tensor
    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, features: int, shapes: int, gaussians: int, hidden: int = 64) -> None:
        """Create with offsets of zero.

        Args:
            features: size D of the driving feature vector.
            shapes: number K of linear offset shapes.
            gaussians: number N of Gaussians.
            hidden: width of the network's two hidden layers.
        """
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, shapes),
        )
        self.offsets = nn.Parameter(torch.zeros(shapes, gaussians, CHANNELS))
        self.register_buffer("unit", torch.tensor(CHANNEL_UNITS))
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_scale", torch.ones(features))

    @torch.no_grad()
    def draw_network(self, generator: torch.Generator) -> None:
        """Draw the network's weights anew from ``generator``, uniform in +-1/sqrt(inputs) as torch's own."""
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                limit = layer.in_features**-0.5
                layer.weight.uniform_(-limit, limit, generator=generator)
                layer.bias.uniform_(-limit, limit, generator=generator)

    def weights(self, features: Tensor) -> Tensor:
        """Return the K shape weights for driving features [D]."""
        x = (features - self.feature_mean) / self.feature_scale
        return self.network(x.clamp(-INPUT_LIMIT, INPUT_LIMIT))

    def forward(self, features: Tensor) -> Tensor:
        """Return offsets [N, 13] in units of ``unit`` for driving features [D]."""
        return blend_offsets(self.offsets, self.weights(features))
