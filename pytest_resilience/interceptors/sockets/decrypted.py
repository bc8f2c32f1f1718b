"""An answer that comes encrypted, as it is heard above TLS."""

from __future__ import annotations

import io

from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.faults.response import MadeUpAnswer
from pytest_resilience.interceptors.sockets.receipt import Receipt
from pytest_resilience.interceptors.sockets.response_stream import Course


__all__ = ["Decrypted"]


class Decrypted:
    """One answer to which something happens that its records do not show."""

    def __init__(self, effect: Effect) -> None:
        fault = effect.failure
        made_up = isinstance(fault, MadeUpAnswer)
        self._script = io.BytesIO(fault.message) if isinstance(fault, MadeUpAnswer) else None
        self._course = None if made_up else Course(effect, began=0.0)

    def read(self, receipt: Receipt) -> Any:
        """What `SSLObject.read` returns; it raises what that raises."""
        if self._course is not None:
            data = self._course.take(receipt.fetch())
            if self._course.ended:
                self._script, self._course = io.BytesIO(), None
            return receipt.deliver(data)
        return receipt.deliver(b"" if self._script is None else self._script.read(receipt.size))
