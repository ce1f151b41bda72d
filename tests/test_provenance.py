"""What exported files say about themselves, and what an avatar knows of its person."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime, timezone

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar.checks import InputError
from avatar.export import provenance
from avatar.export.provenance import (
    assertion,
    avatar_id,
    fingerprint,
    from_jpeg,
    from_page,
    from_png,
    from_text,
    from_video,
    in_jpeg,
    in_page,
    in_png,
    manifest,
    read_header,
    set_facts,
    to_text,
    today,
)
from avatar.export.video import VideoWriter
from avatar.model.avatar import Avatar
from avatar.tensorfile import read_tensors, write_tensors

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
NASTY = 'A "B" </script><script>alert(1)</script> \\ é 人 \n'


@pytest.fixture
def made(tiny_avatar):
    tiny_avatar.header |= {"who": NASTY.strip(), "consent": "to all", "source_sha256": "ab" * 32}
    return manifest(tiny_avatar, format="video/mp4", title="x.mp4", marked=True, when=WHEN)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_a_manifest_tells_what_made_it_and_whom_it_shows(made, tiny_avatar):
    sha256 = fingerprint(tiny_avatar)
    action = assertion(made, "c2pa.actions.v2")["actions"][0]
    assert action["when"] == "2026-01-02T03:04:05Z"
    assert "synthetic" in action["description"]
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    shown = assertion(made, "headsplat.avatar")
    assert shown == {
        "sha256": sha256,
        "who": NASTY.strip(),
        "consent": "to all",
        "source_sha256": "ab" * 32,
    }
    assert assertion(made, "c2pa.soft-binding")["value"] == f"{avatar_id(sha256):08x}"
    assert made["signed"] is False
    bare = manifest(tiny_avatar, format="image/png", when=WHEN)
    assert assertion(bare, "c2pa.soft-binding") == {}


def test_every_container_gives_it_back(made, tmp_path):
    _, png = cv2.imencode(".png", picture())
    _, jpeg = cv2.imencode(".jpg", picture())
    for content, put, take in ((png, in_png, from_png), (jpeg, in_jpeg, from_jpeg)):
        plain = content.tobytes()
        assert take(plain) is None
        held = put(plain, made)
        assert take(held) == made
        assert (cv2.imdecode(np.frombuffer(held, np.uint8), 1) == cv2.imdecode(content, 1)).all()
    page = in_page("<html><head><title>x</title></head><body></body></html>", made)
    assert from_page(page) == made
    assert page.count("<") == 9, "no text of a user begins or ends an element"
    with VideoWriter(tmp_path / "x.mp4", 25, manifest=made) as video:
        video.write(picture())
    assert from_video(tmp_path / "x.mp4") == made
    with VideoWriter(tmp_path / "plain.mp4", 25) as video:
        video.write(picture())
    assert from_video(tmp_path / "plain.mp4") is None


def test_a_fixed_date_makes_files_alike(tiny_avatar, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert today() == datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    texts = {to_text(manifest(tiny_avatar, format="image/png")) for _ in range(2)}
    assert len(texts) == 1
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH"):
        today()


@given(st.binary(max_size=400))
def test_no_bytes_break_a_reader(data):
    for reader in (from_png, from_jpeg, from_text):
        assert reader(data) is None
    assert from_png(b"\x89PNG\r\n\x1a\n" + data) is None
    assert from_jpeg(b"\xff\xd8\xff\xfe" + data) is None
    assert from_page(data.decode("latin-1")) is None
    assert from_page(provenance.PAGE_MARK + data.decode("latin-1")) is None
    assert from_text(b"[" * 50_000) is None
    assert assertion({"assertions": [None, 1, {"label": "x", "data": 3}]}, "x") == {}


def test_a_manifest_that_is_too_large_is_not_written_or_read(made):
    with pytest.raises(ValueError, match="bytes"):
        to_text(made | {"title": "x" * 70_000})
    assert from_text(json.dumps(made | {"title": "x" * 70_000})) is None


def test_facts_are_written_without_touching_a_number(tiny_avatar, tmp_path):
    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    before, sha256 = path.read_bytes(), fingerprint(Avatar.load(path))
    set_facts(path, who="  Ada ", consent="Agreed to\ntalks.", created="2026-01-02")
    after = Avatar.load(path)
    assert after.header["who"] == "Ada"
    assert after.header["consent"] == "Agreed to\ntalks."
    assert fingerprint(after) == sha256
    after.save(tmp_path / "again.avatar")
    assert Avatar.load(tmp_path / "again.avatar").header["who"] == "Ada"
    set_facts(path, who="")
    header = read_header(path)
    assert "who" not in header
    assert header["consent"] == "Agreed to\ntalks."
    set_facts(path, consent="")
    assert read_header(path).get("created") == "2026-01-02"
    tensors = path.read_bytes()
    assert tensors.endswith(before[-1000:])
    assert list(tmp_path.glob(".*")) == []


def test_facts_that_cannot_be_kept_are_refused_and_the_file_stays(tiny_avatar, tmp_path):
    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    before = path.read_bytes()
    for who in ("x" * 201, "a\x1b[31m", "a\0"):
        with pytest.raises(InputError, match="--who"):
            set_facts(path, who=who)
    assert path.read_bytes() == before
    other = tmp_path / "other.avatar"
    write_tensors(other, {}, format="headsplat.track", version=1, header={})
    for content in (b"", b"\xff" * 8, before[:20], b"\x10" + b"\0" * 7 + b"[" * 16, b"x" * 100):
        (tmp_path / "bad.avatar").write_bytes(content)
        with pytest.raises(InputError, match=r"is not an \.avatar file"):
            set_facts(tmp_path / "bad.avatar", who="Ada")
    with pytest.raises(InputError, match=r"is not an \.avatar file"):
        read_header(other)
    with pytest.raises(InputError, match="cannot be read"):
        read_header(tmp_path / "none.avatar")


@settings(deadline=None)  # it writes files
@given(st.binary(max_size=300))
def test_no_bytes_break_the_header(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random.avatar"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        read_header(path)


def test_another_avatar_has_another_fingerprint(tiny_avatar):
    before = fingerprint(tiny_avatar)
    tiny_avatar.header["who"] = "Ada"
    assert fingerprint(tiny_avatar) == before
    tiny_avatar.means.data[0, 0] += 1e-3
    assert fingerprint(tiny_avatar) != before


def test_the_header_is_that_of_the_tensor_file(tiny_avatar, tmp_path):
    tiny_avatar.save(tmp_path / "me.avatar")
    set_facts(tmp_path / "me.avatar", who="Ada")
    _, header = read_tensors(tmp_path / "me.avatar", format="headsplat.avatar", version=2)
    assert header == read_header(tmp_path / "me.avatar")
