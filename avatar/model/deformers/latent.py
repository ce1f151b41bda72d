"""A latent vector a Gaussian, and one small network from it and the driving features to offsets.

NPGA (Giebenhain et al. 2024): the latents tell Gaussians apart, the network is shared, and a
Laplacian term keeps the latents of neighbours alike, so that what one of them learns of an expression
the others know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avatar.model.deform import CHANNELS, Deformer, Setup, network, zeroed

LAPLACIAN_WEIGHT = 0.02
"""Weight of the mean square of a latent's distance from the mean of its neighbours' latents."""
WAVE_M = 0.06
"""Latents start as waves over the head whose lengths / 2 pi spread around this: neighbours within a
few millimetres start alike, eyes and mouth apart."""


class LatentDeformer(Deformer):
    """Map a Gaussian's latent vector and a code of the driving features to its offset."""

    kind = "latent"
    sizes: ClassVar[Mapping[str, int]] = {"latent": 16, "code": 16, "width": 48}
    gaussian_dims: Mapping[str, int] = {"latents": 0}
    half = frozenset({"latents"})
    neighbours = 6

    def __init__(self, setup: Setup, settings: Mapping[str, Any] | None = None) -> None:
        """Create with vectors of ``latent`` numbers, ``code`` numbers of the features, layers of ``width``."""
        super().__init__(setup, settings)
        width = self.size["width"]
        self.encoder = network(setup.features, width, self.size["code"])
        # The first layer is linear in latent and code apart: the latents' part is the same for all
        # frames of a batch, the code's for all Gaussians.
        self.from_latent = zeroed(nn.Linear, self.size["latent"], width)
        self.from_code = zeroed(nn.Linear, self.size["code"], width, bias=False)
        self.network = network(width, width, CHANNELS)
        self.latents = nn.Parameter(torch.zeros(len(setup.means), self.size["latent"]))

    @torch.no_grad()
    def draw(self, generator: torch.Generator, setup: Setup) -> None:
        """Draw networks and latents, the last layer apart, which is zero: offsets start there."""
        super().draw(generator, setup)
        for parameter in self.network[-1].parameters():
            parameter.zero_()
        # Random Fourier features of the place (Tancik et al. 2020).
        waves = torch.randn(3, self.size["latent"], generator=generator) / WAVE_M
        phases = torch.rand(self.size["latent"], generator=generator) * 2 * math.pi
        self.latents.copy_(torch.sin(setup.means @ waves + phases))

    def forward(self, features: Tensor) -> Tensor:
        """Return offsets [N, 13] in units of ``unit`` for features [D], or [B, N, 13] for [B, D]."""
        code = self.from_code(self.encoder(self.standardise(features)))
        hidden = self.from_latent(self.latents) + code[..., None, :]
        return self.network(hidden.relu())

    def penalty(self, laplacian: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the Laplacian term of the latents."""
        return LAPLACIAN_WEIGHT * laplacian(self.latents).square().mean()
