"""``avatar inspect``: what a file is, who it shows, and whether it carries this program's mark.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from avatar.checks import InputError
from avatar.cli_bench import JsonFile, write_json_file

if TYPE_CHECKING:
    import numpy as np
    from av.container import InputContainer
    from av.video.stream import VideoStream

MOST_PICTURE_BYTES = 256 << 20
MOST_PIXELS = 64 << 20
MOST_VIDEO_PIXELS = 256 << 20
"""Of all frames of a video that are looked at together: 768 MiB; of larger pictures fewer are taken."""
MOST_JSON_BYTES = 64 << 20
MOST_PLY_HEADER = 64 << 10


def inspect_file(
    file: tyro.conf.Positional[Path],
    /,
    set_who: str | None = None,
    set_consent: str | None = None,
    json_file: JsonFile = None,
) -> None:
    """Say what a file is: kind, counts, who it shows, consent, provenance, invisible watermark.

    Args:
        file: an .avatar file, a capture or run folder, an exported video (mp4), picture (png, jpg) or page
            (html), or a .ply of Gaussians.
        set_who: first write the name of the person shown into this .avatar file; "" removes it.
        set_consent: likewise what the person agreed to.
        json_file: also write the findings to this file; - prints them.
    """
    from avatar.export.provenance import set_facts

    if set_who is not None or set_consent is not None:
        if file.is_dir() or file.suffix != ".avatar":
            raise InputError(
                f"--set-who and --set-consent write into an .avatar file; {file} is none. "
                "Render or export it again from the avatar instead."
            )
        set_facts(file, who=set_who, consent=set_consent)
    found = examine_file(file)
    write_json_file(json_file, found)
    if json_file is None or str(json_file) != "-":
        for name, value in _lines(found):
            # Texts out of a file must not command the terminal.
            plain = "".join(c if c.isprintable() else " " for c in value)
            print(f"{name:<22} {plain}")


def examine_file(path: Path) -> dict[str, Any]:
    """Return what a file or folder is, as JSON-able fields; ``kind`` is always among them.

    Raises:
        InputError: it is missing, damaged, or of no kind that this program knows.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist. Check the name.")
    if path.is_dir():
        return _folder(path)
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".avatar": _avatar,
        ".mp4": _video,
        ".mov": _video,
        ".webm": _video,
        ".mkv": _video,
        ".png": _picture,
        ".jpg": _picture,
        ".jpeg": _picture,
        ".html": _page,
        ".htm": _page,
        ".ply": _ply,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path} is of no kind that can be inspected; expected {', '.join(readers)}, or the folder "
            "of a capture or run."
        )
    return reader(path)


def _folder(path: Path) -> dict[str, Any]:
    if (path / "capture.json").is_file():
        header = _read_json(path / "capture.json", "headsplat.capture")
        quality = header.get("quality")
        return {
            "kind": "capture",
            "version": header.get("version"),
            "frames": header.get("frames"),
            "fps": header.get("fps"),
            "cameras": header.get("cameras"),
            "source": header.get("source"),
            "source_sha256": header.get("source_sha256"),
            "stages": header.get("stages"),
            "quality": quality.get("overall") if isinstance(quality, dict) else None,
        }
    if (path / "config.json").is_file():
        header = _read_json(path / "config.json", "headsplat.run")
        inside = path / "avatar.avatar"
        return {
            "kind": "run",
            **{
                name: header.get(name)
                for name in ("version", "headsplat", "torch", "capture", "source_sha256")
            },
            "checkpoints": len(list(path.glob("checkpoints/step_*.safetensors"))),
            "avatar": _avatar(inside) if inside.is_file() else None,
        }
    if (path / "me.avatar").is_file():
        return _avatar(path / "me.avatar")
    raise InputError(
        f"{path} is neither a capture nor a run: it holds no capture.json, config.json or me.avatar."
    )


def _avatar(path: Path) -> dict[str, Any]:
    from avatar.export.provenance import fingerprint
    from avatar.model.avatar import Avatar
    from avatar.model.store import AVATAR_VERSION

    avatar = Avatar.load(path)
    header = avatar.header
    return {
        "kind": "avatar",
        "format_up_to": AVATAR_VERSION,
        "bytes": path.stat().st_size,
        "sha256": fingerprint(avatar),
        "who": header.get("who"),
        "consent": header.get("consent"),
        "created": header.get("created"),
        "headsplat": header.get("headsplat"),
        "source_sha256": header.get("source_sha256"),
        "gaussians": len(avatar),
        "expressions": len(avatar.expression_names),
        "deformer": avatar.deformer.kind,
        "rig": header.get("rig"),
        "fps": avatar.fps,
        "camera": [avatar.camera.width, avatar.camera.height],
        "steps": header.get("steps"),
    }


