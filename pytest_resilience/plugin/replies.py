"""The fixture `chaos_responses`: a mock whose replies can each have a fault of their own."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace
from functools import partialmethod
from typing import Any

import responses

from pytest_resilience.chaos.catalog import chaos_type
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.experiment import ChaosType
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.spec import parse_spec
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.plugin.requested import Defaults
from pytest_resilience.plugin.requested import Requested
from pytest_resilience.plugin.requested import from_parameters
from pytest_resilience.plugin.scope import ChaosScope


__all__ = ["ChaosResponses"]

_TYPES = (ChaosType.NETWORK_LATENCY, ChaosType.NETWORK_FAILURE)
_ON_THE_WAY = frozenset({RESOLVE, CONNECT, RECEIVE})


class ChaosResponses(responses.RequestsMock):
    """A `responses.RequestsMock` whose replies take `chaos=`, for the calls that they answer.

    `get(url, json=..., chaos="network_failure:mode=reset,first=1")` takes what the flag
    `--chaos` takes, or a `ChaosExperiment`. Where the text does not say how often, it happens
    to each call. It runs until the test ends, and one that meets no call makes the test an
    error, unless `must_fire=False` is given. Raises ConfigurationError for what makes no sense,
    before anything is added.

    A call that fails on its way does not come to the mock, so `assert_all_requests_are_fired`
    is False until it is set.
    """

    def __init__(self, scope: ChaosScope, defaults: Defaults) -> None:
        super().__init__(assert_all_requests_are_fired=False)
        self._scope = scope
        self._defaults = defaults

    def add(
        self, *args: Any, chaos: Any = None, must_fire: bool = True, **kwargs: Any
    ) -> responses.BaseResponse:
        requested = self._requested(chaos, must_fire=must_fire)
        return self._under(requested, super().add(*args, **kwargs))

    delete = partialmethod(add, responses.DELETE)
    get = partialmethod(add, responses.GET)
    head = partialmethod(add, responses.HEAD)
    options = partialmethod(add, responses.OPTIONS)
    patch = partialmethod(add, responses.PATCH)
    post = partialmethod(add, responses.POST)
    put = partialmethod(add, responses.PUT)

    def add_callback(
        self, *args: Any, chaos: Any = None, must_fire: bool = True, **kwargs: Any
    ) -> responses.BaseResponse:
        requested = self._requested(chaos, must_fire=must_fire)
        super().add_callback(*args, **kwargs)
        return self._under(requested, self.registered()[-1])  # older versions return nothing

    def replace(
        self, *args: Any, chaos: Any = None, must_fire: bool = True, **kwargs: Any
    ) -> responses.BaseResponse:
        requested = self._requested(chaos, must_fire=must_fire)
        return self._under(requested, super().replace(*args, **kwargs))

    def _requested(self, chaos: Any, *, must_fire: bool) -> Requested | None:
        if chaos is None:
            return None
        kind, parameters = _read(chaos)
        requested = from_parameters(
            kind, parameters, self._defaults, origin="fixture", must_fire=must_fire
        )
        reach = frozenset().union(*(fault.kinds for fault in requested.experiment.faults))
        if not reach & _ON_THE_WAY:
            raise _happens_to_no_reply(chaos)
        self._scope.check(requested)
        return requested

    def _under(
        self, requested: Requested | None, reply: responses.BaseResponse
    ) -> responses.BaseResponse:
        if requested is not None:
            aimed = requested.experiment.narrowed("reply", _Reply(reply))
            self._scope.start(replace(requested, experiment=aimed))
        return reply


@dataclass(frozen=True, slots=True, eq=False)
class _Reply:
    """The calls that one reply answers."""

    reply: responses.BaseResponse

    def admits(self, operation: Operation) -> bool:
        """Whether it answers this one."""
        return operation.answer is self.reply

    def __str__(self) -> str:
        url = self.reply.url
        return f"{self.reply.method} {url if isinstance(url, str) else url.pattern}"


def _read(chaos: Any) -> tuple[Any, dict[str, Any]]:
    """The type and its parameters, or the experiment and none. Raises ConfigurationError."""
    if isinstance(chaos, ChaosExperiment):
        if chaos.chaos_type not in _TYPES:
            raise _happens_to_no_reply(chaos)
        return chaos, {}
    if not isinstance(chaos, str):
        raise ConfigurationError(
            f"chaos={chaos!r}: give a text such as 'network_failure:mode=reset', or a "
            "ChaosExperiment"
        )
    kind, given = parse_spec(chaos)
    if chaos_type(kind) not in _TYPES:
        raise _happens_to_no_reply(chaos)
    return kind, dict(given)


def _happens_to_no_reply(chaos: Any) -> ConfigurationError:
    return ConfigurationError(
        f"chaos={str(chaos)!r} happens to no reply; give network_latency (but not "
        "mode='slow_close') or network_failure"
    )
