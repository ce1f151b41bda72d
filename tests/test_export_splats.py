"""Files of Gaussians read back by readers that share no code with the writers."""

from __future__ import annotations

import errno
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gsply
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from splat_readers import (
    C0,
    glb_attributes,
    parse_glb,
    picture_psnr,
    read_glb,
    read_splat,
    read_spz,
    read_with_gsply,
)

from avatar.checks import InputError
from avatar.export.compressed_ply import write_compressed_ply
from avatar.export.gltf import write_glb
from avatar.export.ply import write_ply
from avatar.export.splat import write_splat
from avatar.export.splat_common import half_turned, naming_path, nearby_order
from avatar.export.spz import write_spz
from avatar.model.views import front_camera
from avatar.raster import rasterize
from avatar.rotations import quat_to_matrix
from avatar.types import Camera, Gaussians, look_at


@dataclass(frozen=True)
class Kind:
    """A format, and how much of a Gaussian it keeps."""

    suffix: str
    write: Callable[[Path, Gaussians], None]
    read: Callable[[Path], Gaussians]
    psnr: float
    """Least PSNR in dB of a small avatar's picture after the way through the file."""
    harmonics: bool = True


KINDS = [
    Kind(".ply", write_ply, read_with_gsply, 100),
    Kind(".compressed.ply", write_compressed_ply, read_with_gsply, 50),
    Kind(".spz", write_spz, read_spz, 50),
    Kind(".splat", write_splat, read_splat, 50, harmonics=False),
    Kind(".glb", write_glb, read_glb, 100),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.suffix)


def gaussians_from(
    seed: int,
    count: int,
    *,
    spread: float = 0.1,
    width: float = 0.004,
    degree: int | None = None,
    wild: bool = False,
) -> Gaussians:
    """Random Gaussians; wild ones have ends of ranges and more among them."""
    generator = np.random.default_rng(seed)

    def choose(ordinary: np.ndarray, extremes: list[float]) -> torch.Tensor:
        if wild:
            pick = generator.random(ordinary.shape) < 0.2
            ordinary = np.where(pick, generator.choice(extremes, ordinary.shape), ordinary)
        return torch.from_numpy(ordinary.astype(np.float32))

    shape = (count, 3) if degree is None else (count, (degree + 1) ** 2, 3)
    return Gaussians(
        choose(generator.normal(size=(count, 3)) * spread, [0.0, -spread, 50.0, -1e-20]),
        choose(generator.normal(size=(count, 4)), [0.0, 1e-20, 1e20, -1.0]),
        choose(width * np.exp(generator.normal(size=(count, 3)) * 0.5), [0.0, 1e-12, 1e-4, 2.0]),
        choose(generator.random(count), [0.0, 1.0, 1 / 255, 1e-9]),
        choose(generator.random(shape), [0.0, 1.0, -0.9, 1.8]),
    )


def order_in_file(kind: Kind, original: Gaussians, back: Gaussians) -> np.ndarray | None:
    """The index in ``back`` of each original; None where places coincide and nobody can tell."""
    if kind.suffix == ".compressed.ply":  # any order would do, but all that was stored must agree
        return np.argsort(nearby_order(original.means.numpy()))
    if kind.suffix != ".splat":
        return np.arange(len(original))
    places = [g.means.numpy() for g in (original, back)]
    if len(np.unique(places[0], axis=0)) < len(original):
        return None
    first, second = (np.lexsort(p.T) for p in places)
    order = np.empty(len(first), np.int64)
    order[first] = second
    return order


