"""``avatar rig``: head models from outside, imported once into the user's own data folder.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.markup import escape

from avatar.checks import InputError
from avatar.cli_bench import JsonFile, write_json_file
from avatar.cli_common import Output
from avatar.console import console

if TYPE_CHECKING:
    import numpy as np

    from avatar.rig.external import ExternalRig
    from avatar.rig.mesh_views import Detect


@dataclass(frozen=True)
class RigImport:
    """Import a head model: ICT-FaceKit light, or your own licensed copy of FLAME."""

    file: tyro.conf.Positional[Path]
    """ICT-FaceKit's .npz or a clone of its repository; FLAME's .npz or .pkl."""
    name: str | None = None
    """What to call it; ict or flame where not given."""
    overwrite: bool = False
    """Replace the one of that name."""


@dataclass(frozen=True)
class RigList:
    """List the head models that are imported."""

    json_file: JsonFile = None
    """Also write the list to this file; - prints it."""


@dataclass(frozen=True)
class RigRemove:
    """Delete an imported head model; captures and avatars made with it go on working."""

    name: tyro.conf.Positional[str]
    """Its name."""


@dataclass(frozen=True)
class RigShow:
    """Draw a head model with the lattice's points on it."""

    name: tyro.conf.Positional[str]
    """Its name."""
    output: Output
    """The picture to write (.png)."""


def rig(
    what: tyro.conf.OmitArgPrefixes[
        Annotated[RigImport, tyro.conf.subcommand("import", prefix_name=False)]
        | Annotated[RigList, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[RigRemove, tyro.conf.subcommand("remove", prefix_name=False)]
        | Annotated[RigShow, tyro.conf.subcommand("show", prefix_name=False)]
    ],
) -> None:
    """Import head models from outside, list, show and remove them. See docs/rigs.md.

    Args:
        what: what to do.
    """
    if isinstance(what, RigImport):
        _import(what)
    elif isinstance(what, RigList):
        _list(what.json_file)
    elif isinstance(what, RigRemove):
        from avatar.rig.rig_store import remove_rig

        console.print(f"Removed {escape(str(remove_rig(what.name)))}.")
    else:
        _show(what.name, what.output)


def _import(what: RigImport) -> None:
    from avatar.rig.rig_store import import_rig, rigs_folder

    made = import_rig(what.file, what.name, _detector, replace=what.overwrite)
    console.print(
        f"{escape(made.name)}: {made.kind}, {len(made.neutral)} vertices, {len(made.expression_names)} "
        f"expressions, {len(made.face.identity)} identities; in {escape(str(rigs_folder()))}."
    )
    drawn = made.source.get("drawn")
    if drawn:
        console.print(
            f"Of the ARKit shapes, {len(drawn)} stay the project's own drawings, as the model cannot make "
            f"them: {', '.join(drawn)}."
        )
    console.print(f"Next: avatar capture VIDEO -o ME.capture --rig {escape(made.name)}")


def _detector() -> Detect:
    """Make a face detector for single pictures; its models stay for as long as the program runs."""
    from capture.landmarks import FaceDetector

    detector = FaceDetector(single=True)

    def detect(picture: np.ndarray) -> np.ndarray | None:
        return detector.detect(picture)

    return detect


def _list(json_file: Path | None) -> None:
    from avatar.rig.rig_store import open_rig, rig_names, rig_path

    rows: list[dict[str, Any]] = []
    for name in rig_names():
        try:
            found = open_rig(name)
        except InputError as error:  # of one file, which does not hide the others
            rows.append({"name": name, "file": str(rig_path(name)), "error": str(error)})
            continue
        rows.append(
            {
                "name": name,
                "kind": found.kind,
                "vertices": len(found.neutral),
                "expressions": len(found.expression_names),
                "identities": len(found.face.identity),
                "source": found.source.get("file"),
                "source_sha256": found.source.get("sha256"),
                "file": str(rig_path(name)),
            }
        )
    write_json_file(json_file, rows)
    if json_file is not None and str(json_file) == "-":
        return
    print("lattice  the default; needs no file")
    for row in rows:
        if "error" in row:
            print(f"{row['name']}  {row['error']}")
            continue
        print(
            f"{row['name']}  {row['kind']}, {row['vertices']} vertices, {row['expressions']} expressions, "
            f"from {row['source']}"
        )
    if not rows:
        print("No head model is imported. Import one with: avatar rig import FILE")


def _show(name: str, output: Path) -> None:
    from imageio.v3 import imwrite

    from avatar.rig.rig_store import open_rig
    from avatar.rig.show import picture_of
    from avatar.tensorfile import write_bytes

    if output.suffix.lower() != ".png":
        raise InputError(f"The picture {output} must end in .png.")
    found: ExternalRig = open_rig(name)
    write_bytes(output, imwrite("<bytes>", picture_of(found), extension=".png"))
    console.print(f"{escape(str(output))}: the head at rest, with jawOpen, smiling and blinking.")
