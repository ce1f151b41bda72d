"""What the report says about a finished track: coverage, jitter, residuals, verdicts, advice, the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from avatar.capture_data import Landmarks, Track
from avatar.rig.arkit import ARKIT_GROUPS, ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import generic_arkit_basis
from avatar.rig.lattice import eyeball_centres, lattice_table
from capture.quality import Quality, judge
from capture.report import write_capture_report
from capture.report_charts import frame_ranges, occupancy, reach_bars
from capture.report_judge import advise, judge_track, missing_poses
from capture.report_track import (
    expression_reach,
    gaze_map,
    jitter,
    pick_apart,
    project_lattice,
    residuals_by_region,
    track_angles,
    turns_map,
    worst_frames,
)

FPS = 25.0
SIDE = 256


def make_track(
    yaw_deg: np.ndarray, pitch_deg: np.ndarray | None = None, noise_px: float = 0.0
) -> Track:
    """A track of the generic face before a camera, detected where it is, but for noise."""
    frames = len(yaw_deg)
    pitch = np.zeros(frames) if pitch_deg is None else pitch_deg
    vector = torch.zeros(2, frames, 3, dtype=torch.float64)
    vector[0, :, 1] = torch.from_numpy(np.radians(yaw_deg))
    vector[1, :, 0] = torch.from_numpy(np.radians(-pitch))  # looking up turns against x
    about = roma.rotvec_to_rotmat(vector)
    T = torch.eye(4).repeat(frames, 1, 1)
    T[:, :3, :3] = (about[0] @ about[1]).float()
    T_cam_world = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    T_cam_world[2, 3] = 0.6
    neutral = lattice_table().neutral
    track = Track(
        K=torch.tensor([[[360.0, 0, SIDE / 2], [0, 360.0, SIDE / 2], [0, 0, 1]]]),
        T_cam_world=T_cam_world[None],
        lattice=neutral,
        basis=generic_arkit_basis(),
        eyeballs=eyeball_centres(neutral),
        expression=torch.zeros(frames, len(ARKIT_NAMES)),
        gaze=torch.zeros(frames, 2, 2),
        T_world_head=T,
        T_world_torso=T,
        landmarks_px=torch.zeros(frames, 478, 2),
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool),
        expression_names=ARKIT_NAMES,
        rig="lattice",
        fps=FPS,
    )
    points, _ = project_lattice(track, np.arange(frames))
    points = points + np.random.default_rng(0).normal(0, noise_px, points.shape)
    gap = points - project_lattice(track, np.arange(frames))[0]
    residual = np.sqrt((gap**2).sum(-1).mean(1))
    return replace(
        track,
        landmarks_px=torch.from_numpy(points).float(),
        residual_px=torch.from_numpy(residual).float(),
    )


def sweep(frames: int = 200) -> Track:
    """A head that turns both ways, nods, looks about and makes every face; detected well."""
    phase = np.arange(frames) / frames * 2 * np.pi
    track = make_track(40 * np.sin(phase), 20 * np.sin(2 * phase), noise_px=0.3)
    track.expression[:] = torch.from_numpy(np.abs(np.sin(3 * phase)))[:, None]
    gaze = np.stack([0.4 * np.sin(5 * phase), 0.3 * np.cos(5 * phase)], 1)
    track.gaze[:] = torch.from_numpy(gaze)[:, None]
    points, _ = project_lattice(track, np.arange(frames))
    track.landmarks_px[:] = torch.from_numpy(points).float() + 0.3
    track.residual_px[:] = 0.3 * 2**0.5
    return track


def still(frames: int = 120) -> Track:
    """A head that never turns and a face that never moves."""
    return make_track(np.zeros(frames), noise_px=0.3)


def test_angles_are_the_subjects_left_and_up() -> None:
    track = make_track(np.array([0.0, 30.0, 0.0]), np.array([0.0, 0.0, 20.0]))
    expected = np.array([[0, 0, 0], [30, 0, 0], [0, 20, 0]])
    assert track_angles(track) == pytest.approx(expected, abs=1e-3)


def test_turns_are_counted_where_they_are() -> None:
    yaw = np.repeat([0.0, 30.0, -30.0, 60.0], [10, 20, 5, 1])
    counted = turns_map(make_track(yaw))
    middle = list(counted.y_edges).index(-8.0)
    assert counted.counts.sum() == 36
    assert counted.counts[middle].tolist() == [0, 5, 0, 10, 0, 20, 1]
    wild = replace(make_track(yaw), valid=torch.arange(36) < 10)
    assert turns_map(wild).counts.sum() == 10, "frames that are not valid do not count"


def test_angles_beyond_the_map_fall_into_its_last_cells() -> None:
    counted = turns_map(make_track(np.array([120.0, -120.0])))
    assert counted.counts.sum() == 2
    assert counted.counts[:, 0].sum() == counted.counts[:, -1].sum() == 1


def test_gaze_is_counted_where_it_is() -> None:
    track = make_track(np.zeros(4))
    track.gaze[:2] = torch.tensor([np.radians(25.0), 0.0]).float()
    track.gaze[2:] = torch.tensor([0.0, np.radians(-10.0)]).float()
    counts = gaze_map(track).counts
    assert counts[2, 4] == 2
    assert counts[1, 2] == 2


def test_smooth_motion_is_no_jitter_and_noise_is() -> None:
    t = np.arange(200) / FPS
    swing = 25 * np.sin(2 * np.pi * 0.5 * t)  # a quick turn to both sides within two seconds
    smooth = jitter(make_track(swing))
    assert smooth.rotation_deg > 0.2, "second differences hold the motion"
    assert smooth.rotation_extra_deg < 0.01, "fourth differences do not"
    sigma = 0.2
    shaken = jitter(make_track(swing + np.random.default_rng(1).normal(0, sigma, 200)))
    # Second differences of white noise have sqrt(6) of its sigma; 200 frames tell it to 10 %.
    assert shaken.rotation_extra_deg == pytest.approx(sigma * 6**0.5, rel=0.15)


def test_jitter_does_not_look_across_gaps() -> None:
    track = make_track(np.repeat([0.0, 30.0], 20))
    assert jitter(track).rotation_deg > 1
    track.valid[18:22] = False
    assert jitter(track).rotation_deg < 1e-3
    track.valid[:] = torch.arange(40) % 3 == 0
    assert jitter(track).rotation_deg == 0, "no three frames in a row"


def test_residuals_are_told_apart_by_region() -> None:
    track = make_track(np.zeros(8))
    lips = [13, 14, 0, 17]
    track.landmarks_px[3, lips] += 5.0
    track.valid[5] = False
    curves = residuals_by_region(track)
    assert np.isnan(curves["mouth"][5])
    assert curves["mouth"][3] > 1
    assert curves["mouth"][2] < 1e-3
    assert np.nanmax(curves["eyes"]) < 1e-3
    assert 0 < curves["all"][3] < curves["mouth"][3]


def test_points_turned_away_do_not_count() -> None:
    track = make_track(np.full(2, 60.0))
    _, faces = project_lattice(track, np.arange(2))
    near, far = 234, 454  # edges of the face to the subject's right and left
    assert faces[0, near]
    assert not faces[0, far]
    track.landmarks_px[:, ~faces[0]] += 50
    assert np.nanmax(residuals_by_region(track)["all"]) < 1e-3


def test_worst_frames_lie_apart() -> None:
    track = make_track(np.zeros(100))
    track.residual_px[:] = torch.arange(100).float()
    track.valid[99] = False
    assert worst_frames(track, 3) == [98, 86, 74]
    assert pick_apart(np.array([1.0, -np.inf]), 5, 1) == [0]
    assert pick_apart(np.array([]), 3, 2) == []


def test_a_full_take_is_good_and_a_still_one_is_told_what_is_missing() -> None:
    good = judge_track(sweep(), SIDE, SIDE)
    assert {key: item.verdict for key, item in good.items()} == dict.fromkeys(good, "ok")
    poor = judge_track(still(), SIDE, SIDE)
    for key in ("yaw_range", "pitch_range", "expressions", "gaze_range"):
        assert poor[key].verdict == "warn", key
    assert "left or right" in poor["yaw_range"].advice
    for item in (*good.values(), *poor.values()):
        assert item.advice.endswith(".")


def test_the_side_that_is_missing_is_named() -> None:
    one_sided = judge_track(make_track(np.linspace(0, 45, 60)), SIDE, SIDE)["yaw_range"]
    assert one_sided.verdict == "warn"
    assert "to your right" in one_sided.advice.split("(")[0]
    other = judge_track(make_track(np.linspace(-45, 0, 60)), SIDE, SIDE)["yaw_range"]
    assert "to your left" in other.advice.split("(")[0]


def test_a_shaking_and_badly_fitting_track_is_told() -> None:
    shaking = make_track(np.random.default_rng(2).normal(0, 3, 100))
    assert judge_track(shaking, SIDE, SIDE)["jitter"].verdict == "bad"
    missed = make_track(np.zeros(100), noise_px=12)
    assert judge_track(missed, SIDE, SIDE)["residual"].verdict == "bad"
    lost = replace(still(), valid=torch.zeros(120, dtype=torch.bool))
    items = judge_track(lost, SIDE, SIDE)
    assert items["tracked"].verdict == "bad"
    assert set(items) == {"tracked"}, "nothing else can be said"


@pytest.mark.parametrize(("sigma", "verdict"), [(0.03, "ok"), (0.33, "warn")])
def test_a_clip_that_cannot_tell_its_focal_length_says_so(sigma: float, verdict: str) -> None:
    focal = {"px": 512.0, "prior_px": 512.0, "relative_sigma": sigma}
    item = judge_track(sweep(), SIDE, SIDE, focal)["focal"]
    assert item.verdict == verdict
    assert ("cannot tell its focal length" in item.advice) == (verdict == "warn")
    assert "focal" not in judge_track(sweep(), SIDE, SIDE)


def test_advice_puts_first_what_gains_most() -> None:
    track = still()
    items = Quality(judge_track(track, SIDE, SIDE)).as_json()["items"]
    items["sharpness"] = {"label": "Sharpness", "advice": "Soft.", "verdict": "bad"}
    advice = advise(items, expression_reach(track))
    titles = [item.title for item in advice]
    assert titles[0] == "Sharpness", "what is bad comes before what could be better"
    assert titles.index("Turn to the sides") < titles.index("Nod")
    expressions = next(item for item in advice if item.title.startswith("Expressions"))
    missing = [len(names) for _, names in expressions.poses]
    assert missing == sorted(missing, reverse=True)
    assert sum(missing) == 43, "each coefficient that is asked for, once"
    assert advise(Quality(judge_track(sweep(), SIDE, SIDE)).as_json()["items"], {}) == []


def test_poses_are_asked_for_by_what_is_missing() -> None:
    reach = dict.fromkeys(ARKIT_NAMES, 0.9)
    assert missing_poses(reach) == ()
    reach["cheekPuff"] = 0.1
    ((step, names),) = missing_poses(reach)
    assert "cheeks" in step.text
    assert names == ("cheekPuff",)


def test_expressions_reach_is_of_valid_frames() -> None:
    track = still()
    track.expression[:100, ARKIT_INDEX["jawOpen"]] = 0.8
    track.expression[100:, ARKIT_INDEX["cheekPuff"]] = 1.0
    track.valid[100:] = False
    reach = expression_reach(track)
    assert reach["jawOpen"] == pytest.approx(0.8)
    assert reach["cheekPuff"] == 0


def test_frames_are_written_as_ranges() -> None:
    assert frame_ranges([5, 3, 4, 9]) == "3-5, 9"
    assert frame_ranges([]) == ""
    assert frame_ranges(list(range(0, 100, 2))).endswith("and 26 more")


class Drawn:
    """Pictures of a grey card: what stands behind the head does not matter here."""

    def frame(self, frame: int) -> np.ndarray:
        return np.full((SIDE, SIDE, 3), 40 + frame % 100, np.uint8)

    def mask(self, frame: int) -> np.ndarray:
        return np.full((SIDE, SIDE), 255, np.uint8)


class Outside(HTMLParser):
    """Collects what a page would fetch, and checks that its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("data:"):
                self.fetched.append(value or "")
        if tag not in ("meta", "img", "line", "rect", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def write_page(path: Path, track: Track, **more: object) -> str:
    """Write a capture's report as the pipeline does; return it after a check of its tags."""
    frames = len(track)
    landmarks = Landmarks(
        torch.cat([track.landmarks_px, track.landmarks_px[..., :1]], -1), track.valid
    )
    looks = {
        name: np.full(frames, value)
        for name, value in (
            ("sharpness", 0.2),
            ("brightness", 120.0),
            ("dark", 0.0),
            ("bright", 0.0),
        )
    }
    items = judge_track(track, SIDE, SIDE, more.get("focal"))  # type: ignore[arg-type]
    if track.valid.any():
        items = {**judge(landmarks, looks, fps=FPS, frames_with_others=0).items, **items}
    header = {
        "source": "<me>.mp4", "frames": frames, "fps": FPS, "warnings": ["Careful & slow."],
        "cameras": [{"width": SIDE, "height": SIDE}], "seconds": {"track": 1.0},
        "quality": Quality(items).as_json(), **more,
    }  # fmt: skip
    json.dumps(header, allow_nan=False)
    write_capture_report(
        path, landmarks, track, Drawn(), header, facts="a clip", sharpness=looks["sharpness"]
    )
    page = path.read_text()
    parser = Outside()
    parser.feed(page)
    assert parser.open == [], "every tag is closed"
    assert parser.fetched == [], "the page needs nothing from outside"
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()
    assert "<me>" not in page
    return page


def test_the_page_shows_it_all(tmp_path: Path) -> None:
    track = sweep()
    track.valid[10:14] = False
    page = write_page(
        tmp_path / "report.html",
        track,
        focal={"px": 360.0, "prior_px": 512.0, "relative_sigma": 0.04},
        invalid={"blurred": [10, 11, 12], "no face": [13]},
    )
    assert page.count("data:image/webp;base64,") == 6, "the worst frames"
    assert "<td>10-12</td>" in page
    assert "360 px &plusmn; 4 %" in page
    assert page.count('class="map"') == 2
    assert all(f"<span>{name}</span>" in page for name in ARKIT_NAMES)
    advised = re.findall(r'<li><span class="v warn">([^<]*)\.</span>', page)
    assert advised == ["Length", "Width of the face"], "eight seconds at 256 px; all else is good"


def test_an_old_capture_without_the_new_fields_has_its_page(tmp_path: Path) -> None:
    page = write_page(tmp_path / "report.html", still())
    assert "The head hardly turns" in page
    assert "<p>None.</p>" in page, "no frame was left out"


def test_a_clip_without_any_tracked_frame_has_its_page(tmp_path: Path) -> None:
    lost = replace(still(), valid=torch.zeros(120, dtype=torch.bool))
    page = write_page(tmp_path / "report.html", lost)
    assert "No frame could be tracked" in page
    assert "<td>0-119</td>" in page


def test_a_profile_throughout_has_its_page(tmp_path: Path) -> None:
    page = write_page(tmp_path / "report.html", make_track(np.full(60, 89.0)))
    assert "Residual by region" in page


def test_charts_say_what_they_show() -> None:
    counted = turns_map(make_track(np.repeat([0.0, 30.0], [250, 1])))
    drawn = occupancy(counted, FPS, label="turns", x_ends=("a", "b"), y_ends=("c", "d"))
    assert "10 s" in drawn
    assert "&lt; 0.1 s" in drawn
    assert drawn.count("stroke-dasharray") == counted.counts.size - 2
    bars = reach_bars({"jawOpen": 1.4, "jawLeft": 0.4}, ARKIT_GROUPS)
    assert "width:100%" in bars
    assert "some" in bars
    assert "jawRight" not in bars
