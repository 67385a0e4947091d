"""Whether answers come through as bytes is learnt from the first that may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fanout.backends.answer_form import AnswerForm

if TYPE_CHECKING:
    from fanout.lambda_wire import Accepts


def probing() -> AnswerForm:
    """One whose first request is on its way."""
    form = AnswerForm()
    assert form.sent(form.wanted(may_run_twice=True))
    return form


def test_the_first_request_is_a_probe_and_the_others_take_no_risk() -> None:
    form = probing()
    wanted = form.wanted(may_run_twice=True)
    assert wanted == "json"
    assert not form.sent(wanted)


def test_what_may_not_run_twice_is_no_probe() -> None:
    form = AnswerForm()
    wanted = form.wanted(may_run_twice=False)
    assert wanted == "json"
    assert not form.sent(wanted)
    assert form.wanted(may_run_twice=True) == "bytes"


def test_after_a_probe_that_showed_nothing_the_next_request_is_one() -> None:
    form = probing()
    form.probe_ended()
    assert form.sent(form.wanted(may_run_twice=True))


@pytest.mark.parametrize("shown", ["bytes", "json"])
@pytest.mark.parametrize("may_run_twice", [True, False])
def test_what_a_probe_has_shown_holds_for_all_requests(shown: Accepts, may_run_twice: bool) -> None:
    form = probing()
    form.probe_ended()
    form.shown(shown)
    wanted = form.wanted(may_run_twice=may_run_twice)
    assert wanted == shown
    assert not form.sent(wanted)
    assert repr(form) == f"<AnswerForm: {shown}>"


def test_of_two_probes_the_first_that_shows_something_counts() -> None:
    """Two can be on their way together: large requests are encoded in threads before."""
    form = AnswerForm()
    both = [form.wanted(may_run_twice=True) for _ in range(2)]
    assert [form.sent(wanted) for wanted in both] == [True, True]
    form.shown("bytes")
    form.shown("json")
    assert form.wanted(may_run_twice=True) == "bytes"


def test_no_bytes_are_asked_for_once_some_were_altered() -> None:
    form = probing()
    form.shown("bytes")
    form.altered()
    assert form.wanted(may_run_twice=True) == "json"
