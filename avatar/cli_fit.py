"""How the command line fits: the folder of a run, and the viewer that looks on."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from avatar.checks import InputError
from avatar.console import console

if TYPE_CHECKING:
    from avatar.capture_data import Capture
    from avatar.cli_common import Device
    from avatar.model.avatar import Avatar
    from avatar.train.config import TrainConfig
    from avatar.types import Reporter

RUN = "me.run"


def fit_run(
    captured: Capture,
    run: Path,
    config: TrainConfig,
    report: Reporter,
    *,
    resume: bool,
    overwrite: bool,
    port: int | None,
    who: str | None = None,
    consent: str | None = None,
    device: Device = "auto",
) -> Avatar:
    """Fit, with a viewer on ``port`` that looks on unless that is None.

    Args:
        device: where; a run may go on on another.
        who: the name of the person shown, and ``consent`` what they agreed to; of a run that goes on, the
            texts it had are kept where none are given.
    """
    from avatar.export.provenance import (
        MOST_CONSENT,
        MOST_WHO,
        checked_text,
        read_header,
        set_facts,
        today,
    )
    from avatar.train.loop import fit

    # Said before hours of work rather than after.
    who = checked_text("--who", who, MOST_WHO)
    consent = checked_text("--consent", consent, MOST_CONSENT)
    path, created = run / "avatar.avatar", today().date().isoformat()
    known = {}
    if resume and path.is_file():
        with suppress(InputError):  # damaged: it is written anew
            known = read_header(path)
    with ExitStack() as stack:
        listener = None
        if port is not None:
            from viewer.training import TrainingView

            def ready(url: str) -> None:
                console.print(f"Watch it at {url}")

            listener = stack.enter_context(TrainingView(captured, port=port, ready=ready))
        avatar = fit(
            captured,
            run,
            config,
            resume=resume,
            overwrite=overwrite,
            report=report,
            listener=listener,
            device=device,
        )
    who = known.get("who") if who is None else who
    consent = known.get("consent") if consent is None else consent
    set_facts(path, who=who, consent=consent, created=known.get("created", created))
    return avatar


def claim_run(
    output: Path, captured: Capture, config: TrainConfig, *, overwrite: bool
) -> tuple[bool, str]:
    """Make ``output/me.run`` the place for a run with these settings; lose no other.

    A run with other settings that is there is kept as ``me.PRESET.run``; one with these settings that was
    kept so before comes back.

    Returns:
        Whether ``me.run`` now holds a run to go on with, and a sentence about what was kept ("" where
        nothing was).
    """
    from avatar.train.run_folder import can_resume

    run = output / RUN
    if can_resume(captured, run, config):
        return True, ""
    earlier = next(
        (path for path in sorted(output.glob("me.*.run")) if can_resume(captured, path, config)),
        None,
    )
    notice = ""
    if _is_worth_keeping(run) and not overwrite:
        kept = _free_name(output, _preset_of(run))
        run.rename(kept)
        notice = (
            f"The run with other settings that was in {run} is kept in {kept}, its avatar in it."
        )
    if earlier is None or run.exists():
        return False, notice
    earlier.rename(run)
    return True, notice


def _is_worth_keeping(run: Path) -> bool:
    return (run / "avatar.avatar").is_file() or any(run.glob("checkpoints/step_*.safetensors"))


def _free_name(output: Path, preset: str) -> Path:
    """Return me.PRESET.run, or me.PRESET.2.run and so on where that is taken."""
    path, number = output / f"me.{preset}.run", 1
    while path.exists():
        number += 1
        path = output / f"me.{preset}.{number}.run"
    return path


def _preset_of(run: Path) -> str:
    """Return the name of the preset a run was started with, "other" where it is none of today's."""
    from avatar.train.run_folder import read_run
    from configs import PRESETS

    try:
        settings = read_run(run)["config"]
        held = tuple(settings.get("hold_cameras", ()))
        for name, preset in PRESETS.items():
            known = replace(
                preset, steps=settings["steps"], seed=settings["seed"], hold_cameras=held
            )
            if json.loads(json.dumps(known.to_json())) == settings:
                return name
    except (InputError, KeyError, TypeError, AttributeError):
        pass  # a run of another version; it is kept all the same
    return "other"