def check_scales_and_colours(
    kind: Kind, original: Gaussians, back: Gaussians, order: np.ndarray
) -> None:
    """Each must be within its step of what the format can say at all."""
    wanted = np.log(np.maximum(original.scales.double().numpy(), 1e-9))
    found = np.log(back.scales.double().numpy()[order])
    step = 1e-4
    if kind.suffix == ".spz":
        wanted, step = wanted.clip(-10, 255 / 16 - 10), 0.51 / 16
    elif kind.suffix == ".compressed.ply":
        wanted = wanted.clip(-20, 20)
        step = 0.51 * np.ptp(wanted) / 1023 + 1e-4
    assert np.abs(found - wanted).max() <= step
    constants = [g.colours if g.colours.ndim == 2 else 0.5 + C0 * g.colours[:, 0]
                 for g in (original, back)]  # fmt: skip
    wanted, found = (c.double().numpy() for c in constants)
    step = 2e-6
    if kind.suffix == ".splat":
        wanted, step = wanted.clip(0, 1), 0.51 / 255
    elif kind.suffix == ".spz":
        reach = 0.5 * C0 / 0.15  # eight bits about the middle
        wanted, step = wanted.clip(0.5 - reach, 0.5 + reach), 0.51 * 2 * reach / 255 + 2e-6
    elif kind.suffix == ".compressed.ply":
        step = 0.51 * np.ptp(wanted) / 255 + 2e-6
    assert np.abs(found[order] - wanted).max() <= step


def rotations(quats: torch.Tensor) -> torch.Tensor:
    return quat_to_matrix(torch.nn.functional.normalize(quats.double(), dim=1))


@each_kind
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([0, 1, 2, 7, 255, 256, 257, 300]),
    wild=st.booleans(),
    degree=st.sampled_from([None, None, 1, 2, 3]),
    spread=st.sampled_from([0.0, 1e-4, 0.1, 20.0]),
)
def test_any_gaussians_come_back_within_the_formats_steps(
    tmp_path_factory,
    kind: Kind,
    seed: int,
    count: int,
    wild: bool,
    degree: int | None,
    spread: float,
) -> None:
    path = tmp_path_factory.mktemp("splats") / f"me{kind.suffix}"
    original = gaussians_from(seed, count, wild=wild, degree=degree, spread=spread)
    kind.write(path, original)
    if count == 0 and kind.read is read_with_gsply:
        # gsply reads no empty file; the header alone says what there is.
        header = path.read_bytes().split(b"end_header\n")
        assert b"element vertex 0\n" in header[0]
        assert header[1] == b""
        return
    back = kind.read(path)
    assert len(back) == count
    for name in ("means", "quats", "scales", "opacities", "colours"):
        assert torch.isfinite(getattr(back, name)).all(), name
    if count == 0:
        return
    order = order_in_file(kind, original, back)
    if order is None:
        return
    means = back.means.numpy()[order]
    # Positions: exact, or a step of the format's.
    extent = float((original.means.max(0).values - original.means.min(0).values).max())
    step = {".compressed.ply": extent / 1023, ".spz": 2.0**-16}.get(kind.suffix, 0.0)
    assert np.abs(means - original.means.numpy()).max() <= 0.51 * step + 1e-6 * extent
    opacity_step = 0.0 if kind.suffix in (".ply", ".glb") else 1 / 255
    error = np.abs(back.opacities.numpy()[order] - original.opacities.clamp(0, 1).numpy())
    assert error.max() <= 0.51 * opacity_step + 2e-6
    check_scales_and_colours(kind, original, back, order)
    lengths = original.quats.double().norm(dim=1)
    told = lengths > 0
    turned = (rotations(back.quats[order]) - rotations(original.quats))[told].abs()
    bits = {".compressed.ply": 0.004, ".spz": 0.008, ".splat": 0.04}
    if told.any():
        assert float(turned.max()) <= bits.get(kind.suffix, 1e-5)


@each_kind
def test_the_picture_stays_the_same(kind: Kind, tiny_avatar, tmp_path: Path) -> None:
    with torch.no_grad():
        original = tiny_avatar.pose(tiny_avatar.rest)
    camera = front_camera(tiny_avatar, (256, 256))
    kind.write(tmp_path / f"me{kind.suffix}", original)
    back = kind.read(tmp_path / f"me{kind.suffix}")
    assert picture_psnr(original, back, camera) >= kind.psnr
    # The measure sees a difference: moved by 5 mm, the picture is another.
    moved = Gaussians(
        original.means + torch.tensor([0.005, 0, 0]),
        *(getattr(original, n) for n in ("quats", "scales", "opacities", "colours")),
    )
    assert picture_psnr(original, moved, camera) < 40


