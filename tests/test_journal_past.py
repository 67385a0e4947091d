"""What a journal tells of its run to those who look back."""

from __future__ import annotations

import pytest

import fanout
from fanout import Executor
from fanout.errors import JournalError
from fanout.fitting import fit
from fanout.journal.past import past_run
from tests.journal_checks import change, only, run


def double(chunk: int) -> int:
    return 2 * chunk


def test_each_task_names_the_attempt_that_did_it() -> None:
    run(double, range(20))
    meta, past = past_run(only().path)
    assert (meta["name"], past.total, past.is_local) == ("sweep", 20, True)
    assert [task.task for task in past.tasks] == [*range(20)]
    done = {attempt.key: attempt.done for attempt in past.attempts}
    told = [(task.session, task.attempt) for task in past.tasks]
    assert {key: told.count(key) for key in done} == done
    assert all(attempt.environment and attempt.is_answered for attempt in past.attempts)


def test_a_task_that_is_done_later_names_its_session() -> None:
    run(double, range(4))
    run(double, range(6))
    _, past = past_run(only().path)
    assert [task.session for task in past.tasks] == [0] * 4 + [1] * 2
    assert {attempt.session for attempt in past.attempts} == {0, 1}
    assert fit(past).observed.sessions == 2


def test_what_the_run_knew_as_it_began_is_there() -> None:
    run(double, range(4))
    _, past = past_run(only().path)
    assert past.limit == 2
    assert (past.memory_mb, past.timeout_s, past.unit_s) == (None, None, None)
    assert not past.is_weighted


async def test_a_second_map_tells_what_the_first_one_found() -> None:
    async with Executor(fanout.Local(workers=1)) as ex:
        await ex.map(double, range(10))
        await ex.map(double, range(10), name="second")
        _, past = past_run(only().path)
        assert past.unit_s is not None
        await ex.map(double, range(1, 10), name="heavy", weight=float)
    newest = next(record for record in _records() if record.name == "heavy")
    _, past = past_run(newest.path)
    assert (past.is_weighted, past.unit_s) == (True, None)


def _records() -> list[fanout.journal.RunRecord]:
    return fanout.journal.Folder().runs()


def test_what_is_not_as_it_was_or_beyond_the_input_is_left_out() -> None:
    run(double, range(6))
    run(double, range(5))
    change("UPDATE chunks SET digest = x'00' WHERE task = 1")
    _, past = past_run(only().path)
    assert [task.task for task in past.tasks] == [0, 2, 3, 4]


@pytest.mark.parametrize(
    "damage",
    ["DROP TABLE attempts", "DELETE FROM meta", "UPDATE meta SET value = '{' WHERE key = 'recipe'"],
)
def test_a_journal_that_is_damaged_is_refused(damage: str) -> None:
    run(double, range(2))
    change(damage)
    with pytest.raises(JournalError):
        past_run(only().path)
