"""Attempts in flight, and the tasks that each carries.

Pure. Mostly a task is in one attempt. When an attempt is silent, its tasks are sent a second time,
in *covers*; the first success counts. What an attempt still owes are those of its tasks that
nobody has settled, and that no other attempt in flight has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Attempts:
    """What is in flight.

    Args:
        unsettled: The tasks that are not settled; somebody else keeps it.

    Attributes:
        carried: What each attempt in flight was sent with; to be read only.
    """

    def __init__(self, unsettled: set[int]) -> None:
        self._unsettled = unsettled
        self.carried: dict[int, Sequence[int]] = {}
        self._sharing: set[int] = set()  # attempts in flight whose tasks were sent twice
        self._holders: dict[int, set[int]] = {}  # of such tasks, if unsettled: who has them
        self._idle: set[int] = set()  # attempts that owe nothing any more
        self._launched_s: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.carried)

    def __contains__(self, number: int) -> bool:
        return number in self.carried

    def __iter__(self) -> Iterator[int]:
        return iter(self.carried)

    @property
    def idle(self) -> int:
        """How many are in flight for nothing."""
        return len(self._idle)

    def tasks_of(self, number: int) -> Sequence[int]:
        """What an attempt was sent with; nothing if it is not in flight."""
        return self.carried.get(number, ())

    def launched_s(self, number: int) -> float:
        """When it was launched."""
        return self._launched_s[number]

    def unsettled_of(self, number: int) -> list[int]:
        """Those of its tasks that nobody has settled."""
        return [task for task in self.carried[number] if task in self._unsettled]

    def add(
        self, number: int, tasks: Sequence[int], now_s: float, *, covers: int | None = None
    ) -> None:
        """An attempt is launched.

        Args:
            number: Of it.
            tasks: What it carries.
            now_s: When.
            covers: The attempt that has them already.
        """
        self.carried[number] = tasks
        self._launched_s[number] = now_s
        if covers is not None:
            self._sharing.update((number, covers))
            for task in tasks:
                self._holders.setdefault(task, {covers}).add(number)

    def end(self, number: int) -> tuple[Sequence[int], Sequence[int]]:
        """An attempt has ended.

        Returns:
            Those of its tasks that are unsettled, and of these those that no other attempt has.
        """
        tasks = self.carried.pop(number)
        del self._launched_s[number]
        if number not in self._sharing:
            return tasks, tasks
        self._sharing.discard(number)
        self._idle.discard(number)
        owed = [task for task in tasks if task in self._unsettled]
        own = []
        for task in owed:
            holders = self._holders.get(task, set())
            holders.discard(number)
            if not holders:
                self._holders.pop(task, None)
                own.append(task)
        return owed, own

    def settled(self, task: int) -> list[int]:
        """A task is settled, and no longer unsettled; which attempts are thereby for nothing."""
        holders = self._holders.pop(task, None)
        if holders is None:
            return []
        idle = [n for n in sorted(holders) if n not in self._idle and not self.unsettled_of(n)]
        self._idle.update(idle)
        return idle

    def clear(self) -> None:
        """All have ended."""
        self.carried.clear()
        self._launched_s.clear()
        self._sharing.clear()
        self._holders.clear()
        self._idle.clear()
