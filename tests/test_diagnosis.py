from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ManualClock
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.operation import BODILESS
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import SqlDetails
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.diagnosis import had_nothing_to_alter
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.errors import NeverFired


def operation(target: str = "api:443", *, blocking: bool = True) -> Operation:
    return Operation(kind=CONNECT, target=target, names=(target,), blocking=blocking)


def active_experiment(kind: str = "network_latency", **parameters: Any) -> ActiveExperiment:
    return ActiveExperiment(ChaosExperiment("x", kind, **parameters), seed=1, started_at=100.0)


def test_what_was_done_instead_is_told() -> None:
    assert str(never_fired(active_experiment(target="db:1"))) == (
        "chaos experiment 'x' (latency 1s, target db:1) never fired: the code did nothing that "
        "this fault could hit, so this test proves nothing.\n"
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


def a_response(path: str = "/pay", **headers: str) -> Operation:
    request = HttpRequest.of("POST", path, headers.items())
    return Operation(kind=RECEIVE, target="a:1", names=("a:1",), http=HttpDetails(request=request))


def chosen(running: ActiveExperiment) -> Effect:
    return Effect.of(running.decide(a_response(), 100.0), ManualClock())


@pytest.mark.parametrize(
    ("parameters", "came", "why"),
    [
        (
            {"mode": "drop_message"},
            0,
            "A message can be lost of a stream only: a response",
        ),
        ({"mode": "corrupt"}, 0, "A response without a body is left as it is"),
        ({"mode": "truncate", "after_bytes": 900}, 700, "The longest body had 700 bytes"),
        ({"mode": "reset", "after_bytes": 900}, 700, "The longest body had 700 bytes"),
    ],
)
def test_a_response_with_nothing_to_alter_is_named_with_the_reason(
    parameters: dict[str, Any], came: int, why: str
) -> None:
    running = active_experiment("network_failure", path="/pay", **parameters)
    effect = chosen(running)
    assert not had_nothing_to_alter(running)
    effect.came(came)
    effect.uncount()
    assert had_nothing_to_alter(running) is (came == 0)
    assert (
        "\n    network.receive a:1 POST /pay (its response had nothing to cut off, damage or drop)"
        f"\n  {why}"
    ) in str(never_fired(running))


def test_a_response_that_has_no_body_is_told_to_be_the_reason() -> None:
    running = active_experiment("network_failure", mode="corrupt")
    running.decide(a_response()._replace(tcp=TcpDetails(form=BODILESS)), 100.0)
    error = never_fired(running)
    assert error.why is NeverFired.IMPOSSIBLE
    assert "(its response had nothing to cut off, damage or drop)" in str(error)
    assert "without a body is left as it is, as that to HEAD" in str(error)


def test_a_request_that_has_no_body_is_told_to_be_the_reason() -> None:
    running = active_experiment(
        "network_failure", mode="reset", stream="upstream", after_bytes=1000
    )
    effect = Effect.of(running.decide(a_response()._replace(kind=SEND), 100.0), ManualClock())
    effect.uncount()
    error = never_fired(running)
    assert error.why is NeverFired.IMPOSSIBLE
    assert "(its request had nothing to cut off or damage)" in str(error)
    assert "send one that has a body, or ask for a fault that happens at once" in str(error)


def test_who_opens_a_database_too_early_is_told_what_to_do() -> None:
    running = active_experiment("database_failure", mode="locked")
    running.decide(operation(), 100.0)
    assert "open such a one in a fixture, or let a flag such as --chaos-seed=1 say so" in str(
        never_fired(running)
    )


def test_all_that_is_excluded_is_another_target() -> None:
    running = active_experiment("network_failure", mode="reset", target="!api")
    running.decide(operation(), 100.0)
    assert never_fired(running).why is NeverFired.OTHER_TARGET


def test_a_response_that_never_came_had_perhaps_something_to_alter() -> None:
    running = active_experiment("network_failure", mode="truncate")
    chosen(running).uncount()
    assert had_nothing_to_alter(running)
    chosen(running)
    assert not had_nothing_to_alter(running)


@pytest.mark.parametrize(
    ("parameters", "came", "why"),
    [
        ({"mode": "truncate"}, None, "Nothing came before the client gave up"),
        (
            {"mode": "reset", "after_items": 9},
            4,
            "The longest response had 4 items: give a smaller",
        ),
        ({"mode": "reset", "after_items": 9}, 0, "The longest response had no items. An item is"),
        ({"mode": "timeout", "after_bytes": 90}, 40, "The longest body had 40 bytes: give"),
        ({"mode": "close", "after": "2s"}, None, "Nothing came, or none of it went on for 2s."),
        ({"mode": "drop_message", "after_items": 9}, 4, "The longest response had 4 items: give"),
    ],
)
def test_how_much_came_of_what_was_chosen_is_told(
    parameters: dict[str, Any], came: int | None, why: str
) -> None:
    running = active_experiment("network_failure", **parameters)
    effect = chosen(running)
    for each in () if came is None else (0, came, came // 2):
        effect.came(each)
    message = str(never_fired(running))
    assert "never fired: what it chose ended before it could happen (1 operation), so" in message
    assert f"\n  The code did:\n    1 network.receive a:1 POST /pay\n  {why}" in message


def test_what_happened_in_its_place_is_told() -> None:
    running = active_experiment("network_failure", mode="reset")
    [hit] = running.decide(a_response(), 100.0)
    running.overtaken(hit)
    message = str(never_fired(running))
    assert (
        "  Another experiment's fault happened in its place, and left nothing for it: aim"
        in message
    )


def test_where_items_came_in_several_responses_it_is_told_how_to_choose_one() -> None:
    running = active_experiment("network_failure", mode="reset", after_items=3)
    for _ in range(2):
        chosen(running).came(1)
    assert (
        "The longest response had 1 items: give a smaller after_items. What the client sends "
        "begins another one, but on a WebSocket: nth chooses among them."
    ) in str(never_fired(running))


@pytest.mark.parametrize(
    ("parameters", "refused"),
    [
        ({"path": "/pays*"}, "path /pays*"),
        ({"method": "GET", "path": "/pay"}, "method GET"),
        ({"method": "GET", "path": "/"}, "method GET, path /"),
        ({"header": "x-tenant: acme"}, "header x-tenant: acme"),
        ({"rpc": "shop.Payments/*"}, "rpc shop.Payments/*"),
        ({"target": "a:1", "path": "/"}, "path /"),
    ],
)
def test_what_keeps_a_request_from_being_meant_is_told(
    parameters: dict[str, str], refused: str
) -> None:
    running = active_experiment("network_failure", mode="reset", **parameters)
    assert not running.decide(a_response("/pay", **{"x-tenant": "other"}), 100.0)
    message = str(never_fired(running))
    by_name = sorted(message.partition("(not ")[2].partition(")")[0].split(", "))
    assert by_name == sorted(refused.split(", "))
    assert "None of these is the one that is meant: compare " in message


@pytest.mark.parametrize(
    ("headers", "is_told"),
    [
        ({"user_agent": "python-requests/2.34"}, False),
        ({"x_stainless_lang": "python"}, True),
        ({"user_agent": "azsdk-python-ai-inference/1.0"}, True),
    ],
)
def test_parts_of_a_second_are_for_clients_that_read_them(
    headers: dict[str, str], is_told: bool
) -> None:
    running = active_experiment("network_failure", mode="status", retry_after=0.2)
    request = {name.replace("_", "-"): value for name, value in headers.items()}
    running.decide(a_response(**request), 100.0)
    assert running.hits == is_told
    if not is_told:
        error = never_fired(running)
        assert error.why is NeverFired.IMPOSSIBLE
        assert "(whose client reads whole seconds in Retry-After)" in str(error)
        assert "as in headers={'retry-after-ms': '200'}" in str(error)


def test_a_request_to_another_target_is_not_taken_for_one_that_is_nearly_meant() -> None:
    running = active_experiment("network_failure", mode="reset", target="b:1", path="/pays")
    assert not running.decide(a_response(), 100.0)
    assert "not path" not in str(never_fired(running))


def test_statements_that_were_seen_are_not_explained_by_connections_that_were_not() -> None:
    running = active_experiment("database_failure", match="INSERT*")
    statement = Operation(
        kind=EXECUTE, target="app", names=("app",), sql=SqlDetails(statement="SELECT 1")
    )
    assert not running.decide(statement, 100.0)
    message = str(never_fired(running))
    assert "SELECT 1 (not match INSERT*)\n  None of these is the one that is meant" in message
    assert "open before the run" not in message


def test_what_is_sent_to_a_mock_cannot_be_hit() -> None:
    running = active_experiment("network_failure", mode="reset", stream="upstream")
    running.decide(operation("api:443"), 100.0)
    assert "leave out stream='upstream' there. It hits network.send." in str(never_fired(running))


@pytest.mark.parametrize("known", [True, False])
def test_a_name_that_does_not_resolve_is_the_reason_where_the_request_was_not_made(
    known: bool,
) -> None:
    running = active_experiment("network_failure", mode="reset", path="/pay")
    in_process = HttpDetails(request=HttpRequest.of("GET", "/"), in_process=True)
    call = Operation(
        kind=CONNECT, target="app:80", names=("app:80",), http=in_process, advice="aim at the app"
    )
    unresolved = Operation(kind=RESOLVE, target="a:1", names=("a:1",), advice="no such name")
    for each in (call, unresolved) if known else (unresolved, call):
        running.unmatched.note(each)
    assert str(never_fired(running)).endswith(
        "\n  no such name With method, path or header each of these needs a server: a request is "
        "known when it is sent."
    )


def test_an_upload_that_is_shorter_than_asked_for_is_told() -> None:
    running = active_experiment(
        "network_failure", after_bytes=100, end="reset", stream="upstream", rate=1
    )
    running.decide(Operation(kind=SEND, target="a:1", names=("a:1",)), 100.0)
    assert str(never_fired(running)).endswith(
        "\n  The code did:\n    1 network.send a:1\n"
        "  Too few bytes were sent before the peer responded or the experiment was over. Send "
        "more, or ask for fewer, or for a fault that happens at once, such as mode='reset' alone."
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


def test_nobody_awaited_it() -> None:
    running = active_experiment("cancellation")
    running.decide(operation(), 100.0)
    assert "and nobody awaited one of these: what a coroutine does without `await`" in str(
        never_fired(running)
    )


def an_operation(kind: str, target: str, remark: str = "", advice: str = "") -> Operation:
    names = (target,) if ":" in target else ()
    return Operation(kind=kind, target=target, names=names, remark=remark, advice=advice)


A_PROCESS = an_operation("process.start", "node", "a process that was not reached", "lead it")
CAUSES: list[tuple[NeverFired, dict[str, Any], list[Operation]]] = [
    (NeverFired.NOTHING_DONE, {"target": "db:1"}, []),
    (NeverFired.OTHER_TARGET, {"target": "db:1"}, [operation("db:2")]),
    (
        NeverFired.OPENED_BEFORE,
        {"mode": "refuse", "target": "api:443"},
        [an_operation(RECEIVE, "api:443")],
    ),
    (NeverFired.OTHER_KIND, {"mode": "dns"}, [operation("10.0.0.1:1")]),
    (NeverFired.OTHER_KIND, {"mode": "reset", "target": "api:443"}, [operation()]),
    (
        NeverFired.OTHER_TARGET,
        {"mode": "refuse", "target": "api:443"},
        [an_operation(RESOLVE, "api:80"), an_operation(RECEIVE, "db:1")],
    ),
    (
        NeverFired.IN_C,
        {"mode": "reset", "target": "db:1"},
        [an_operation(CONNECT, "db:1", "by psycopg through libpq, which is C", "lead it")],
    ),
    (
        NeverFired.UNRESOLVED,
        {"mode": "reset", "target": "db:1"},
        [an_operation(RESOLVE, "db:1", "does not resolve here", "use a name that does")],
    ),
    (
        NeverFired.OTHER_PROCESS,
        {"mode": "reset"},
        [A_PROCESS],
    ),
    (
        NeverFired.OTHER_TARGET,
        {"mode": "reset", "target": "db:1"},
        [operation("db:2"), an_operation(RECEIVE, "db:2"), A_PROCESS],
    ),
    (
        NeverFired.IN_PROCESS,
        {"mode": "reset"},
        [an_operation(CONNECT, "testserver", "by TestClient, in this process", "aim at it")],
    ),
    (NeverFired.OTHER_REQUEST, {"mode": "reset", "path": "/pays"}, [a_response()]),
]


@pytest.mark.parametrize(("why", "parameters", "did"), CAUSES, ids=str)
def test_the_likely_cause_is_named_first(
    why: NeverFired, parameters: dict[str, Any], did: list[Operation]
) -> None:
    running = active_experiment("network_failure", **{"mode": "reset", **parameters})
    for each in did:
        running.decide(each, 100.0)
        running.unmatched.note(each)
    error = never_fired(running)
    assert error.why is why
    assert f"never fired: {why.value}, so this test proves nothing.\n" in str(error)


def test_the_nearest_operation_is_named() -> None:
    running = active_experiment("network_failure", target="payments.internal:443")
    for target in ("db.internal:5432", "payment.internal:443", "cache:6379"):
        running.decide(operation(target), 100.0)
    nearest = "\n  Nearest to the target: network.connect payment.internal:443\n  The code did:\n"
    assert nearest in str(never_fired(running))


@pytest.mark.parametrize(
    ("opened", "why"), [("y", NeverFired.OTHER_TARGET), ("x", NeverFired.OTHER_KIND)]
)
def test_another_file_is_another_target(opened: str, why: NeverFired) -> None:
    running = active_experiment("disk_failure", path="**/x.csv")
    file = f"/tmp/{opened}.csv"
    running.decide(Operation(kind="file.open", target=file, names=(file,)), 100.0)
    assert never_fired(running).why is why


@pytest.mark.parametrize(
    ("mode", "kind", "advice"),
    [
        ("serialization_failure", COMMIT, "at commit, whose statement is COMMIT: write"),
        ("refused", OPEN_CONNECTION, "before there is a statement: leave match out"),
        ("pool_exhausted", CHECK_OUT, "before there is a statement: leave match out"),
        ("deadlock", EXECUTE, "None of these is the one that is meant: compare match"),
    ],
)
def test_match_of_a_step_without_such_statements(mode: str, kind: str, advice: str) -> None:
    running = active_experiment("database_failure", mode=mode, match="UPDATE*")
    statement = {COMMIT: "COMMIT", EXECUTE: "SELECT 1"}.get(kind, "")
    sql = SqlDetails(statement=statement)
    assert not running.decide(Operation(kind=kind, target="a", names=("a",), sql=sql), 100.0)
    assert advice in str(never_fired(running))
