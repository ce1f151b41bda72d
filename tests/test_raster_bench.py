"""The benchmark measures the scene that it says it does, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from avatar.raster import bench, rasterize
from avatar.raster.bench import bench_rasterizer, standard_scene
from avatar.raster.native import count_lanes
from avatar.raster.reference import EPS2D, project
from avatar.train.bench import avatar_step
from avatar.train.config import TrainConfig
from avatar.types import Camera, Gaussians

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
        for name in COLUMNS:
            stem = name.removesuffix("_ms")
            assert 0 < row[f"{stem}_min_ms"] <= row[name] <= row[f"{stem}_max_ms"]
        assert row["lanes_per_pair"] >= 1
        # Of the processor's multiply-adds, blending 80 Gaussians takes little but not nothing.
        assert 0 < row["forward_fma_share"] < 1
        assert 0 < row["backward_fma_share"] < 1
    assert {"cpu", "simd", "torch"} <= set(result["machine"])
    rates = result["machine"]["fma_gflops"]
    assert set(rates) == {"1", "2"}
    assert all(rate > 1 for rate in rates.values())
    assert stages[-1].done == stages[-1].total == 4


def test_lanes_are_counted_as_the_oracle_counts_them():
    # One Gaussian in the middle of one block of an 8x8 picture, then the same behind an opaque wall.
    camera = Camera(
        torch.tensor([[8.0, 0, 4], [0, 8.0, 4], [0, 0, 1]]), torch.eye(4), width=8, height=8
    )
    small = Gaussians(
        means=torch.tensor([[-0.25, -0.25, 1.0]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        scales=torch.full((1, 3), 1e-4),
        opacities=torch.tensor([0.5]),
        colours=torch.ones(1, 3),
    )
    reached = int((rasterize(small, camera).alpha > 0).sum())
    assert count_lanes(small, camera) == (16, reached)
    wall = Gaussians(
        *(
            torch.cat([new, getattr(small, name)])
            for name, new in (
                ("means", torch.tensor([[0.0, 0, 0.5]]).repeat(3, 1)),
                ("quats", torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1)),
                ("scales", torch.full((3, 3), 10.0)),
                ("opacities", torch.ones(3)),
                ("colours", torch.zeros(3, 3)),
            )
        )
    )
    # Two Gaussians of alpha 0.999 would leave 1e-6: the second ends every pixel, and no more are asked.
    assert count_lanes(wall, camera) == (2 * 64, 2 * 64)


def test_the_reference_and_an_avatars_step_stand_beside_ours(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "REFERENCE_CASE", (40, 32))
    result = bench_rasterizer((32,), (40,), (1,), repeats=2, avatar_step=avatar_step)
    ours, reference = result["rows"]
    assert ours["avatar_step_ms"] > 0
    assert reference["backend"] == "reference"
    total = reference["forward_ms"] + reference["backward_ms"]
    assert reference["times_cpu"] == pytest.approx(
        total / (ours["forward_ms"] + ours["backward_ms"])
    )
    bench.plot_rows(result["rows"], tmp_path / "rows.png")
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.width > 300


def test_an_avatars_step_changes_nothing_and_may_be_repeated():
    gaussians, camera = standard_scene(60, 32)
    before = gaussians.means.clone()
    step = avatar_step(gaussians, camera, torch.rand(32, 32, 3))
    for _ in range(TrainConfig().deformer_frames + 1):
        step()
    assert torch.equal(gaussians.means, before)


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
