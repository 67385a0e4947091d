"""A memory limit that is real: what exceeds it is killed, as on Lambda.

Where a control group can be made (Linux, as root or in a delegated tree; version 2, or the memory
controller of version 1), each environment gets one: the kernel kills what exceeds it, and the
answer says "signal: killed". Elsewhere the process gets RLIMIT_DATA: Python raises MemoryError
instead, which the handler may catch; memory that is shared or mapped from files is not counted.

Groups are made as high in the tree as we may, not in our own group: whoever made that one could
not remove it if a killed emulator had left a child in it. Groups of emulators that no longer live
are removed when the next one starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_MB: Final = 1024 * 1024
_PREFIX: Final = "fanout-emulator"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A place where groups can be made.

    Attributes:
        root: The folder to make them in.
        version: Of control groups, 1 or 2.
    """

    root: Path
    version: int

    def make(self, memory_mb: int) -> Group:
        """A new group with a limit.

        Raises:
            OSError: It can't be made.
        """
        pid = os.getpid()
        name = f"{_PREFIX}-{pid}-{_started(pid)}-{uuid.uuid4().hex[:12]}"
        group = Group(self.root / name)
        group.path.mkdir()
        try:
            for file, value in self._limits(memory_mb * _MB):
                (group.path / file).write_text(value, encoding="ascii")
        except OSError:
            group.remove()
            raise
        return group

    def _limits(self, limit: int) -> list[tuple[str, str]]:
        if self.version == 1:
            swap = ("memory.memsw.limit_in_bytes", str(limit))  # memory and swap together
            return [("memory.limit_in_bytes", str(limit)), *self._if_known(swap)]
        swap = ("memory.swap.max", "0")
        return [("memory.max", str(limit)), ("memory.oom.group", "1"), *self._if_known(swap)]

    def _if_known(self, setting: tuple[str, str]) -> list[tuple[str, str]]:
        """Swap is not accounted for on every kernel; the root group of version 2 has no file."""
        siblings = [self.root, *(path for path in self.root.iterdir() if path.is_dir())]
        return [setting] if any((path / setting[0]).exists() for path in siblings) else []

    def remove_stale(self) -> None:
        """Remove what emulators that were killed have left."""
        for path in self.root.glob(f"{_PREFIX}-*"):
            pid, _, rest = path.name.removeprefix(f"{_PREFIX}-").partition("-")
            started = rest.partition("-")[0]
            if pid.isdecimal() and _started(int(pid)) != started:
                Group(path).remove()


@dataclass(frozen=True, slots=True)
class Group:
    """A control group of one environment."""

    path: Path

    @property
    def entrance(self) -> Path:
        """The file that a process writes 0 to, to get in."""
        return self.path / "cgroup.procs"

    def peak_mb(self) -> int:
        """The most memory that it has had, MB; 0 if the kernel doesn't tell."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            try:
                return int((self.path / name).read_text(encoding="ascii")) // _MB
            except (OSError, ValueError):
                continue
        return 0

    def pids(self) -> list[int]:
        """What is in it."""
        try:
            return [int(pid) for pid in self.entrance.read_text(encoding="ascii").split()]
        except OSError:
            return []

    def kill(self) -> None:
        """Kill whatever is in it."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> bool:
        """Remove it if nothing is in it any more; says whether it is gone."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def hierarchy() -> Hierarchy | None:
    """Where groups can be made on this machine, if anywhere."""
    for root, version in _mounts():
        for folder in _downwards(root, version):
            if _may_make_in(folder, version):
                found = Hierarchy(folder, version)
                try:
                    found.make(_TRIAL_MB).remove()
                except OSError:
                    continue
                return found
    return None


# Any size that every kernel takes.
_TRIAL_MB: Final = 64


def _mounts() -> Iterator[tuple[Path, int]]:
    """Where the memory controller is mounted, and in which version."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in mounts:
        _, point, kind, options, *_ = line.split(" ")
        if kind == "cgroup" and "memory" in options.split(","):
            yield Path(point), 1
        elif kind == "cgroup2":
            yield Path(point), 2


def _downwards(root: Path, version: int) -> list[Path]:
    """The folders from the root of a tree to our own group."""
    own = "/"
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        number, controllers, path = line.split(":", 2)
        if (version == 1 and "memory" in controllers.split(",")) or (
            version == 2 and number == "0"
        ):
            own = path
    folder = root / own.lstrip("/")
    between = [folder, *folder.parents]
    if root not in between:
        return [root]
    return list(reversed(between[: between.index(root) + 1]))


def _may_make_in(folder: Path, version: int) -> bool:
    if not os.access(folder, os.W_OK):
        return False
    if version == 1:
        return True
    try:
        controllers = (folder / "cgroup.subtree_control").read_text(encoding="ascii").split()
    except OSError:
        return False
    # To move between two groups one must be allowed to write to what they have in common.
    return "memory" in controllers and os.access(folder / "cgroup.procs", os.W_OK)


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks: tells it from a later one of its id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
