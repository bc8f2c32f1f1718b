from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience import DuplicateNameError
from pytest_resilience import ServiceFailureError
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.patterns.retry.delays import retry_after_of


PAYMENT = Service.parse("payment = payments.internal:443 | 10.0.0.*")
INVENTORY = Service.parse("inventory = shop.clients:Inventory.check")
BOTH = Service.at("both", ["both.internal", "shop:both"])
SERVICES = Services([PAYMENT, INVENTORY, BOTH])


class FirmError(Exception):
    """One whose `retry_after` nobody can set."""

    @property
    def retry_after(self) -> int:
        return 1


def failing(*names: str, **parameters: Any) -> ChaosExperiment:
    experiment = ChaosExperiment("x", "service_failure", target_services=names, **parameters)
    return experiment.bind(SERVICES)


def call(name: str) -> Operation:
    return Operation(kind=CALL, target=name, names=(name,))


def connect(name: str) -> Operation:
    return Operation(kind=CONNECT, target=name, names=(name,))


def test_a_service_is_where_it_is_reached() -> None:
    assert [str(host) for host in PAYMENT.hosts] == ["payments.internal:443", "10.0.0.*"]
    assert PAYMENT.callables == ()
    assert (INVENTORY.hosts, INVENTORY.callables) == ((), ("shop.clients:Inventory.check",))
    assert str(BOTH) == "both (both.internal | shop:both)"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("payment", "write it as 'payment = payments.internal:443'"),
        ("payment =", "'payment' is nowhere"),
        (" = host:80", "a name has letters"),
        ("a b = host:80", "a name has letters"),
        ("payment = host:99999", "there is no port 99999"),
        ("payment = https://host/", "a URL"),
        ("payment = shop.clients:Inventory.", "is not a number"),
    ],
)
def test_services_that_are_nowhere_are_refused(line: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Service.parse(line)


def test_names_are_unique() -> None:
    with pytest.raises(DuplicateNameError):
        Services([PAYMENT, PAYMENT])
    services = Services([PAYMENT])
    services.remove(PAYMENT)
    services.add(PAYMENT)


def test_unknown_services_are_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigurationError) as caught:
        failing("paymant")
    assert str(caught.value).startswith(
        "unknown service 'paymant' (did you mean 'payment'?); known: both, inventory, payment. "
    )


def test_hosts_and_callables_are_hit_where_they_are() -> None:
    both = failing("both")
    assert both.matches_target(call("both"))
    assert both.matches_target(connect("both.internal:80"))
    assert not both.matches_target(call("inventory"))
    assert not both.matches_target(connect("other:80"))
    inventory = failing("inventory")
    assert inventory.matches_target(call("inventory"))
    assert not inventory.matches_target(connect("anything:80"))
    two = failing("payment", "inventory")
    assert two.matches_target(call("inventory"))
    assert two.matches_target(connect("payments.internal:443"))
    assert two.target_text == (
        "payment (payments.internal:443 | 10.0.0.*) | inventory (shop.clients:Inventory.check)"
    )


def test_several_services_in_one_text() -> None:
    one = ChaosExperiment("x", "service_failure", target_services="payment | inventory")
    assert one.target_services == ("payment", "inventory")
    assert one.target_text == "payment | inventory"


@pytest.mark.parametrize(
    ("parameters", "faults"),
    [
        ({}, "ServiceFailureError + refusal"),
        ({"mode": "error"}, "ServiceFailureError"),
        ({"exception": "TimeoutError"}, "TimeoutError"),
        ({"exception": ConnectionError, "mode": "error"}, "ConnectionError"),
        ({"mode": "reset"}, "reset"),
        ({"mode": "timeout"}, "silence"),
        ({"mode": "status"}, "status 503"),
        ({"status": "500"}, "status 500"),
        (
            {"retry_after": "2s"},
            "ServiceFailureError, retry after 2 s + status 503, Retry-After 2",
        ),
        ({"retry_after": 2, "status": 429}, "status 429, Retry-After 2"),
        ({"retry_after": 0.2, "mode": "error"}, "ServiceFailureError, retry after 0.2 s"),
        ({"exception": "TimeoutError", "retry_after": 2}, "TimeoutError, retry after 2 s"),
    ],
)
def test_what_happens(parameters: dict[str, Any], faults: str) -> None:
    assert " + ".join(map(str, failing("both", **parameters).faults)) == faults


def test_what_is_raised() -> None:
    (error,) = failing("both", mode="error").faults
    made = error.error("both")
    assert isinstance(made, ServiceFailureError)
    assert made.service == "both"
    (error,) = failing("both", exception="TimeoutError").faults
    made = error.error("both")
    assert (type(made), str(made)) == (TimeoutError, "service 'both' failed")
    assert not hasattr(made, "retry_after")


@pytest.mark.parametrize("exception", ["ServiceFailureError", "TimeoutError"])
def test_what_is_raised_says_to_the_fraction_when_to_try_again(exception: str) -> None:
    kind = {"ServiceFailureError": ServiceFailureError}.get(exception, exception)
    (error,) = failing("both", exception=kind, retry_after=0.2).faults
    made = error.error("both")
    assert made is not None
    assert retry_after_of(made, now=0.0) == 0.2


def test_what_is_answered() -> None:
    (fault,) = failing("both", status=503, retry_after=7).faults
    assert fault.kinds == {RECEIVE}
    assert fault.replacement == (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Retry-After: 7\r\nContent-Length: 19\r\nConnection: close\r\n\r\nService Unavailable"
    )
    (fault,) = failing("both", status=599).faults
    assert b"599 Failure" in (fault.replacement or b"")


@pytest.mark.parametrize(
    ("names", "parameters", "why"),
    [
        (
            ["inventory"],
            {"mode": "refuse"},
            "refusal happens to hosts; declare one of the service, such as 'payments.int",
        ),
        (
            ["payment"],
            {"mode": "error"},
            "happens to callables; declare one of the service, such as 'module:function'",
        ),
        (["both"], {"mode": "refuse", "status": 500}, "status is for mode='status'"),
        (["both"], {"mode": "reset", "exception": "KeyError"}, "exception is for mode='error'"),
        (
            ["both"],
            {"exception": FirmError, "retry_after": 1},
            "retry_after=1: FirmError cannot have an attribute retry_after",
        ),
        (["both"], {"exception": "Kaboom"}, "there is none; write 'TimeoutError'"),
        (["both"], {"exception": "no.such:Thing"}, "there is none"),
        (["both"], {"exception": "os:getcwd"}, "give an exception type"),
        (["both"], {"exception": KeyboardInterrupt}, "give an exception type"),
        (["both"], {"exception": "UnicodeDecodeError"}, "cannot be made from a text alone"),
        (["both"], {"status": 200}, "give the status of a failure, 400..599"),
        (["both"], {"retry_after": -1}, "retry_after=-1"),
        ([], {}, "has to be told which services; write target_services='payment'"),
        ([3], {}, "needs the names of services"),
        (["both"], {"target": "host"}, "'target' (did you mean 'target_services'?); allowed: "),
        (["both"], {"services": "pay"}, "'services' (did you mean 'target_services'?); allowed: "),
    ],
)
def test_contradictions_are_refused(names: Any, parameters: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        failing(*names, **parameters)
    assert why in str(caught.value)