@each_kind
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_colours_from_the_side_stay_the_same(kind: Kind, degree: int, tmp_path: Path) -> None:
    if not kind.harmonics:
        pytest.skip(f"{kind.suffix} has no harmonics beyond the constant")
    original = gaussians_from(3, 200, degree=degree)
    path = tmp_path / f"me{kind.suffix}"
    kind.write(path, original)
    eye = torch.tensor([0.5, 0.3, 0.8])
    K = torch.tensor([[200.0, 0, 64], [0, 200, 64], [0, 0, 1]])
    camera = Camera(K, look_at(eye, torch.zeros(3)), 128, 128)
    assert picture_psnr(original, kind.read(path), camera) >= min(kind.psnr, 40)


@each_kind
def test_the_same_gaussians_give_the_same_bytes(kind: Kind, tmp_path: Path) -> None:
    original = gaussians_from(5, 300)
    kind.write(tmp_path / f"a{kind.suffix}", original)
    kind.write(tmp_path / f"b{kind.suffix}", original)
    content = [(tmp_path / f"{n}{kind.suffix}").read_bytes() for n in "ab"]
    assert content[0] == content[1]
    if kind.suffix == ".spz":
        assert content[0][4:8] == bytes(4)  # gzip's clock


@each_kind
def test_nothing_is_left_of_what_cannot_be_written(kind: Kind, tmp_path: Path) -> None:
    bad = gaussians_from(0, 4)
    bad.means[2, 1] = float("nan")
    path = tmp_path / f"me{kind.suffix}"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="Gaussian 2"):
        kind.write(path, bad)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="cannot be written"):
        kind.write(tmp_path / "missing" / path.name, gaussians_from(0, 4))


