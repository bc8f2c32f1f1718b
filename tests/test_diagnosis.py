from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import SqlDetails
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.diagnosis import never_fired


def operation(target: str = "api:443", *, blocking: bool = True) -> Operation:
    return Operation(kind=CONNECT, target=target, names=(target,), blocking=blocking)


def active_experiment(kind: str = "network_latency", **parameters: Any) -> ActiveExperiment:
    return ActiveExperiment(ChaosExperiment("x", kind, **parameters), seed=1, started_at=100.0)


def test_what_was_done_instead_is_told() -> None:
    assert str(never_fired(active_experiment(target="db:1"))) == (
        "chaos experiment 'x' (latency 1s, target db:1) never fired: no operation matched it, "
        "so this test proves nothing.\n"
        "  The code did: nothing that a fault could hit\n"
        "  It hits network.connect, network.handshake, network.receive, network.receive_datagram. "
        "Correct the target or the fault, or say must_fire=False if firing is not what you test."
    )
    running = active_experiment(target="db:1")
    for _ in range(2):
        running.decide(operation(), 100.0)
    assert "\n  The code did:\n    network.connect api:443\n  It hits" in str(never_fired(running))
    running.decide(operation("db:1", blocking=False), 100.0)
    assert str(never_fired(running)).endswith(
        "\n    network.connect db:1 (begun without blocking, in no loop of asyncio or trio)"
        "\n  This fault makes callers wait, and nobody waits for what begins without blocking."
    )


def test_a_response_with_nothing_to_alter_is_told() -> None:
    running = active_experiment("network_failure", mode="drop_message")
    [hit] = running.decide(Operation(kind=RECEIVE, target="a:1", names=("a:1",)), 100.0)
    running.uncount(hit.number)
    assert str(never_fired(running)).endswith(
        "\n    network.receive a response (which had nothing to cut off, damage or drop)\n"
        "  A response without a body, or with a shorter one than asked for, is left as it is; so "
        "is a message (drop_message) of a response that has told its length."
    )


def test_what_awaits_an_answer_that_does_not_come_is_told() -> None:
    running = active_experiment("network_failure", mode="truncate", nth=1)
    running.decide(Operation(kind=RECEIVE, target="a:1", names=("a:1",)), 100.0)
    assert str(never_fired(running)) == (
        "chaos experiment 'x' (truncated to 0.5 of it, target any) never fired: of 1 operations "
        "that it chose, none came to where it happens, so this test proves nothing.\n"
        "  The code did:\n    1 network.receive a:1\n"
        "  No bytes came, or too few, before the client gave up or the experiment was over. Let "
        "the peer answer, or ask for a fault that needs no answer, such as mode='timeout' or "
        "mode='reset'."
    )


def test_an_upload_that_is_shorter_than_asked_for_is_told() -> None:
    running = active_experiment(
        "network_failure", after_bytes=100, end="reset", stream="upstream", rate=1
    )
    running.decide(Operation(kind=SEND, target="a:1", names=("a:1",)), 100.0)
    assert str(never_fired(running)).endswith(
        "\n  The code did:\n    send\n"
        "  Too few bytes were sent before the peer answered or the experiment was over. Send more, "
        "or ask for fewer, or for a fault that happens at once, such as mode='reset' alone."
    )


@pytest.mark.parametrize(
    ("mode", "did", "likely"),
    [
        ("dns", CONNECT, "Where an address is given, no name is resolved."),
        ("refuse", RECEIVE, "A connection that was open before is not made again."),
    ],
)
def test_what_was_not_done_at_all_is_told_why(mode: str, did: str, likely: str) -> None:
    running = active_experiment("network_failure", mode=mode)
    assert likely not in str(never_fired(running))
    running.decide(Operation(kind=did, target="a:1", names=("a:1",)), 100.0)
    assert likely in str(never_fired(running))


def noted(*names: str, advice: str = "use the proxy") -> Operation:
    target = names[0] if names else "program"
    return Operation(kind=CONNECT, target=target, names=names, remark="in C", advice=advice)


