"""Pictures and a table of the 52 ARKit shapes on the generic lattice: docs/arkit.md.

    python -m avatar.rig.draw_shapes -o docs

Every shape is drawn at coefficient 1: the deformed surface shaded, warmer where it moves, the neutral
face's mesh behind it in blue, and arrows from where points were to where they are. Needs NumPy and
OpenCV alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from avatar.rig.arkit import ARKIT_GROUPS, ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import (
    GAZE_SIDE_RAD,
    GAZE_UP_RAD,
    JAW_OPEN_RAD,
    generic_arkit_basis,
)
from avatar.rig.lattice import (
    LOWER_LIP_COLUMNS,
    REGIONS,
    SKIN_POINTS,
    UPPER_LIP_COLUMNS,
    lattice_table,
)
from avatar.tensorfile import write_bytes

CELL = 208
"""Pixels of each view's side."""
COLUMNS = 6
"""Views in a row."""
OVERSAMPLING = 2
"""Views are drawn so many times larger, then reduced."""
TURN_RAD = math.radians(40.0)
"""Turn of the three-quarter view."""
ARROW_M = 0.0008
"""Points that move by less have no arrow."""

PAPER, GHOST, ARROW, INK = (250, 250, 248), (205, 165, 95), (30, 30, 190), (40, 40, 40)
"""Colours, BGR."""

SHEETS: dict[str, tuple[str, ...]] = {
    "eyes": ARKIT_GROUPS["eyes"],
    "brows-cheeks-nose": (*ARKIT_GROUPS["brows"], *ARKIT_GROUPS["cheeks and nose"]),
    "jaw-tongue": (*ARKIT_GROUPS["jaw"], "jawOpen + mouthClose", *ARKIT_GROUPS["tongue"]),
    "mouth-1": ARKIT_GROUPS["mouth"][:11],
    "mouth-2": ARKIT_GROUPS["mouth"][11:],
}
"""Picture to the shapes on it; together all 52, each once, and the one pair that only means something
together."""

_JAW, _SIDE, _UP = (round(math.degrees(a)) for a in (JAW_OPEN_RAD, GAZE_SIDE_RAD, GAZE_UP_RAD))

WHAT: dict[str, str] = {
    "eyeBlink": "upper lid comes down over the eyeball, the lower one meets it",
    "eyeLookDown": f"eyeball turns down {_UP}°, lids follow",
    "eyeLookIn": f"eyeball turns {_SIDE}° towards the nose",
    "eyeLookOut": f"eyeball turns {_SIDE}° away from the nose",
    "eyeLookUp": f"eyeball turns up {_UP}°, lids follow",
    "eyeSquint": "lower lid and the skin below it rise and draw towards the nose",
    "eyeWide": "upper lid rises off the iris",
    "jawForward": "jaw bone slides forward and a little down",
    "jawLeft": "jaw bone slides and swings to the subject's left",
    "jawRight": "jaw bone slides and swings to the subject's right",
    "jawOpen": f"jaw bone turns open by {_JAW}° about the hinge before the ears",
    "mouthClose": "lips come together again while the jaw stays open: belongs to jawOpen 1",
    "mouthFunnel": "lips part and come forward into a round opening",
    "mouthPucker": "corners come in, shut lips swell forward as for a kiss",
    "mouthLeft": "both lips slide to the subject's left",
    "mouthRight": "both lips slide to the subject's right",
    "mouthSmile": "corner goes up, out and back along the cheek",
    "mouthFrown": "corner goes down",
    "mouthDimple": "corner is sucked back against the teeth, the cheek beside it bulges",
    "mouthStretch": "corner goes out, back and a little down",
    "mouthRollLower": "lower lip rolls in over the teeth",
    "mouthRollUpper": "upper lip rolls in over the teeth",
    "mouthShrugLower": "lower lip and chin push up and out",
    "mouthShrugUpper": "upper lip pushes up and out",
    "mouthPress": "lower lip and chin push up against the upper lip on that side",
    "mouthLowerDown": "lower lip goes down on that side, showing teeth",
    "mouthUpperUp": "upper lip goes up on that side, showing teeth",
    "browDown": "brow goes down and towards the nose",
    "browInnerUp": "inner halves of both brows rise",
    "browOuterUp": "outer half of the brow rises",
    "cheekPuff": "cheeks and shut lips swell forward, most at the corners",
    "cheekSquint": "cheek rises under the eye",
    "noseSneer": "nostril's wing rises with the lip and cheek beside it, the side of the nose wrinkles",
    "tongueOut": "nothing: no point of the lattice lies on the tongue",
}
"""What each shape does, without Left and Right."""


