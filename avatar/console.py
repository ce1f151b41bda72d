"""What the command line shows: progress bars with time left, tables, one-sentence errors."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)

from avatar.types import Progress

# Reports go to stderr, so that --json on stdout stays clean.
# No emoji: CLIP:CAMERA:MASKCLIP is not to be read with a picture of a camera in it.
console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class ProgressDisplay:
    """A listener of ``Progress`` reports: one bar a stage; plain lines where there is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        """With ``quiet`` only messages are shown."""
        self._quiet = quiet
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, int] = {}

    def __enter__(self) -> ProgressDisplay:
        if not self._quiet and console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._quiet and console.is_terminal:
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Show one report."""
        values = "  ".join(f"{k} {v:.4g}" for k, v in progress.values.items())
        if progress.message:
            console.print(progress.message)
        if self._quiet or progress.total <= 0:
            return
        if console.is_terminal:
            if progress.stage not in self._tasks:
                self._tasks[progress.stage] = self._bars.add_task(
                    progress.stage, total=progress.total, values=values
                )
            self._bars.update(
                self._tasks[progress.stage],
                completed=progress.done,
                total=progress.total,
                values=values,
            )
            return
        # A log file gets ten lines a stage.
        tenth = progress.done * 10 // progress.total
        if tenth > self._printed.get(progress.stage, -1):
            self._printed[progress.stage] = tenth
            console.print(f"{progress.stage:<12}{progress.done:>7}/{progress.total}  {values}")
