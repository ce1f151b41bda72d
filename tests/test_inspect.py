"""``avatar inspect``: every kind of file, and what is damaged."""

from __future__ import annotations

import json

import av
import cv2
import numpy as np
import pytest
import torch
from test_watermark import head

from avatar.checks import InputError
from avatar.cli_inspect import _spread_frames, examine_file, inspect_file
from avatar.export.ply import write_ply
from avatar.export.provenance import (
    avatar_id,
    fingerprint,
    in_page,
    in_png,
    manifest,
    set_facts,
)
from avatar.export.report import write_picture
from avatar.export.video import VideoWriter
from avatar.export.watermark import Watermark
from avatar.model.avatar import Avatar


@pytest.fixture
def mine(tiny_avatar, tmp_path):
    """Return an avatar that knows whom it shows, as stored."""
    tiny_avatar.save(tmp_path / "me.avatar")
    set_facts(tmp_path / "me.avatar", who="Ada", consent="to all")
    return Avatar.load(tmp_path / "me.avatar")


def test_an_avatar_is_told(mine, tmp_path, capsys):
    found = examine_file(tmp_path / "me.avatar")
    assert found["kind"] == "avatar"
    assert found["who"] == "Ada"
    assert found["gaussians"] == len(mine)
    assert found["sha256"] == fingerprint(mine)
    inspect_file(tmp_path / "me.avatar", set_who="Bob \U0001f600", set_consent="")
    said = capsys.readouterr().out
    assert "Bob" in said
    assert "consent                not told" in said
    inspect_file(tmp_path / "me.avatar", json_file=tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["who"].startswith("Bob")


def test_a_video_is_told_after_its_mark(mine, tmp_path, capsys):
    mark = Watermark(avatar_id(fingerprint(mine)))
    made = manifest(mine, format="video/mp4", marked=True)
    with VideoWriter(tmp_path / "x.mp4", 25, manifest=made) as video:
        for frame in range(10):
            video.write(mark.mark(head(frame)))
    found = examine_file(tmp_path / "x.mp4")
    assert found["kind"] == "video"
    assert found["frames"] == 10
    assert found["who"] == "Ada"
    assert found["watermark"]["found"]
    assert found["watermark"]["avatar"] == fingerprint(mine)[:8]
    assert found["watermark"]["agrees_with_provenance"] is True
    inspect_file(tmp_path / "x.mp4")
    assert "synthetic rendering of a personal head avatar" in capsys.readouterr().out
    # Somebody else's manifest on it does not go unseen.
    mine.means.data += 1
    other = manifest(mine, format="video/mp4")
    with VideoWriter(tmp_path / "y.mp4", 25, manifest=other) as video:
        video.write(mark.mark(head()))
    assert examine_file(tmp_path / "y.mp4")["watermark"]["agrees_with_provenance"] is False
    inspect_file(tmp_path / "y.mp4")
    assert "NOT the avatar" in capsys.readouterr().out


def test_pictures_and_pages_are_told(mine, tmp_path):
    mark = Watermark(avatar_id(fingerprint(mine)))
    made = manifest(mine, format="image/jpeg")
    write_picture(tmp_path / "x.jpg", mark.mark(head()), made)
    _, png = cv2.imencode(".png", mark.mark(head())[..., ::-1])
    (tmp_path / "x.png").write_bytes(in_png(png.tobytes(), made))
    for name in ("x.jpg", "x.png"):
        found = examine_file(tmp_path / name)
        assert found["provenance"] == made
        assert found["watermark"]["avatar"] == fingerprint(mine)[:8]
        assert found["size"] == [512, 512]
    (tmp_path / "x.html").write_text(in_page("<head></head>", made))
    found = examine_file(tmp_path / "x.html")
    assert found["who"] == "Ada"
    assert found["watermark"] is None


def test_a_manifest_of_odd_parts_is_told(tmp_path, capsys):
    for actions in (["made"], [5], "made", [[]], None):
        made = {"manifest": "headsplat.provenance", "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": "headsplat.avatar", "data": {"sha256": [1], "who": {"a": 1}}},
        ]}  # fmt: skip
        (tmp_path / "x.html").write_text(in_page("<head></head>", made))
        inspect_file(tmp_path / "x.html")
        assert "no date" in capsys.readouterr().out