_LIPS = {
    "upper lip": tuple(point for column in UPPER_LIP_COLUMNS[1:-1] for point in column),
    "lower lip": tuple(point for column in LOWER_LIP_COLUMNS[1:-1] for point in column),
}
PLACES: dict[str, tuple[int, ...]] = {
    **_LIPS,
    **{
        name.replace("_", " "): points
        for name, points in REGIONS.items()
        if name not in ("lip_upper_outer", "lip_upper_inner", "lip_lower_outer", "lip_lower_inner")
    },
}
"""Names of places for people, to point indices."""


def without_side(name: str) -> str:
    """Strip Left or Right from names that come in pairs: ``eyeBlinkLeft`` to ``eyeBlink``."""
    return name if name in WHAT else name.removesuffix("Left").removesuffix("Right")


def draw_view(
    points: np.ndarray,
    neutral: np.ndarray,
    *,
    turn: float,
    centre: tuple[float, float],
    half: float,
) -> np.ndarray:
    """Draw a deformed lattice over its neutral one, without perspective.

    Args:
        points: [478, 3] metres, head frame.
        neutral: [478, 3] the same face at rest.
        turn: turn of the head to the picture's right, radians; 0 is from the front.
        centre: x, y in the (turned) head frame that the picture is centred on, metres.
        half: half of the picture's side, metres.

    Returns:
        uint8 [CELL, CELL, 3] BGR.
    """
    table = lattice_table()
    skin = np.concatenate([table.triangles.numpy(), table.iris_triangles.numpy()])
    iris = np.arange(len(skin)) >= len(table.triangles)
    size = CELL * OVERSAMPLING
    c, s = math.cos(turn), math.sin(turn)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    turned, rest = points @ about_y.T, neutral @ about_y.T
    # The face's middle lies before the axis of the turn: keep it in the picture.
    shift = float(rest[4, 0]) * 0.6

    def pixels(p: np.ndarray) -> np.ndarray:
        x = (p[:, 0] - shift - centre[0]) / half * 0.5 + 0.5
        y = 0.5 - (p[:, 1] - centre[1]) / half * 0.5
        return np.stack([x, y], 1) * size

    image = np.full((size, size, 3), PAPER, np.uint8)
    at, was = pixels(turned), pixels(rest)
    corners = turned[skin]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    light = np.array([-0.15, 0.42, 0.89])
    shade = 0.5 + 0.56 * np.clip(normal @ light, 0, 1)
    moved = np.linalg.norm(points - neutral, axis=1)
    warm = np.clip(moved[skin].mean(1) / 0.006, 0, 1)[:, None]
    colour = (1 - warm) * np.array([212, 218, 226]) + warm * np.array([130, 178, 250])
    colour = np.where(iris[:, None], (110, 75, 45), colour * shade[:, None])
    depth = corners[..., 2].mean(1) - np.where(iris, 0.003, 0)  # irises lie behind the lids
    for k in np.argsort(depth):
        if normal[k, 2] > 0 or iris[k]:
            triangle = np.round(at[skin[k]] * 16).astype(np.int32)
            cv2.fillConvexPoly(image, triangle, colour[k].tolist(), cv2.LINE_AA, 4)
    ghost = image.copy()
    lines = np.round(was[table.edges.numpy()] * 16).astype(np.int32)
    cv2.polylines(ghost, list(lines), False, GHOST, 1, cv2.LINE_AA, 4)
    image = cv2.addWeighted(ghost, 0.45, image, 0.55, 0)
    for k in range(len(points)):
        # Irises all turn alike: their centres are enough.
        if moved[k] > ARROW_M and (k < SKIN_POINTS or k in (468, 473)):
            a, b = (tuple(np.round(p[k] * 16).astype(int).tolist()) for p in (was, at))
            length = math.dist(a, b) / 16
            if length > 3:
                tip = min(0.5, 7.0 / length)
                cv2.arrowedLine(image, a, b, ARROW, 1, cv2.LINE_AA, 4, tip)
    return cv2.resize(image, (CELL, CELL), interpolation=cv2.INTER_AREA)


