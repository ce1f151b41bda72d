"""Binary glTF 2.0 with KHR_gaussian_splatting (ratified by Khronos in 2026).

One mesh of points whose attributes are the Gaussians: positions, unit quaternions xyzw, scales in
metres, opacities in [0, 1], spherical harmonics one attribute a coefficient. A reader that does not
know the extension shows coloured points.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from avatar.export.splat_common import RawSplats, naming_path, raw_splats
from avatar.tensorfile import write_bytes
from avatar.types import Gaussians

EXTENSION = "KHR_gaussian_splatting"

# Constants of the glTF 2.0 specification.
_FLOAT, _UNSIGNED_BYTE = 5126, 5121
_ARRAY_BUFFER = 34962
_POINTS = 0
_MAGIC, _VERSION, _JSON_CHUNK, _BIN_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942

_TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


def write_glb(path: Path, gaussians: Gaussians, *, name: str = "avatar") -> None:
    """Write posed Gaussians as a .glb file, atomically; raises as ``write_ply`` does.

    Args:
        path: the file.
        gaussians: in glTF's axes, which are this project's: y up, z towards the viewer, metres.
        name: what the mesh is called in an outliner.
    """
    raw = raw_splats(gaussians)
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "headsplat"},
        "scene": 0,
        "scenes": [{}],
    }
    binary = b""
    if len(raw):  # glTF has no accessor without elements: no Gaussians are an empty scene
        mesh, accessors, views, binary = _mesh(raw)
        document["scenes"] = [{"nodes": [0]}]
        document |= {
            "extensionsUsed": [EXTENSION],
            "nodes": [{"mesh": 0, "name": name}],
            "meshes": [{"name": name, "primitives": [mesh]}],
            "accessors": accessors,
            "bufferViews": views,
            "buffers": [{"byteLength": len(binary)}],
        }
    text = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    chunks = [(_JSON_CHUNK, text + b" " * (-len(text) % 4))]
    if binary:
        chunks.append((_BIN_CHUNK, binary))
    body = b"".join(struct.pack("<II", len(data), kind) + data for kind, data in chunks)
    with naming_path(path):
        write_bytes(Path(path), struct.pack("<III", _MAGIC, _VERSION, 12 + len(body)) + body)


def _mesh(raw: RawSplats) -> tuple[dict[str, Any], list[dict], list[dict], bytes]:
    """Return the primitive, its accessors and buffer views, and the bytes that they look at."""
    quats = raw.quats.astype(np.float64)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    attributes: dict[str, np.ndarray] = {
        "POSITION": raw.means,
        "COLOR_0": _point_colours(raw),
        f"{EXTENSION}:ROTATION": quats[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": np.exp(raw.log_scales.astype(np.float64)).clip(
            max=np.float64(np.finfo(np.float32).max)
        ),
        f"{EXTENSION}:OPACITY": raw.opacities[:, None],
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": raw.sh0,
    }
    degree, begin = 1, 0
    while begin < raw.sh_rest.shape[1]:
        for i in range(2 * degree + 1):
            attributes[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{i}"] = raw.sh_rest[:, begin + i]
        degree, begin = degree + 1, begin + 2 * degree + 1
    accessors: list[dict] = []
    views: list[dict] = []
    parts: list[bytes] = []
    offset = 0
    for name, values in attributes.items():
        whole = values.dtype == np.uint8
        data = np.ascontiguousarray(values if whole else values.astype("<f4"))
        accessor: dict[str, Any] = {
            "bufferView": len(views),
            "componentType": _UNSIGNED_BYTE if whole else _FLOAT,
            "count": len(raw),
            "type": _TYPES[data.shape[1]],
        }
        if whole:
            accessor["normalized"] = True
        if name == "POSITION":  # which alone must have them, and exactly
            accessor |= {"min": data.min(0).tolist(), "max": data.max(0).tolist()}
        views.append(
            {
                "buffer": 0,
                "byteOffset": offset,
                "byteLength": data.nbytes,
                "target": _ARRAY_BUFFER,
            }
        )
        accessors.append(accessor)
        parts.append(data.tobytes())  # every row has a multiple of 4 bytes, so all is aligned
        offset += data.nbytes
    primitive = {
        "mode": _POINTS,
        "attributes": {name: index for index, name in enumerate(attributes)},
        "extensions": {EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    return primitive, accessors, views, b"".join(parts)


def _point_colours(raw: RawSplats) -> np.ndarray:
    """Return what readers without the extension show: uint8 [N, 4], linear light and opacity."""
    srgb = raw.colours.clip(0, 1)
    # IEC 61966-2-1, as glTF wants vertex colours linear.
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.round(np.column_stack([linear, raw.opacities]) * 255).astype(np.uint8)
