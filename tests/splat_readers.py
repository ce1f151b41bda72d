"""Readers of exported Gaussians that share nothing with the writers: other people's libraries, or
a few lines after the format's description."""

from __future__ import annotations

import gzip
import json
import math
import struct
from pathlib import Path

import gsply
import numpy as np
import torch

from avatar.types import Camera, Gaussians

C0 = 0.5 / math.sqrt(math.pi)


def gaussians_of(means, quats, scales, opacities, sh0, sh_rest=None) -> Gaussians:
    """From arrays: scales in metres, opacities in [0, 1], harmonics as stored."""
    sh0 = np.asarray(sh0, np.float32)
    if sh_rest is None or not np.size(sh_rest):
        colours = torch.from_numpy(0.5 + np.float32(C0) * sh0)
    else:
        colours = torch.from_numpy(np.concatenate([sh0[:, None], sh_rest], 1).astype(np.float32))
    tensors = [torch.from_numpy(np.array(a, np.float32)) for a in (means, quats, scales, opacities)]
    return Gaussians(*tensors, colours)


def read_with_gsply(path: Path) -> Gaussians:
    """PLY, plain or compressed."""
    data = gsply.plyread(path)
    scales = np.exp(data.scales.astype(np.float64))
    opacities = 1 / (1 + np.exp(-data.opacities.astype(np.float64)))
    return gaussians_of(data.means, data.quats, scales, opacities, data.sh0, data.shN)


def read_spz(path: Path) -> Gaussians:
    """SPZ version 3, after the format's description in Niantic's README."""
    content = gzip.decompress(path.read_bytes())
    magic, version, count, degree, bits, _, _ = struct.unpack("<IIIBBBB", content[:16])
    assert (magic, version) == (0x5053474E, 3)
    sizes = {"position": 9, "alpha": 1, "colour": 3, "scale": 3, "rotation": 4}
    sizes["sh"] = ((degree + 1) ** 2 - 1) * 3
    assert len(content) == 16 + count * sum(sizes.values())
    sections, at = {}, 16
    for name, size in sizes.items():
        part = np.frombuffer(content, np.uint8, count * size, at)
        sections[name], at = part.reshape(count, size).astype(np.int64), at + count * size
    low, middle, high = (sections["position"].reshape(count, 3, 3)[..., i] for i in range(3))
    fixed = low + (middle << 8) + (high << 16)
    means = np.where(fixed >= 1 << 23, fixed - (1 << 24), fixed) / 2.0**bits
    rotation = sections["rotation"] @ (1 << (8 * np.arange(4)))
    quats = np.zeros((count, 4))  # xyzw, as they are stored
    for row, word in enumerate(rotation.tolist()):
        largest = word >> 30
        for axis in reversed([i for i in range(4) if i != largest]):
            value = (word & 511) / 511 / math.sqrt(2)
            quats[row, axis] = -value if word & 512 else value
            word >>= 10
        quats[row, largest] = math.sqrt(max(0.0, 1 - float(quats[row] @ quats[row])))
    return gaussians_of(
        means,
        quats[:, [3, 0, 1, 2]],
        np.exp(sections["scale"] / 16 - 10),
        sections["alpha"][:, 0] / 255,
        (sections["colour"] / 255 - 0.5) / 0.15,
        (sections["sh"].reshape(count, sizes["sh"] // 3, 3) - 128) / 128,
    )


def read_splat(path: Path) -> Gaussians:
    """The .splat layout: six floats and eight bytes a Gaussian."""
    rows = np.array(list(struct.iter_unpack("<6f8B", path.read_bytes())), np.float64)
    rows = rows.reshape(-1, 14)
    quats = (rows[:, 10:] - 128) / 128
    sh0 = (rows[:, 6:9] / 255 - 0.5) / C0
    return gaussians_of(rows[:, :3], quats, rows[:, 3:6], rows[:, 9] / 255, sh0)


def parse_glb(path: Path) -> tuple[dict, bytes]:
    """A .glb file's JSON and binary chunk, its frame checked as glTF 2.0 section 4.4 wants it."""
    content = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", content[:12])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    chunks, at = {}, 12
    while at < length:
        size, kind = struct.unpack("<I4s", content[at : at + 8])
        assert size % 4 == 0
        chunks[kind] = content[at + 8 : at + 8 + size]
        at += 8 + size
    assert next(iter(chunks)) == b"JSON"
    return json.loads(chunks[b"JSON"]), chunks.get(b"BIN\0", b"")


def glb_attributes(path: Path) -> dict[str, np.ndarray]:
    """The attributes of the one primitive, by accessor, buffer view and buffer."""
    document, binary = parse_glb(path)
    if "meshes" not in document:
        return {}
    (mesh,) = document["meshes"]
    (primitive,) = mesh["primitives"]
    assert primitive["mode"] == 0
    assert document["buffers"] == [{"byteLength": len(binary)}]
    values = {}
    for name, index in primitive["attributes"].items():
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        dtype = np.dtype({5126: "<f4", 5121: "u1"}[accessor["componentType"]])
        assert view["byteOffset"] % 4 == 0
        assert width * dtype.itemsize % 4 == 0
        assert view["byteLength"] == accessor["count"] * width * dtype.itemsize
        flat = np.frombuffer(binary, dtype, accessor["count"] * width, view["byteOffset"])
        values[name] = flat.reshape(-1, width)
    return values


def read_glb(path: Path) -> Gaussians:
    """glTF with KHR_gaussian_splatting, after the extension's table of attributes."""
    values = glb_attributes(path)
    if not values:
        return gaussians_of(*(np.zeros((0, n)) for n in (3, 4, 3)), np.zeros(0), np.zeros((0, 3)))
    ours = {
        k.split(":")[1]: v for k, v in values.items() if k.startswith("KHR_gaussian_splatting:")
    }
    rest = [ours[f"SH_DEGREE_{d}_COEF_{i}"] for d in (1, 2, 3) for i in range(2 * d + 1)
            if f"SH_DEGREE_{d}_COEF_{i}" in ours]  # fmt: skip
    return gaussians_of(
        values["POSITION"],
        ours["ROTATION"][:, [3, 0, 1, 2]],
        ours["SCALE"],
        ours["OPACITY"][:, 0],
        ours["SH_DEGREE_0_COEF_0"],
        np.stack(rest, 1) if rest else None,
    )


def picture_psnr(a: Gaussians, b: Gaussians, camera: Camera) -> float:
    """PSNR in dB of the pictures of two sets of Gaussians on white, displayed: clamped to [0, 1]."""
    from avatar.raster import rasterize

    degree = 0 if a.colours.ndim == 2 else math.isqrt(a.colours.shape[1]) - 1
    white = torch.ones(3)
    shown = [
        rasterize(g, camera, background=white, sh_degree=degree).rgb.clamp(0, 1) for g in (a, b)
    ]
    return -10 * math.log10(float((shown[0] - shown[1]).square().mean()) + 1e-12)