def _frame_of(name: str) -> tuple[tuple[float, float], float]:
    """Centre and half side of the picture that shows a shape's part of the face, metres."""
    neutral = lattice_table().neutral.numpy()
    top, bottom = float(neutral[10, 1]), float(neutral[152, 1])
    eyes, mouth = float(neutral[168, 1]), float(neutral[13, 1])
    if name.startswith("eye"):
        side = 0.032 if name.endswith("Left") else -0.032
        return (side, eyes - 0.003), 0.032
    if name.startswith("brow"):
        return (0.0, eyes + 0.004), 0.060
    if name.startswith("mouth"):
        return (0.0, mouth + 0.002), 0.046
    if name.startswith("jaw"):
        return (0.0, 0.5 * (eyes + bottom) - 0.006), 0.082
    return (0.0, 0.5 * (top + bottom)), 0.092


def draw_shape(name: str) -> list[np.ndarray]:
    """Draw a shape, or several joined by `` + ``.

    Returns:
        Views, each uint8 [CELL, CELL, 3] BGR: from the front, and three-quarter where depth matters.
    """
    neutral = lattice_table().neutral.double().numpy()
    basis = generic_arkit_basis().double().numpy()
    shape = sum((basis[ARKIT_INDEX[part]] for part in name.split(" + ")), np.zeros_like(neutral))
    centre, half = _frame_of(name)
    turns = [0.0] if name.startswith(("eye", "brow")) else [0.0, -TURN_RAD]
    if len(turns) == 2 and name.endswith("Right"):
        turns[1] = TURN_RAD  # the side that moves
    return [
        draw_view(neutral + shape, neutral, turn=turn, centre=centre, half=half) for turn in turns
    ]


