"""Settings of a fit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from avatar.model.create import CreateConfig


@dataclass(frozen=True)
class RateConfig:
    """Learning rates of Adam at the start; all fall together to ``final`` of it by a cosine."""

    means: float = 1.2e-4
    """Canonical means, metres a step."""
    quats: float = 2e-3
    """Quaternions."""
    log_scales: float = 6e-3
    """Log standard deviations."""
    logit_opacities: float = 2.5e-2
    """Logits of opacity."""
    colours: float = 5e-3
    """sRGB colours."""
    torso_logits: float = 2e-2
    """Logits of the share of the torso's motion."""
    offsets: float = 3e-3
    """What the deformer has of each Gaussian's own: offset shapes, in the units of
    ``avatar.model.deform.CHANNEL_UNITS``, or latents."""
    network: float = 2e-3
    """The deformer's networks."""
    final: float = 0.1
    """Share of each rate left at the last step."""


@dataclass(frozen=True)
class DensifyConfig:
    """Where Gaussians are added: those whose picture position the loss keeps pulling at are split."""

    start: float = 0.15
    """Share of the steps after which densification begins."""
    stop: float = 0.6
    """Share of the steps after which it ends."""
    rounds: int = 4
    """Number of rounds between the two."""
    growth: float = 0.08
    """Share of Gaussians split in a round."""
    maximum: int = 32_000
    """Gaussians at most."""
    prune_opacity: float = 0.01
    """Gaussians fainter than this are taken away in a round."""


@dataclass(frozen=True)
class TrainConfig:
    """How an avatar is fitted to a capture."""

    steps: int = 1900
    """Optimisation steps, one frame each."""
    seed: int = 0
    """Seed of all randomness; with one thread count, the same seed gives the same avatar."""
    max_side: int = 720
    """Pictures are trained at this length of the longer side at most, pixels."""
    max_frames: int = 600
    """Training frames kept in memory at most, evenly spread over the training part."""
    half_resolution: float = 0.4
    """Share of the steps, from the first, that train at half the size: cheap and enough at first."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM beside L1 (0.2, as in 3D Gaussian Splatting, Kerbl et al. 2023, eq. 7)."""
    alpha_weight: float = 0.1
    """Weight of the L1 distance between coverage and mask."""
    deformer_frames: int = 4
    """Frames whose gradients the deformer takes in one step; the Gaussians step at every frame."""
    offset_decay: float = 0.0
    """Weight of the mean square of the offsets that a frame uses."""
    scale_limit_m: float = 0.01
    """Standard deviations above this many metres are pulled back."""
    random_background: float = 1.0
    """Share of the steps, drawn at random, whose picture is composed on a random colour, not white:
    else Gaussians as white as the background pass for it until the view changes."""
    hidden_share: float = 0.03
    """A Gaussian is held as it is while every frame shows less than this share of it; 0 holds none.
    Shirt and skin let through about a hundredth of what is behind them."""
    hidden_frames: int = 16
    """Frames in which that share is looked for, at half the size: those that differ most in head pose."""
    hidden_rounds: int = 12
    """How often that is done, at even distances from the first step on."""
    checkpoint_seconds: float = 15.0
    """Longest time between checkpoints: what a kill can lose."""
    hold_cameras: tuple[int, ...] = ()
    """Indices of cameras that are not fitted to: what the avatar looks like from there is measured."""
    create: CreateConfig = field(default_factory=CreateConfig)
    """The first Gaussians."""
    rates: RateConfig = field(default_factory=RateConfig)
    """Learning rates."""
    densify: DensifyConfig = field(default_factory=DensifyConfig)
    """Densification."""

    def to_json(self) -> dict[str, Any]:
        """Return all settings as JSON has them; no held cameras are left out, as runs of old had no word of them."""
        value = asdict(self)
        held = value.pop("hold_cameras")
        return value | {"hold_cameras": list(held)} if held else value