@each_kind
def test_a_write_that_breaks_off_leaves_nothing(kind: Kind, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))  # this system's EFBIG, for real
        with pytest.raises(InputError, match="cannot be written"):
            kind.write(tmp_path / f"me{kind.suffix}", gaussians_from(0, 3000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_in_the_command_lines_words(tmp_path: Path) -> None:
    from avatar.cli import _unforeseen

    with pytest.raises(OSError, match=r"me\.ply") as caught, naming_path(tmp_path / "me.ply"):
        raise OSError(errno.ENOSPC, "No space left on device")
    sentence = _unforeseen(caught.value)
    assert sentence is not None
    assert "me.ply" in sentence
    assert "Free some space" in sentence


def test_the_library_that_wrote_spz_reads_it_alike(tmp_path: Path) -> None:
    write_spz(tmp_path / "me.spz", gaussians_from(8, 100, degree=1))
    theirs, ours = gsply.read_spz(tmp_path / "me.spz"), read_spz(tmp_path / "me.spz")
    np.testing.assert_allclose(theirs.means, ours.means.numpy(), atol=1e-7)
    np.testing.assert_allclose(theirs.quats, ours.quats.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.exp(theirs.scales), ours.scales.numpy(), rtol=1e-6)
    np.testing.assert_allclose(theirs.shN, ours.colours[:, 1:].numpy(), atol=1e-7)


@pytest.mark.parametrize("degree", [None, 1, 2, 3])
def test_the_half_turn_shows_the_same_picture_to_a_turned_camera(degree: int | None) -> None:
    original = gaussians_from(11, 200, degree=degree)
    K = torch.tensor([[200.0, 0, 64], [0, 200, 64], [0, 0, 1]])
    camera = Camera(K, look_at(torch.tensor([0.4, 0.2, 0.7]), torch.zeros(3)), 128, 128)
    turn = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    turned = Camera(K, camera.T_cam_world @ turn, 128, 128)
    pictures = [
        rasterize(g, c, sh_degree=degree or 0).rgb
        for g, c in ((original, camera), (half_turned(original), turned))
    ]
    assert float(pictures[0].max()) > 0.3
    assert torch.allclose(*pictures, atol=2e-4)
    twice = half_turned(half_turned(original))
    assert torch.equal(twice.means, original.means)
    assert torch.equal(twice.colours, original.colours)


def test_neighbours_stay_together_along_the_curve() -> None:
    points = np.random.default_rng(0).random((4096, 3))
    order = nearby_order(points)
    assert sorted(order) == list(range(4096))
    groups = points[order].reshape(16, 256, 3)
    # 16 groups of equal volume have sides of about 0.4; in random order they would have 1.
    assert np.median(np.ptp(groups, axis=1)) < 0.6


def test_splat_files_begin_with_what_is_seen_most(tmp_path: Path) -> None:
    write_splat(tmp_path / "me.splat", gaussians_from(1, 100))
    back = read_splat(tmp_path / "me.splat")
    seen = back.scales.prod(1) * back.opacities
    assert (seen[:10].min() > seen[-10:].max()).item()


def test_far_positions_cost_spz_its_finest_bits(tmp_path: Path) -> None:
    far = gaussians_from(2, 50, spread=1000.0)
    write_spz(tmp_path / "far.spz", far)
    assert torch.allclose(read_spz(tmp_path / "far.spz").means, far.means, atol=2.0**-11)
    beyond = gaussians_from(2, 5, spread=1e9)
    with pytest.raises(InputError, match="farther than SPZ"):
        write_spz(tmp_path / "beyond.spz", beyond)
    assert not (tmp_path / "beyond.spz").exists()


def test_the_gltf_follows_the_extensions_rules(tmp_path: Path) -> None:
    original = gaussians_from(4, 60, degree=2)
    write_glb(tmp_path / "me.glb", original)
    document, _ = parse_glb(tmp_path / "me.glb")
    (primitive,) = document["meshes"][0]["primitives"]
    extension = primitive["extensions"]["KHR_gaussian_splatting"]
    assert extension == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    values = glb_attributes(tmp_path / "me.glb")
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    assert position["min"] == values["POSITION"].min(0).tolist()
    assert position["max"] == values["POSITION"].max(0).tolist()
    rotation = values["KHR_gaussian_splatting:ROTATION"]
    np.testing.assert_allclose(np.linalg.norm(rotation, axis=1), 1, atol=1e-6)
    assert (values["KHR_gaussian_splatting:SCALE"] >= 0).all()
    assert (values["KHR_gaussian_splatting:OPACITY"] <= 1).all()
    assert sum("SH_DEGREE_2" in name for name in values) == 5


def test_a_general_gltf_reader_shows_coloured_points(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    original = gaussians_from(4, 60)
    write_glb(tmp_path / "me.glb", original)
    scene = trimesh.load(tmp_path / "me.glb")
    (cloud,) = scene.geometry.values()
    np.testing.assert_array_equal(np.asarray(cloud.vertices, np.float32), original.means.numpy())
    linear = ((original.colours.numpy() + 0.055) / 1.055) ** 2.4
    shown = np.asarray(cloud.visual.vertex_colors)[:, :3] / 255
    bright = original.colours.numpy() > 0.05
    np.testing.assert_allclose(shown[bright], linear[bright], atol=0.51 / 255)


def test_harmonics_of_no_whole_degree_are_refused(tmp_path: Path) -> None:
    ordinary = gaussians_from(0, 4)
    wrong = Gaussians(
        ordinary.means, ordinary.quats, ordinary.scales, ordinary.opacities, torch.rand(4, 5, 3)
    )
    with pytest.raises(ValueError, match="1, 4, 9 or 16"):
        write_ply(tmp_path / "me.ply", wrong)
    assert list(tmp_path.iterdir()) == []
