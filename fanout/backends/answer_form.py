"""Whether a function's answers come through as bytes, or have to be asked for as JSON. Pure.

Bytes cost less, but not everything that stands in for Lambda, or in between, lets them through. The
first answer to a request that may have one in bytes shows it, so nothing has to be set. Until then
one request at a time is such a probe, and none that may not run twice: if it fails, its tasks are
sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanout.lambda_wire import Accepts


class AnswerForm:
    """What is known of one function so far."""

    def __init__(self) -> None:
        self._known: Accepts | None = None
        self._is_probing = False

    def __repr__(self) -> str:
        return f"<AnswerForm: {self._known or 'not known'}>"

    def wanted(self, *, may_run_twice: bool) -> Accepts:
        """The form to ask for, for the next request."""
        if self._known is not None:
            return self._known
        return "bytes" if may_run_twice and not self._is_probing else "json"

    def sent(self, wanted: Accepts) -> bool:
        """A request goes out; whether it is a probe, whose end is then to be told."""
        if self._known is not None or wanted == "json":
            return False
        self._is_probing = True
        return True

    def probe_ended(self) -> None:
        """Another request may be one, unless this one has shown something."""
        self._is_probing = False

    def shown(self, form: Accepts) -> None:
        """A probe has shown how answers come; the first that does so counts."""
        self._known = self._known or form

    def altered(self) -> None:
        """Something has changed bytes on the way: none are asked for any more."""
        self._known = "json"
