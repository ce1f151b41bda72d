"""PLY files, read back by gsply, which shares no code with the writer."""

from __future__ import annotations

from pathlib import Path

import gsply
import numpy as np
import pytest
import torch

from avatar.checks import InputError
from avatar.export.ply import write_ply
from avatar.types import Gaussians


def random_gaussians(count: int = 50, degree: int | None = None) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3) if degree is None else (count, (degree + 1) ** 2, 3)
    return Gaussians(
        torch.randn(count, 3, generator=generator),
        torch.randn(count, 4, generator=generator),
        torch.rand(count, 3, generator=generator) * 0.02 + 1e-3,
        torch.rand(count, generator=generator),
        torch.rand(*shape, generator=generator),
    )


def test_an_independent_reader_finds_the_same_gaussians(tmp_path: Path) -> None:
    gaussians = random_gaussians()
    write_ply(tmp_path / "me.ply", gaussians)
    back = gsply.plyread(tmp_path / "me.ply")
    # Single precision through a logarithm or a logit and back.
    np.testing.assert_array_equal(back.means, gaussians.means.numpy())
    np.testing.assert_allclose(np.exp(back.scales), gaussians.scales.numpy(), rtol=1e-5)
    np.testing.assert_allclose(
        gsply.sigmoid(back.opacities), gaussians.opacities.numpy(), atol=1e-6
    )
    unit = torch.nn.functional.normalize(gaussians.quats, dim=-1).numpy()
    np.testing.assert_allclose(back.quats, unit, atol=1e-6)
    np.testing.assert_allclose(gsply.sh2rgb(back.sh0), gaussians.colours.numpy(), atol=1e-6)
    assert back.shN is None or back.shN.size == 0


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_spherical_harmonics_keep_their_order(tmp_path: Path, degree: int) -> None:
    gaussians = random_gaussians(degree=degree)
    write_ply(tmp_path / "me.ply", gaussians)
    back = gsply.plyread(tmp_path / "me.ply")
    np.testing.assert_allclose(back.sh0, gaussians.colours[:, 0].numpy(), atol=1e-7)
    names = (tmp_path / "me.ply").read_bytes().split(b"end_header\n")[0].decode().splitlines()
    fields = [line.split()[-1] for line in names if line.startswith("property")]
    table = np.frombuffer((tmp_path / "me.ply").read_bytes().split(b"end_header\n", 1)[1], "<f4")
    table = table.reshape(50, len(fields))
    # The layout stores red's coefficients, then green's, then blue's.
    per_channel = (degree + 1) ** 2 - 1
    for channel in range(3):
        for k in range(per_channel):
            column = table[:, fields.index(f"f_rest_{channel * per_channel + k}")]
            np.testing.assert_array_equal(column, gaussians.colours[:, 1 + k, channel].numpy())


def test_the_fields_are_those_of_the_original_layout(tmp_path: Path) -> None:
    write_ply(tmp_path / "me.ply", random_gaussians(1))
    header = (tmp_path / "me.ply").read_bytes().split(b"end_header\n")[0].decode()
    fields = [line.split()[-1] for line in header.splitlines() if line.startswith("property")]
    expected = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
    assert fields == expected.split()


def test_extreme_opacities_and_scales_stay_finite(tmp_path: Path) -> None:
    gaussians = random_gaussians(2)
    flat = Gaussians(
        gaussians.means,
        gaussians.quats,
        torch.zeros(2, 3),
        torch.tensor([0.0, 1.0]),
        gaussians.colours,
    )
    write_ply(tmp_path / "me.ply", flat)
    back = gsply.plyread(tmp_path / "me.ply")
    assert np.isfinite(back.scales).all()
    assert np.isfinite(back.opacities).all()
    np.testing.assert_allclose(gsply.sigmoid(back.opacities), [0, 1], atol=1e-5)


def test_a_posed_avatar_is_exported(tiny_avatar, tmp_path: Path) -> None:
    gaussians = tiny_avatar.pose(tiny_avatar.rest)
    write_ply(tmp_path / "me.ply", gaussians)
    back = gsply.plyread(tmp_path / "me.ply")
    np.testing.assert_allclose(back.means, gaussians.means.detach().numpy(), atol=1e-7)


def test_nan_and_wrong_shapes_are_refused(tmp_path: Path) -> None:
    gaussians = random_gaussians(4)
    gaussians.means[2, 1] = float("nan")
    with pytest.raises(ValueError, match="Gaussian 2"):
        write_ply(tmp_path / "me.ply", gaussians)
    wrong = Gaussians(
        torch.zeros(4, 3), torch.ones(3, 4), torch.ones(4, 3), torch.ones(4), torch.ones(4, 3)
    )
    with pytest.raises(ValueError, match="quats"):
        write_ply(tmp_path / "me.ply", wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/me\.ply cannot be written"):
        write_ply(tmp_path / "missing" / "me.ply", random_gaussians(1))
