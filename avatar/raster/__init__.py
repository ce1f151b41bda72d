"""Gaussians to pixels."""

from avatar.raster.front import Backend, available_backends, rasterize, rasterize_with_means2d
from avatar.raster.library import one_torch_thread, use_threads

__all__ = [
    "Backend",
    "available_backends",
    "one_torch_thread",
    "rasterize",
    "rasterize_with_means2d",
    "use_threads",
]
