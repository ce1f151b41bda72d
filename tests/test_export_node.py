"""Exported Gaussians before other people's programs: Khronos's validator, three.js, splat-transform.

They need node and, once, ``npm install --prefix tests/node``; without them these tests are skipped,
and the readers of tests/test_export_splats.py are what is left.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_readers import (
    gaussians_of,
    glb_attributes,
    parse_glb,
    picture_psnr,
    read_with_gsply,
)
from test_export_splats import KINDS, gaussians_from

from avatar.export.gltf import write_glb
from avatar.export.ply import write_ply
from avatar.export.splat_common import half_turned
from avatar.rotations import quat_to_matrix
from avatar.types import Camera, look_at

NODE = Path(__file__).parent / "node"
PACKAGES = NODE / "node_modules"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not PACKAGES.is_dir(),
    reason="needs node and: npm install --prefix tests/node",
)


def node(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["node", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("degree", [None, 3])
def test_the_khronos_validator_objects_to_nothing_but_the_extensions_names(
    tmp_path: Path, degree: int | None
) -> None:
    """The validator on npm is older than the extension, whose attribute names it does not know.

    It has one error for each of those names and none else; splat-transform's own .glb gets the same.
    """
    write_glb(tmp_path / "me.glb", gaussians_from(0, 300, wild=True, degree=degree))
    report = json.loads(node(NODE / "validate.mjs", tmp_path / "me.glb"))
    assert report["info"]["totalVertexCount"] == 300
    unknown = {"UNSUPPORTED_EXTENSION": [], "MESH_PRIMITIVE_INVALID_ATTRIBUTE": []}
    for message in report["issues"]["messages"]:
        assert message["code"] in unknown, message
        unknown[message["code"]].append(message["pointer"])
    names = [
        pointer.removeprefix("/meshes/0/primitives/0/attributes/")
        for pointer in unknown["MESH_PRIMITIVE_INVALID_ATTRIBUTE"]
    ]
    assert all(name.startswith("KHR_gaussian_splatting:") for name in names)
    assert len(names) == 4 + (15 if degree else 0)


def test_the_khronos_validator_finds_nothing_in_the_points_alone(tmp_path: Path) -> None:
    """The same file without the extension's names: nothing is left to object to."""
    write_glb(tmp_path / "me.glb", gaussians_from(0, 300))
    document, binary = parse_glb(tmp_path / "me.glb")
    primitive = document["meshes"][0]["primitives"][0]
    del document["extensionsUsed"], primitive["extensions"]
    primitive["attributes"] = {
        name.replace("KHR_gaussian_splatting:", "_"): index
        for name, index in primitive["attributes"].items()
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    parts = [(text, b"JSON"), (binary, b"BIN\0")]
    body = b"".join(len(data).to_bytes(4, "little") + kind + data for data, kind in parts)
    head = b"glTF" + (2).to_bytes(4, "little") + (12 + len(body)).to_bytes(4, "little")
    (tmp_path / "plain.glb").write_bytes(head + body)
    issues = json.loads(node(NODE / "validate.mjs", tmp_path / "plain.glb"))["issues"]
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]


def test_an_empty_file_is_valid_gltf(tmp_path: Path) -> None:
    write_glb(tmp_path / "none.glb", gaussians_from(0, 0))
    issues = json.loads(node(NODE / "validate.mjs", tmp_path / "none.glb"))["issues"]
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]


def test_three_js_finds_the_gaussians(tmp_path: Path) -> None:
    original = gaussians_from(6, 200)
    write_glb(tmp_path / "me.glb", original)
    (splats,) = json.loads(node(NODE / "three_loads.mjs", tmp_path / "me.glb"))
    assert splats["type"] == "GaussianSplat"
    centres = np.array(splats["centers"]).reshape(-1, 3)
    np.testing.assert_allclose(centres, original.means.numpy(), atol=1e-6)
    R = quat_to_matrix(torch.nn.functional.normalize(original.quats.double(), dim=1))
    M = R * original.scales.double()[:, None]
    covariance = (M @ M.transpose(1, 2)).numpy()
    found = np.array(splats["covariances"]).reshape(-1, 6)
    rows, columns = [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]
    np.testing.assert_allclose(found, covariance[:, rows, columns], rtol=1e-4, atol=1e-9)
    rgba = np.array(splats["colors"]).reshape(-1, 4) / 255
    np.testing.assert_allclose(rgba[:, :3], original.colours.numpy(), atol=1.01 / 255)
    np.testing.assert_allclose(rgba[:, 3], original.opacities.numpy(), atol=1.01 / 255)


@pytest.mark.parametrize("kind", KINDS[:4], ids=lambda kind: kind.suffix)
def test_splat_transform_reads_the_same_picture(kind, tmp_path: Path) -> None:
    """PlayCanvas's converter, whose readers are those of SuperSplat, to plain PLY and back to us."""
    original = gaussians_from(9, 400, spread=0.08)
    source, result = tmp_path / f"me{kind.suffix}", tmp_path / "theirs.ply"
    kind.write(source, original)
    cli = PACKAGES / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
    node(cli, "-q", "-w", "-g", "cpu", source, result)
    back = read_with_gsply(result)
    assert len(back) == 400
    if kind.suffix == ".spz":  # SPZ is y up by its specification, and they store PLY y down
        back = half_turned(back)
    K = torch.tensor([[300.0, 0, 128], [0, 300, 128], [0, 0, 1]])
    camera = Camera(K, look_at(torch.tensor([0.2, 0.1, 0.5]), torch.zeros(3)), 256, 256)
    assert picture_psnr(original, back, camera) >= min(kind.psnr, 45)
    nothing = gaussians_of(*(np.zeros((0, n)) for n in (3, 4, 3)), np.zeros(0), np.zeros((0, 3)))
    assert picture_psnr(original, nothing, camera) < 25


def test_playcanvas_takes_ply_to_be_y_down_as_the_axes_option_says(tmp_path: Path) -> None:
    """Their converter to glTF, which is y up, tells which way is up in a PLY file for their tools."""
    original = gaussians_from(10, 50)
    heights = []
    for name, gaussians in (("opengl", original), ("opencv", half_turned(original))):
        write_ply(tmp_path / f"{name}.ply", gaussians)
        cli = PACKAGES / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
        node(cli, "-q", "-w", "-g", "cpu", tmp_path / f"{name}.ply", tmp_path / f"{name}.glb")
        heights.append(np.sort(glb_attributes(tmp_path / f"{name}.glb")["POSITION"][:, 1]))
    y = np.sort(original.means[:, 1].numpy())
    np.testing.assert_allclose(heights[0], np.sort(-y), atol=1e-5)  # on its head
    np.testing.assert_allclose(heights[1], y, atol=1e-5)  # upright