def contact_sheet(names: Sequence[str]) -> np.ndarray:
    """Draw shapes side by side with their names: uint8 [H, W, 3] BGR."""
    label = 22
    tiles: list[np.ndarray] = []
    for name in names:
        views = draw_shape(name)
        tile = np.full((CELL + label, CELL * len(views), 3), 255, np.uint8)
        tile[:CELL] = np.concatenate(views, 1)
        cv2.putText(tile, name, (6, CELL + 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
        tiles.append(tile)
    width = CELL * COLUMNS
    rows: list[np.ndarray] = []
    row = np.zeros((CELL + label, 0, 3), np.uint8)
    for tile in [*tiles, None]:
        if tile is None or row.shape[1] + tile.shape[1] > width:
            padding = np.full((CELL + label, width - row.shape[1], 3), 255, np.uint8)
            rows.append(np.concatenate([row, padding], 1))
            row = row[:, :0]
        if tile is not None:
            row = np.concatenate([row, tile], 1)
    return np.concatenate(rows)


def describe(name: str) -> tuple[str, str, float]:
    """Return where a shape moves most (a region's name), which way, and how far in millimetres."""
    shape = generic_arkit_basis()[ARKIT_INDEX[name]].double().numpy() * 1e3
    moved = np.linalg.norm(shape, axis=1)
    most = int(moved.argmax())
    if moved[most] < 1e-6:
        return "none", "none", 0.0
    # Of the regions that hold the point, the smallest says most.
    inside = [(len(points), region) for region, points in PLACES.items() if most in points]
    if inside:
        where = min(inside)[1]
    else:
        neutral = lattice_table().neutral.double().numpy()
        gaps = {
            region: float(np.linalg.norm(neutral[list(points)] - neutral[most], axis=1).min())
            for region, points in PLACES.items()
        }
        where = f"near {min(gaps, key=gaps.__getitem__)}"
    words = (("left", "right"), ("up", "down"), ("forward", "back"))
    parts = [
        (abs(value), f"{abs(value):.1f} {pair[int(value < 0)]}")
        for value, pair in zip(shape[most], words, strict=True)
        if abs(value) > 0.15 * moved[most]
    ]
    return where, ", ".join(text for _, text in sorted(parts, reverse=True)), float(moved[most])


def as_markdown() -> str:
    """Return the page docs/arkit.md."""
    lines = [
        "<!-- Made by `python -m avatar.rig.draw_shapes -o docs`; change avatar/rig/draw_shapes.py instead. -->",
        "# The 52 ARKit shapes",
        "",
        "Expression is 52 coefficients by Apple's names and in Apple's order, 0 at rest and 1 fully. Left "
        "and right are always the subject's own: in these pictures, as in an unmirrored photograph, the "
        "subject's left is on the right. The shapes are drawn on the generic face lattice by "
        "`avatar/rig/arkit_basis.py`, which names the files that hold them, from places of the face and how "
        "they move; the tracker then bends them to the person.",
        "",
        "Each picture is one coefficient at 1: the deformed face, warmer where it moves; in blue the mesh "
        "at rest; arrows from where a point was to where it is. `tongueOut` moves nothing.",
        "",
        "## Amplitude",
        "",
        "Sizes are prescribed in millimetres on a face whose iris measures 11.7 mm across, which spreads by "
        "only about 4 % among adults and gives the whole track its scale. On another face they scale with "
        "the distance between the outer eye corners. 1.0 is a full but ordinary adult motion: jawOpen turns "
        f"the jaw by {_JAW} degrees, a blink closes the whole gap of the person's own lids, the eyeLook shapes "
        f"turn the eye by {_SIDE} degrees sideways and {_UP} up and down. The tracker lets coefficients reach 1.3 for "
        "people who move more.",
        "",
        "Sizes, directions, and how much neighbouring skin goes along, were calibrated against the public "
        "[ICT-FaceKit](https://github.com/USC-ICT/ICT-FaceKit) head (MIT licence), whose sculpted shapes carry the "
        "same names; none of its data is here. With our lattice laid on that head, every shape points "
        "its way (cosine of the two displacement fields at least 0.8) and is 0.75 to 1.3 times its size, which "
        "`tests/test_arkit_basis.py` measures. We differ where a surface would pass through itself: the inner contour of a lip that rolls in stays "
        "at the seam.",
        "",
        "Personalising a shape changes how points move relative to each other (by a "
        "sigma of 0.6 mm a point), so its size stays tied to these figures; `avatar bench track --truth` "
        "reports the slope of every curve against a rendered head with known coefficients.",
        "",
        "## Pictures",
        "",
    ]
    for sheet, names in SHEETS.items():
        lines += [f"![{', '.join(names)}](pictures/arkit-{sheet}.webp)", ""]
    lines += [
        "## Table",
        "",
        "Place, direction and amplitude are those of the point that moves most.",
        "",
        "| name | what moves | place | direction, mm | amplitude, mm |",
        "|---|---|---|---|---|",
    ]
    for name in ARKIT_NAMES:
        where, direction, size = describe(name)
        lines.append(
            f"| {name} | {WHAT[without_side(name)]} | {where} | {direction} | {size:.1f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Write OUT/arkit.md and OUT/pictures/arkit-*.webp."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder, such as docs")
    folder = parser.parse_args().output
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for sheet, names in SHEETS.items():
        good, content = cv2.imencode(".webp", contact_sheet(names), [cv2.IMWRITE_WEBP_QUALITY, 82])
        assert good, "encoding a picture in memory cannot fail"
        write_bytes(folder / "pictures" / f"arkit-{sheet}.webp", content.tobytes())
    write_bytes(folder / "arkit.md", as_markdown().encode())


if __name__ == "__main__":
    main()