def test_what_is_out_of_reach_brings_its_own_advice() -> None:
    running = active_experiment(target="db:1")
    running.unmatched.note(noted("api:443"))
    assert "Correct the target" in str(never_fired(running))
    running.unmatched.note(noted("db:1"))
    error = never_fired(running)
    assert error.seen == ("network.connect api:443 (in C)", "network.connect db:1 (in C)")
    assert str(error).endswith("\n  use the proxy")


def test_what_was_meant_for_certain_has_the_better_advice() -> None:
    running = active_experiment()
    running.unmatched.note(noted(advice="perhaps this"))
    assert str(never_fired(running)).endswith("\n  perhaps this")
    running.unmatched.note(noted("db:1", advice="this"))
    running.unmatched.note(noted("db:2", advice="not this"))
    running.unmatched.note(noted(advice="perhaps that"))
    assert str(never_fired(running)).endswith("\n  this")


@pytest.mark.parametrize(
    ("kind", "given"),
    [("network_failure", {"mode": "dns"}), ("database_failure", {}), ("disk_failure", {})],
)
def test_what_is_not_about_the_wire_gets_no_advice_on_it(kind: str, given: dict[str, Any]) -> None:
    running = active_experiment(kind, **given)
    running.unmatched.note(noted("db:1"))
    assert "use the proxy" not in str(never_fired(running))
    assert never_fired(running).seen == ()


@pytest.mark.parametrize(
    ("kind", "given", "did", "about", "nearest"),
    [
        ("disk_failure", {"path": "/srv/shop/stock.csv"}, OPEN, "/tmp/{}.log", "/tmp/a/stock.csv"),
        ("network_failure", {"target": "api.internal:443"}, CONNECT, "h{}:1", "api.internal:8443"),
        ("database_failure", {"match": "INSERT INTO orders*"}, EXECUTE, "t{}", "orders"),
    ],
)
def test_what_is_most_like_what_was_meant_is_told_first(
    kind: str, given: dict[str, Any], did: str, about: str, nearest: str
) -> None:
    running = ActiveExperiment(ChaosExperiment("x", kind, **given), seed=1, started_at=0.0)
    for name in (*(about.format(n) for n in range(30)), nearest):
        statement = f"UPDATE {name} SET a = 1" if did == EXECUTE else ""
        target = "shop.db" if did == EXECUTE else name
        running.unmatched.note(
            Operation(kind=did, target=target, names=(target,), sql=SqlDetails(statement=statement))
        )
    seen = never_fired(running).seen
    assert nearest in seen[0]
    assert len(seen) == 8


def test_a_relative_path_is_said_to_begin_at_the_current_folder() -> None:
    def advice(path: str) -> str:
        experiment = ChaosExperiment("x", "disk_failure", path=path)
        running = ActiveExperiment(experiment, seed=1, started_at=0.0)
        running.unmatched.note(Operation(kind=OPEN, target="/tmp/x.csv", names=("/tmp/x.csv",)))
        return str(never_fired(running))

    assert "with **/ in front it begins anywhere" in advice("data/x.csv")
    for path in ("/data/x.csv", "**/y.csv", "~/x.csv"):
        assert "in front" not in advice(path)


@pytest.mark.parametrize("before", [150, 500, 900])
def test_the_nearest_is_told_however_much_came_before_it(before: int) -> None:
    running = ActiveExperiment(
        ChaosExperiment("x", "disk_failure", path="/srv/shop/stock.csv"), seed=1, started_at=0.0
    )
    for name in (*(f"/tmp/{n}.log" for n in range(before)), "/tmp/a/stock.csv"):
        running.unmatched.note(Operation(kind=OPEN, target=name, names=(name,)))
    assert never_fired(running).seen[0] == "file.open /tmp/a/stock.csv"


def test_who_asked_for_a_connection_is_told_how_many_there_were() -> None:
    running = active_experiment(target="api:443#5")
    for connection in (7, 8, 9):
        tcp = TcpDetails(connection=connection)
        running.decide(
            Operation(kind=CONNECT, target="api:443", names=("api:443",), tcp=tcp), 100.0
        )
    assert "\n  api:443#5 had 3 to count. It hits" in str(never_fired(running))
    assert never_fired(running).seen == ("network.connect api:443",)