def test_a_ply_of_impossibly_many_elements_is_told(tmp_path):
    path = tmp_path / "x.ply"
    path.write_text(f"ply\nelement vertex {'9' * 5000}\nproperty float x\nend_header\n")
    assert examine_file(path)["elements"] == {"vertex": None}


def test_a_large_video_is_looked_at_within_memory(tmp_path, monkeypatch):
    path = tmp_path / "x.mp4"
    with VideoWriter(path, 25) as writer:
        for _ in range(30):
            writer.write(head(size=128))
    monkeypatch.setattr("avatar.cli_inspect.MOST_VIDEO_PIXELS", 5 * 128 * 128 + 1)
    with av.open(str(path)) as container:
        frames = _spread_frames(container, container.streams.video[0])
    assert [frame.shape for frame in frames] == 5 * [(128, 128, 3)]
    assert examine_file(path)["frames"] == 30


def test_foreign_files_are_not_claimed(tmp_path):
    _, png = cv2.imencode(".png", head(size=128))
    (tmp_path / "x.png").write_bytes(png.tobytes())
    found = examine_file(tmp_path / "x.png")
    assert found["provenance"] is None
    assert not found["watermark"]["found"]
    (tmp_path / "x.html").write_text("<p>")
    assert examine_file(tmp_path / "x.html")["provenance"] is None


def test_gaussians_are_told(mine, tmp_path):
    with torch.no_grad():
        write_ply(tmp_path / "x.ply", mine.pose(mine.rest))
    found = examine_file(tmp_path / "x.ply")
    assert found["kind"] == "gaussians"
    assert found["elements"] == {"vertex": len(mine)}


def test_folders_are_told(mine, tmp_path):
    run = tmp_path / "me.run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"format": "headsplat.run", "version": 1}))
    mine.save(run / "avatar.avatar")
    found = examine_file(run)
    assert found["kind"] == "run"
    assert found["avatar"]["who"] == "Ada"
    capture = tmp_path / "me.capture"
    capture.mkdir()
    header = {
        "format": "headsplat.capture",
        "version": 1,
        "frames": 9,
        "quality": {"overall": "ok"},
    }
    (capture / "capture.json").write_text(json.dumps(header))
    assert examine_file(capture)["quality"] == "ok"
    assert examine_file(tmp_path)["kind"] == "avatar"
    (capture / "capture.json").write_text("[" * 10_000)
    with pytest.raises(InputError, match="damaged"):
        examine_file(capture)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither a capture nor a run"):
        examine_file(tmp_path / "empty")


def test_damaged_files_are_named(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("x.avatar", "x.mp4", "x.png", "x.jpg", "x.ply"):
        for content in (
            b"",
            b"\0",
            rng.bytes(500),
            b"ply\nend",
            b"\x89PNG\r\n\x1a\n" + rng.bytes(99),
        ):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(InputError, match=name):
                examine_file(tmp_path / name)
    for name, word in (("none.png", "does not exist"), ("x.txt", "of no kind")):
        (tmp_path / "x.txt").write_text("x")
        with pytest.raises(InputError, match=word):
            examine_file(tmp_path / name)
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"write into an \.avatar file"):
        inspect_file(tmp_path / "x.png", set_who="Ada")


def test_a_text_out_of_a_file_does_not_command_the_terminal(mine, tmp_path, capsys):
    mine.header["who"] = "Ada\x1b[2J\nkind   trusted"
    mine.save(tmp_path / "x.avatar")
    inspect_file(tmp_path / "x.avatar")
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\nkind   trusted" not in said
