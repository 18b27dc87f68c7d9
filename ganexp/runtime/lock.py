"""Lock the folder of a run, a sweep or a study, so that one process at a time writes it."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ganexp.cli.messages import ConfigError
from ganexp.files import read_json, write_json

log = logging.getLogger(__name__)
LOCK_FILES = {".lock", ".owner.json"}
BEAT = 20.0  # seconds between two heartbeats
PATIENCE = 180.0  # seconds without a heartbeat after which the lock of another machine is ignored


class FolderLock:
    """A lock on a folder, held by this process between `acquire` and `release`, or in a with statement.

    `.lock` in the folder is locked by the operating system, which frees it when the process ends in any way. `.owner.json` names
    the owner: process, host, start and command. Since some network file systems do not share locks between machines, the owner
    also touches `.owner.json` every BEAT seconds, its heartbeat; the lock of another machine is valid until PATIENCE seconds
    after the last one.

    `key`: the config key that chose the folder, for messages. `waits`: whether `acquire` waits until the lock of another machine
    is invalid, or for its next heartbeat: a cluster may have moved a job from a dead machine. `note`: after `acquire`, whose lock
    was taken over, or empty.
    """

    def __init__(self, folder: Path, key: str = "run", waits: bool = False):
        self.folder, self.key, self.waits, self.note = folder, key, waits, ""
        self.file, self.record = folder / ".lock", folder / ".owner.json"
        self.lock = FileLock(self.file)
        self.released = threading.Event()

    def acquire(self) -> None:
        """Raises ConfigError, naming the owner, if another process holds the lock."""
        if not (self.try_acquire() or (self.waits and self.outlive())):
            raise ConfigError(f"{self.key}: {self.folder} is in use by {self.describe_owner()}")

    def try_acquire(self) -> bool:
        """Returns whether this process holds the lock now. Raises ConfigError if the folder is not writable."""
        try:
            return self.lock_file() and self.take_over()
        except (OSError, NotImplementedError) as error:
            self.lock.release()
            raise ConfigError(f"{self.key}: cannot lock {self.folder}: {getattr(error, 'strerror', None) or error}") from error

    def outlive(self) -> bool:
        """Returns whether the lock was acquired after the owner, a process of another machine, had no heartbeat for PATIENCE
        seconds; False at its first heartbeat."""
        owner, silence = read_json(self.record), self.silence()
        if not owner or is_here(owner):
            return False
        log.warning("%s was in use by %s: waiting for a heartbeat, up to %.0f s", self.folder, describe(owner), PATIENCE)
        while not self.try_acquire():
            before, silence = silence, self.silence()
            if silence < before and self.record.is_file():
                return False
            time.sleep(1)
        return True

    def lock_file(self) -> bool:
        for _ in range(2):
            try:
                self.lock.acquire(timeout=0)
                return True
            except Timeout:
                if not self.is_lost():
                    return False
                self.file.unlink(missing_ok=True)  # a file server may keep the lock of a machine that is gone
        return False

    def take_over(self) -> bool:
        """Become the owner, unless the owner is a process of another machine with a recent heartbeat."""
        owner = read_json(self.record)
        if owner and not is_here(owner) and not self.is_lost():
            self.lock.release()
            return False
        self.note = f"took over {self.folder} from {describe(owner)}, which ended without releasing it" if owner else ""
        write_json(this_process(), self.record)
        self.released.clear()
        threading.Thread(target=self.beat, name="lock", daemon=True).start()
        return True

    def is_lost(self) -> bool:
        """Whether the owner is a process of another machine without a heartbeat for PATIENCE seconds."""
        owner = read_json(self.record)
        return bool(owner) and not is_here(owner) and self.silence() > PATIENCE

    def silence(self) -> float:
        """Returns the seconds since the owner's last heartbeat, by the clock of the file server."""
        with suppress(OSError):
            os.utime(self.file)
            return self.file.stat().st_mtime - self.record.stat().st_mtime
        return 0.0

    def describe_owner(self) -> str:
        owner = read_json(self.record)
        if not owner:
            return "another process, which has just started"
        if is_here(owner):
            return f"{describe(owner)}; wait until it has ended, or stop it"
        return (
            f"{describe(owner)}; its last heartbeat was {max(0.0, self.silence()):.0f} s ago; "
            f"if it is gone, the folder is free after {PATIENCE:.0f} s without one"
        )

    def beat(self) -> None:
        while not self.released.wait(BEAT):
            with suppress(OSError):
                os.utime(self.record)

    def release(self) -> None:
        self.released.set()
        if self.lock.is_locked:
            with suppress(OSError):
                self.record.unlink(missing_ok=True)
                self.file.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone
            self.lock.release()

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of a folder, by its last sign of life; a trial would keep others from taking it."""
    with suppress(OSError):
        return time.time() - (folder / ".owner.json").stat().st_mtime < 3 * BEAT
    return False


def this_process() -> dict[str, Any]:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "boot": boot(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": os.environ.get("GANEXP_COMMAND") or shlex.join(sys.argv),
    }


def boot() -> str:
    """Returns an identifier of the running kernel, shared by containers on one machine; empty if there is none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def is_here(owner: dict[str, Any]) -> bool:
    """Whether an owner is, or was, a process of this machine."""
    return owner.get("host") == socket.gethostname() or (bool(boot()) and owner.get("boot") == boot())


def describe(owner: dict[str, Any]) -> str:
    since = str(owner.get("since", "?"))[:19].replace("T", " ")
    command = str(owner.get("command", "?"))
    command = command if len(command) <= 200 else f"{command[:200]} …"
    return f"process {owner.get('process')} on {owner.get('host')} since {since} ({command})"
