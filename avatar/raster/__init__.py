"""Gaussians to pixels."""

from avatar.raster.front import Backend, available_backends, rasterize, rasterize_with_means2d

__all__ = ["Backend", "available_backends", "rasterize", "rasterize_with_means2d"]
