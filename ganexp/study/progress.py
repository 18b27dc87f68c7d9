"""Show how far a study is: jobs done, running and failed, and the time left."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ganexp.progress import Cadence
from ganexp.runtime.lock import is_held
from ganexp.study import plan
from ganexp.study.worker import CLAIMS

EVERY = 2.0  # seconds between two looks at the folder
ENOUGH = 0.02  # the part of all steps from which the time left is estimated; before, starting takes most of the time


class Progress:
    """Counts the jobs of a study by their folders; jobs of other processes count too. Time left: by the steps that are done and
    were done since this process looked first."""

    def __init__(self, folder: Path, max_steps: int):
        self.folder, self.max_steps = folder, max_steps
        self.over: dict[int, str] = {}
        self.started: float | None = None
        self.first = 0

    def look(self) -> tuple[Counter[str], int, float | None]:
        """Returns the number of jobs by status (finished, failed, pruned, running, waiting), the number of all, those of settings
        that are not chosen yet included, and the seconds left, None if unknown."""
        study = plan.read(self.folder)
        jobs = study.jobs() if study else []
        counts: Counter[str] = Counter()
        steps = 0
        for job in jobs:
            status = self.over.get(job.number)
            if status is None:
                record = job.record(self.folder)
                status = str(record.get("status", ""))
                if status in plan.OVER:
                    self.over[job.number] = status
                elif is_held(self.folder / CLAIMS / str(job.number)):
                    status = "running"
                    steps += int(record.get("steps", 0))
                else:
                    status = "waiting"
                    steps += int(record.get("steps", 0))
            counts[status] += 1
        number = study.size * len(study.seeds) if study else 0
        total = number * self.max_steps
        steps += len(self.over) * self.max_steps
        if self.started is None:
            self.started, self.first = time.monotonic(), steps
        elapsed = time.monotonic() - self.started
        done = steps - self.first
        left = elapsed * (total - steps) / done if done > ENOUGH * total else None
        return counts, number, left

    def line(self) -> str:
        counts, total, left = self.look()
        parts = [f"{counts['finished']} of {total} jobs done", f"{counts['running']} running", f"{counts['failed']} failed"]
        parts += [f"{counts['pruned']} pruned"] if counts["pruned"] else []
        if left is not None and len(self.over) < total:
            parts.append(f"about {tqdm.format_interval(left)} left")
        return "study: " + ", ".join(parts)


@contextmanager
def shown(progress: Progress, log: Path) -> Iterator[None]:
    """Show the progress on stderr until the end: on a terminal in one line that changes, elsewhere as lines at the times of
    Cadence. `log` has the lines in any case."""
    ended = threading.Event()
    screen = sys.stderr  # a job of this process has another one

    def follow() -> None:
        cadence = Cadence()
        while True:
            over = ended.wait(EVERY)
            line, due = progress.line(), cadence.due()
            if screen.isatty():
                print(f"\r\033[K{line}", end="\n" if over else "", file=screen, flush=True)
            elif over or due:
                print(line, file=screen, flush=True)
            if over or due:
                append(line, log)
            if over:
                return

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def append(line: str, log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", file=file)
