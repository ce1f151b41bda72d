"""Draws the golden pictures anew, with the reference in double: python tests/golden/make.py

Only a change of the rendering semantics is a reason to do so. Each file holds the inputs, the pictures,
and the gradients of ``golden_loss``; all in float32.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from avatar.raster import rasterize_with_means2d
from avatar.raster.bench import standard_scene
from avatar.types import Camera, Gaussians

HERE = Path(__file__).resolve().parent
INPUTS = ("means", "quats", "scales", "opacities", "colours", "background", "offset", "K", "T")
PICTURES = ("rgb", "alpha", "depth")
DIFFERENTIABLE = tuple(name for name in INPUTS if name != "K")


def head() -> dict[str, Tensor]:
    """The benchmark's head, small: dense Gaussians of a pixel or two."""
    gaussians, camera = standard_scene(300, 48)
    # So few of them cover the head only when they are larger.
    parts = {**vars(gaussians), "scales": 8 * gaussians.scales}
    return {
        **parts,
        "background": torch.ones(3),
        "offset": torch.zeros(300, 2),
        "K": camera.K,
        "T": camera.T_cam_world,
    }


def odd() -> dict[str, Tensor]:
    """Five channels, a background picture, moved centres, and Gaussians behind the camera."""
    g = torch.Generator().manual_seed(11)
    count, width, height = 120, 33, 21
    T = torch.eye(4)
    T[2, 3] = 0.3
    K = torch.tensor([[40.0, 0, width / 2 + 0.3], [0, 41.0, height / 2 - 0.2], [0, 0, 1]])
    return {
        "means": (torch.rand(count, 3, generator=g) - 0.5) * torch.tensor([0.4, 0.3, 0.8]),
        "quats": torch.randn(count, 4, generator=g),
        "scales": 0.003 + 0.03 * torch.rand(count, 3, generator=g) ** 3,
        "opacities": torch.rand(count, generator=g) ** 0.5,
        "colours": torch.rand(count, 5, generator=g),
        "background": torch.rand(height, width, 5, generator=g),
        "offset": torch.randn(count, 2, generator=g),
        "K": K,
        "T": T,
    }


SCENES = {"head": (head, 48, 48), "odd": (odd, 33, 21)}


def golden_loss(pictures: dict[str, Tensor]) -> Tensor:
    """Return a sum of all pictures with weights that need no random numbers."""
    total = pictures["rgb"].new_zeros(())
    for value in pictures.values():
        weights = torch.cos(0.7 * torch.arange(value.numel(), dtype=torch.float64))
        total = total + (weights.to(value).reshape(value.shape) * value).sum()
    return total


def draw_golden(
    inputs: dict[str, Tensor], width: int, height: int, backend: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the pictures, and the gradients of ``golden_loss`` by the inputs' names."""
    values = {name: value.clone() for name, value in inputs.items()}
    for name in DIFFERENTIABLE:
        values[name].requires_grad_(True)
    out = rasterize_with_means2d(
        Gaussians(*(values[name] for name in INPUTS[:5])),
        Camera(values["K"], values["T"], width, height),
        values["offset"],
        background=values["background"],
        backend=backend,
    )
    pictures = {"rgb": out.rgb, "alpha": out.alpha, "depth": out.depth}
    golden_loss(pictures).backward()
    gradients = {name: values[name].grad for name in DIFFERENTIABLE}
    assert all(g is not None for g in gradients.values())
    return {name: p.detach() for name, p in pictures.items()}, gradients


def main() -> None:
    """Write one file a scene."""
    for name, (make, width, height) in SCENES.items():
        inputs = make()
        exact = {key: value.double() for key, value in inputs.items()}
        pictures, gradients = draw_golden(exact, width, height, "reference")
        tensors = inputs | pictures | {f"v_{key}": value for key, value in gradients.items()}
        tensors = {key: value.float().contiguous() for key, value in tensors.items()}
        save_file(tensors, HERE / f"{name}.safetensors")


if __name__ == "__main__":
    main()
