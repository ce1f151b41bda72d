"""The benchmark measures the scene that it says it does, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

from avatar.raster import rasterize
from avatar.raster.bench import bench_rasterizer, standard_scene
from avatar.raster.reference import EPS2D, project

COLUMNS = {"forward_ms", "backward_ms", "loss_ms", "adam_ms", "step_ms"}


def test_the_standard_scene_has_the_statistics_it_promises():
    gaussians, camera = standard_scene(5000, 512)
    assert gaussians.opacities.mean() == pytest.approx(0.69, abs=0.01)
    assert (gaussians.opacities > 0.5).float().mean() == pytest.approx(0.78, abs=0.02)
    _, covariances, _ = project(
        gaussians.means, gaussians.quats, gaussians.scales, camera.K, camera.T_cam_world, 512, 512
    )
    sharp = torch.linalg.eigvalsh(covariances - EPS2D * torch.eye(2)).clamp(min=0).sqrt()
    # 5000 samples of a spread of 1 px: the mean is known to about 0.02 px.
    assert sharp.mean() == pytest.approx(2.3, abs=0.05)
    rows = (rasterize(gaussians, camera).alpha > 0.5).any(1).nonzero()[:, 0]
    # 64 % of the height, and up to about one sigma of a Gaussian more at either end.
    assert int(rows[-1] - rows[0] + 1) / 512 == pytest.approx(0.64, abs=0.03)


def test_the_scene_does_not_depend_on_the_resolution():
    small, camera = standard_scene(50, 64)
    large, twice = standard_scene(50, 128)
    for name in ("means", "quats", "scales", "opacities", "colours"):
        torch.testing.assert_close(getattr(small, name), getattr(large, name), rtol=0, atol=0)
    torch.testing.assert_close(camera.scaled(128, 128).K, twice.K)


def test_rows_are_complete_and_the_thread_count_is_restored():
    before = torch.get_num_threads()
    stages = []
    result = bench_rasterizer((32,), (40, 80), (1, 2), repeats=2, report=stages.append)
    assert torch.get_num_threads() == before
    assert [(r["n"], r["size"], r["threads"]) for r in result["rows"]] == [
        *((40, 32, 1), (40, 32, 2)),
        *((80, 32, 1), (80, 32, 2)),
    ]
    for row in result["rows"]:
        assert row["backend"] == "cpu"
        assert all(row[name] > 0 for name in COLUMNS)
    assert {"cpu", "simd", "torch"} <= set(result["machine"])
    assert stages[-1].done == stages[-1].total == 4


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"sizes": ()}, "sizes"),
        ({"ns": (0,)}, "ns"),
        ({"threads": (0,)}, "threads"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_numbers_below_one_are_refused_by_name(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        bench_rasterizer(**arguments)