def _video(path: Path) -> dict[str, Any]:
    import av

    from avatar.export.provenance import from_video

    made = from_video(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no pictures in it. Give a video.")
            stream = container.streams.video[0]
            size = [stream.width, stream.height]
            if size[0] * size[1] > MOST_PIXELS:
                raise InputError(
                    f"{path} is of {size[0]} x {size[1]} pixels, too large to inspect."
                )
            count, fps = int(stream.frames), float(stream.average_rate or 0)
            frames = _spread_frames(container, stream)
    except (OSError, av.FFmpegError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a video ({error}).") from error
    return {
        "kind": "video",
        "bytes": path.stat().st_size,
        "size": size,
        "frames": count or len(frames),
        "fps": fps,
        **_origin(made, frames),
    }


def _spread_frames(container: InputContainer, stream: VideoStream) -> list[np.ndarray]:
    """Return frames of one size, evenly spread, as many as are looked at and as memory bears."""
    from avatar.export.watermark import FRAMES, spread

    size = (stream.width, stream.height)
    most = min(FRAMES, max(1, MOST_VIDEO_PIXELS // max(1, size[0] * size[1])))
    # Where the file does not say how many, all up to the bound are taken one after another.
    wanted = set(spread(int(stream.frames), most)) if stream.frames else None
    frames: list[np.ndarray] = []
    for index, frame in enumerate(container.decode(stream)):
        # A stream may change its size on the way; a mark is looked for in pictures of one.
        if (wanted is None or index in wanted) and (frame.width, frame.height) == size:
            frames.append(frame.to_ndarray(format="rgb24"))
        if len(frames) >= (len(wanted) if wanted else most):
            break
    return frames


def _picture(path: Path) -> dict[str, Any]:
    import cv2
    import numpy as np
    from PIL import Image

    from avatar.export.provenance import from_jpeg, from_png

    if path.stat().st_size > MOST_PICTURE_BYTES:
        raise InputError(
            f"{path} has more than {MOST_PICTURE_BYTES >> 20} MiB, too large to inspect."
        )
    content = path.read_bytes()
    try:
        with Image.open(path) as opened:  # reads the size alone
            width, height = opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no picture that can be read ({error}).") from error
    if width * height > MOST_PIXELS:
        raise InputError(f"{path} is of {width} x {height} pixels, too large to inspect.")
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise InputError(f"{path} is damaged: its pixels cannot be read.")
    return {
        "kind": "picture",
        "bytes": len(content),
        "size": [width, height],
        **_origin(from_png(content) or from_jpeg(content), [decoded[..., ::-1]]),
    }


def _page(path: Path) -> dict[str, Any]:
    from avatar.export.provenance import MOST_PAGE_BYTES, from_page

    if path.stat().st_size > MOST_PAGE_BYTES:
        raise InputError(f"{path} has more than {MOST_PAGE_BYTES >> 20} MiB, too large to inspect.")
    made = from_page(path.read_bytes().decode("utf-8", "replace"))
    return {"kind": "page", "bytes": path.stat().st_size, **_origin(made, None)}


def _ply(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        head = file.read(MOST_PLY_HEADER)
    end = head.find(b"end_header\n")
    if not head.startswith(b"ply") or end < 0:
        raise InputError(f"{path} is damaged or no PLY file: it has no header that ends.")
    lines = [line.split() for line in head[:end].decode("ascii", "replace").splitlines()]
    counts = {w[1]: w[2] for w in lines if len(w) == 3 and w[0] == "element"}
    names = [words[-1] for words in lines if words and words[0] == "property"]
    gaussians = {"x", "y", "z", "opacity", "scale_0", "rot_0"} <= set(names)
    return {
        "kind": "gaussians" if gaussians else "ply",
        "bytes": path.stat().st_size,
        "elements": {
            name: int(n) if n.isdecimal() and len(n) < 20 else None for name, n in counts.items()
        },
        "properties": len(names),
        "comments": [
            " ".join(words[1:]) for words in lines if words and words[0] in ("comment", "obj_info")
        ],
    }


def _origin(made: Mapping[str, Any] | None, pictures: list[np.ndarray] | None) -> dict[str, Any]:
    """Return manifest and watermark; the latter is None where there are no pixels to look at."""
    from avatar.export.provenance import assertion
    from avatar.export.watermark import detect

    shown = assertion(made, "headsplat.avatar") if made else {}
    result: dict[str, Any] = {
        "provenance": made,
        "avatar_sha256": shown.get("sha256"),
        "who": shown.get("who"),
        "consent": shown.get("consent"),
        "watermark": None,
    }
    if pictures is not None:
        mark = detect(pictures)
        carried = None if mark.avatar_id is None else f"{mark.avatar_id:08x}"
        sha256 = shown.get("sha256")
        result["watermark"] = {
            "found": mark.found,
            "false_alarm": mark.false_alarm,
            "avatar": carried,
            "scale": mark.scale if mark.found else None,
            "agrees_with_provenance": (
                str(sha256).startswith(carried) if carried and sha256 else None
            ),
        }
    return result


def _read_json(path: Path, format: str) -> dict[str, Any]:
    import json

    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ValueError("too large")
        value = json.loads(path.read_text("utf-8"))
        if not isinstance(value, dict) or value.get("format") != format:
            raise ValueError(f"not {format}")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged or of another kind ({error}).") from error
    return value


def _lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return findings as they are told on the terminal."""
    lines = []
    for name, value in found.items():
        if name == "provenance":
            told = "none of headsplat in it"
            if value:
                from avatar.export.provenance import assertion

                actions = assertion(value, "c2pa.actions.v2").get("actions")
                first = actions[0] if isinstance(actions, list) and actions else None
                first = first if isinstance(first, dict) else {}
                told = (
                    f"{first.get('description', '')}, {first.get('when', 'no date')} (not signed)"
                )
            lines.append((name, told))
        elif name == "watermark":
            lines.append((name, _told(value)))
        elif name == "avatar" and isinstance(value, dict):
            lines += [(f"avatar {key}", text) for key, text in _lines(value)]
        elif value is not None and value != "":
            lines.append((name.replace("_", " "), str(value)))
        elif name in ("who", "consent"):
            lines.append((name, "not told"))
    return lines


def _told(mark: Mapping[str, Any] | None) -> str:
    if mark is None:
        return "not looked for: it is in pixels"
    if not mark["found"]:
        return "none found"
    payload = f"avatar {mark['avatar']}..." if mark["avatar"] else "its payload cannot be read"
    agrees = {True: "", False: "; NOT the avatar that the provenance names", None: ""}
    return (
        f"found, {payload} (chance of error below {max(mark['false_alarm'], 1e-99):.0e})"
        + agrees[mark["agrees_with_provenance"]]
    )
