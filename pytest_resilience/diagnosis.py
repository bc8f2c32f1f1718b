"""What to tell people about an experiment that did not happen, or not to everything.

Knows the clients and drivers that the interceptors reach, and where they cannot.
"""

from __future__ import annotations

import re

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.response import DroppedMessage
from pytest_resilience.chaos.faults.response import From
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.chaos.faults.response import StatusResponse
from pytest_resilience.chaos.faults.response import Truncation
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import DATAGRAMS
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.chaos.parsing.quantities import format_seconds
from pytest_resilience.chaos.seen_operations import NOTHING_CAME
from pytest_resilience.chaos.seen_operations import OVERTAKEN
from pytest_resilience.chaos.seen_operations import UNALTERABLE
from pytest_resilience.chaos.seen_operations import UNALTERABLE_REQUEST
from pytest_resilience.chaos.seen_operations import UNSEEN
from pytest_resilience.chaos.seen_operations import URGENT
from pytest_resilience.chaos.seen_operations import UnmatchedOperation
from pytest_resilience.chaos.seen_operations import UnmatchedOperations
from pytest_resilience.chaos.triggers import goes_by_time
from pytest_resilience.chaos.triggers import is_left_to_chance
from pytest_resilience.chaos.types.callers import Cancellation
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.chaos.types.schema import UPSTREAM
from pytest_resilience.errors import NeverFired
from pytest_resilience.errors import NeverFiredError


__all__ = [
    "chance_of", "counted_operations", "had_nothing_to_alter", "missed_by_chance", "never_entered",
    "never_fired",
]  # fmt: skip

_SENT = frozenset({SEND, END, SEND_DATAGRAM})
_ENCRYPTED = "encrypted above the socket"
_NON_BLOCKING = "begun without blocking, in no loop of asyncio or trio"
_HTTP_2 = "HTTP/2"
_KNOWS_BUT = "which knows but"
_BEFORE_REQUESTS = "before any request is known"
_NOT_HTTP = "no HTTP"
_NO_REQUEST = "no request of HTTP that is seen"
_WHOLE_SECONDS = "whose client reads whole seconds in Retry-After"
_PAST = {
    UNSEEN: (
        "Bytes went past the methods of a socket: by the number of its descriptor, as a library in "
        "C, os.splice and open(sock.fileno()) do, or in a call from before the experiment. Lead "
        "that client through chaos_proxy."
    ),
    URGENT: (
        "Urgent data (MSG_OOB) comes beside the response, at once: ask for a fault of connections, "
        "such as mode='partition'."
    ),
}
_ADVICE = _PAST | {  # by remark, the surest first
    _ENCRYPTED: (
        "Responses over TLS are encrypted: to a proxy always, in a loop where the connection was "
        "open before the experiment and not recognized by what it sent: open it within that."
    ),
    _HTTP_2: (
        "Responses in HTTP/2 are told apart only by the library h2, in this process: elsewhere use "
        "HTTP/1.1, or a fault of connections."
    ),
    _NON_BLOCKING: (
        "This fault makes callers wait, and nobody waits for what begins without blocking."
    ),
    _NOT_HTTP: (
        "A status, or malformed JSON, is a response of HTTP: it happens to requests of HTTP only."
    ),
    _NO_REQUEST: (
        "Only requests of HTTP can be told apart by method, path and header: choose by nth or "
        "first."
    ),
    _WHOLE_SECONDS: (
        "HTTP has whole seconds in Retry-After: give such, as in retry_after=1, or what the client "
        "reads by itself, as in headers={'retry-after-ms': '200'}. Only openai, anthropic and "
        "others of their make are known to read parts of a second."
    ),
    _BEFORE_REQUESTS: (
        "A name is resolved and a connection made before anybody knows what for: leave out method, "
        "path and header, or use a fault of responses such as mode='reset'."
    ),
}

_NO_REQUEST_MADE = (
    " With method, path or header each of these needs a server: a request is known when it is sent."
)
_OF_PATHS = (
    " A path is compared as a whole, without its query: '/orders' is not '/orders/', and "
    "'/orders*' is both."
)


def never_fired(active_experiment: ActiveExperiment) -> NeverFiredError:
    """The error for an experiment that proves nothing: what the code did, and what to change."""
    if active_experiment.matched:
        return _chosen_none(active_experiment)
    experiment, unmatched = active_experiment.experiment, active_experiment.unmatched
    lines: dict[str, None] = {}
    for each in unmatched.few():
        lines[_line(experiment, each)] = None
    nearest = unmatched.nearest()
    return NeverFiredError(
        experiment.name,
        fault=experiment.fault_text,
        target=experiment.target_text,
        why=_cause(active_experiment),
        seen=tuple(lines),
        nearest=_line(experiment, nearest) if nearest is not None and len(lines) > 1 else "",
        advice=_advice(active_experiment),
    )


def _line(experiment: ChaosExperiment, operation: UnmatchedOperation) -> str:
    remark = _remark(experiment, operation)
    return f"{operation.kind} {operation.subject}" + (f" ({remark})" if remark else "")


# By what stands beside an operation, the surest first.
_CAUSES = {
    "nobody, so far": NeverFired.NO_CLIENT,
    "C": NeverFired.IN_C,
    "does not resolve here": NeverFired.UNRESOLVED,
    "opened before": NeverFired.OPENED_BEFORE,
    "in this process": NeverFired.IN_PROCESS,
    "a process": NeverFired.OTHER_PROCESS,
}


def _cause(active_experiment: ActiveExperiment) -> NeverFired:
    """The likely cause, where no operation matched."""
    experiment, unmatched = active_experiment.experiment, active_experiment.unmatched
    if not unmatched.all:
        return NeverFired.NOTHING_DONE
    if unmatched.advice and (unmatched.certainty == 2 or not _advice_on_remarks(active_experiment)):
        remarks = [each.remark for each in unmatched.all]
        for words, cause in _CAUSES.items():
            if cause is NeverFired.OTHER_PROCESS and _did_so_elsewhere(active_experiment):
                continue
            if any(re.search(rf"\b{words}\b", remark) for remark in remarks):
                return cause
    if unmatched.refused_by:
        return NeverFired.OTHER_REQUEST
    if _advice_on_remarks(active_experiment):
        return NeverFired.IMPOSSIBLE
    return _cause_by_kinds(experiment, unmatched)


def _did_so_elsewhere(active_experiment: ActiveExperiment) -> bool:
    """Whether this process did what can be hit, with other targets: then one was mistaken."""
    experiment, unmatched = active_experiment.experiment, active_experiment.unmatched
    likewise = any(each.kind in experiment.kinds for each in unmatched.all)
    return unmatched.is_elsewhere and likewise


def _cause_by_kinds(experiment: ChaosExperiment, unmatched: UnmatchedOperations) -> NeverFired:
    if unmatched.is_elsewhere or any(each.kind in experiment.kinds for each in unmatched.all):
        return NeverFired.OTHER_TARGET
    is_of_database = any(kind.startswith("database.") for kind in experiment.kinds)
    if is_of_database or experiment.kinds - DATAGRAMS == {CONNECT}:
        return NeverFired.OPENED_BEFORE
    return NeverFired.OTHER_KIND


_UNALTERABLE = frozenset({UNALTERABLE, UNALTERABLE_REQUEST})
_NO_BODY_SENT = (
    "A request without a body is left as it is, as a GET mostly is: send one that has a body, or "
    "ask for a fault that happens at once, such as mode='reset' alone."
)
_TOO_FEW_SENT = (
    "Too few bytes were sent before the peer responded or the experiment was over. Send more, or "
    "ask for fewer, or for a fault that happens at once, such as mode='reset' alone."
)


def _chosen_none(active_experiment: ActiveExperiment) -> NeverFiredError:
    experiment = active_experiment.experiment
    if chosen := active_experiment.counts.chosen:
        sends = all(SEND in fault.kinds and fault.has_place for fault in experiment.faults)
        return NeverFiredError(
            experiment.name,
            fault=experiment.fault_text,
            target=experiment.target_text,
            why=NeverFired.TOO_LITTLE,
            chose="1 operation" if chosen == 1 else f"{chosen} operations",
            seen=counted_operations(active_experiment),
            advice=_TOO_FEW_SENT if sends else _what_came(active_experiment),
        )
    return NeverFiredError(
        experiment.name,
        fault=experiment.fault_text,
        target=experiment.target_text,
        why=NeverFired.NOT_CHOSEN,
        chose=experiment.triggers_text,
        seen=counted_operations(active_experiment),
        advice=f"{_went_past(active_experiment)}Choose some of these, which "
        "pytest --chaos-operations shows for any test, or say must_fire=False if firing is not "
        "what you test.",
    )


def _went_past(active_experiment: ActiveExperiment) -> str:
    """What to do about what could not be counted; "" if there was nothing."""
    remarks = {each.remark for each in active_experiment.unmatched.all}
    return "".join(f"{advice} " for remark, advice in _PAST.items() if remark in remarks)


def _what_came(active_experiment: ActiveExperiment) -> str:
    """What there was of responses, or of what was sent, and why that was too little."""
    unmatched, furthest = active_experiment.unmatched, active_experiment.unmatched.furthest
    if any(each.remark == OVERTAKEN for each in unmatched.all):
        return (
            "Another experiment's fault happened in its place, and left nothing for it: aim them "
            "apart by target, path or nth, or end the other one first."
        )
    places = (_place(fault) for fault in active_experiment.experiment.faults)
    place = next((each for each in places if each is not None), None)
    if place is not None and place.seconds:
        return f"Nothing came, or none of it went on for {format_seconds(place.seconds)}."
    if furthest == NOTHING_CAME:
        return (
            "Nothing came before the client gave up or the experiment was over. Let the peer "
            "respond, or ask for a fault that needs no response, such as mode='timeout'."
        )
    if place is None:
        return "What came was too short for it, or the experiment was over."
    if place.items is None:
        return f"The longest body had {furthest} bytes: give a smaller after_bytes."
    most = f"{furthest} items: give a smaller after_items" if furthest else "no items"
    several = (
        " What the client sends begins another one, but on a WebSocket: nth chooses among them."
        if furthest and active_experiment.matched > 1
        else ""
    )
    return (
        f"The longest response had {most}.{several} An item is an event of server-sent events, a "
        "message of a WebSocket, of gRPC or of NATS, a reply of Redis, a line, or a chunk of a "
        "body in chunks; of any other body give after_bytes."
    )


def _place(fault: Fault) -> From | None:
    """Where in a message it happens; None where it is not said."""
    if isinstance(fault, Truncation) and fault.limit is not None:
        return From(size=fault.limit)
    if isinstance(fault, DroppedMessage):
        return From(items=fault.items)
    return getattr(fault, "begins", None)


def _why_unaltered(active_experiment: ActiveExperiment) -> str:
    """Why responses were left as they are."""
    for fault in active_experiment.experiment.faults:
        place = _place(fault)
        if isinstance(fault, DroppedMessage):
            return (
                "A message can be lost of a stream only: a response that has told its length "
                "(Content-Length) would be one that is cut off, which is mode='truncate'."
            )
        if place is not None and active_experiment.unmatched.furthest > 0:
            return _what_came(active_experiment)
    return "A response without a body is left as it is, as that to HEAD, 204 and 304."


def had_nothing_to_alter(active_experiment: ActiveExperiment) -> bool:
    """Whether it chose responses, and could happen to none: each was without a body, or items.

    As the one by which a server becomes a WebSocket's, if it says nothing there. A body that is
    too short for the place where it begins is none of these.
    """
    unmatched, counts = active_experiment.unmatched, active_experiment.counts
    unaltered = any(each.remark in _UNALTERABLE for each in unmatched.all)
    is_head_alone = unmatched.furthest == 0 and not counts.hits
    return unmatched.furthest <= 0 and (is_head_alone or (unaltered and not counts.chosen))


def counted_operations(active_experiment: ActiveExperiment) -> tuple[str, ...]:
    """The operations that an experiment matched, with their numbers, for people."""
    counted = active_experiment.counted
    if counted is None:
        return ()
    by_time = goes_by_time(active_experiment.experiment.triggers)
    return counted.lines(active_experiment.matched, with_times=by_time)


def never_entered(experiment: ChaosExperiment) -> NeverFiredError:
    """The error for a context manager that was asked for and never entered."""
    return NeverFiredError(
        experiment.name,
        fault=experiment.fault_text,
        target=experiment.target_text,
        why=NeverFired.NOT_ENTERED,
        seen=(),
        advice="Write `with` before it, around what it is to happen to.",
    )


def missed_by_chance(active_experiment: ActiveExperiment) -> list[str]:
    """A line about the operations that chance, and nothing else, kept it from hitting."""
    experiment, matched = active_experiment.experiment, active_experiment.matched
    missed = matched - active_experiment.hits
    if not missed or not is_left_to_chance(experiment.triggers):
        return []
    which = f"{missed} of {matched} operations"
    return [f"{experiment.name}: by chance it spared {which}{chance_of(active_experiment)}"]


def chance_of(active_experiment: ActiveExperiment) -> str:
    """How likely a hit was, and what leaves nothing to chance; "" where nothing was left to it."""
    experiment = active_experiment.experiment
    by_chance = is_left_to_chance(experiment.triggers)
    return f" ({experiment.triggers_text}); rate=1 hits them all" if by_chance else ""


def _remark(experiment: ChaosExperiment, operation: UnmatchedOperation) -> str:
    """Why no fault of the experiment can happen to it; '' where it is only no target."""
    if operation.remark:
        return operation.remark
    if any(isinstance(fault, InjectedResponse) for fault in experiment.faults):
        if operation.encrypted:
            return _ENCRYPTED
        if operation.unwritable:
            return operation.unwritable
    hidden = _hidden(experiment, operation) or _untold(experiment, operation)
    if hidden:
        return hidden
    known = operation.conditions
    if known is not None and any(
        isinstance(fault, DatabaseFailure) and fault.condition not in known
        for fault in experiment.faults
    ):
        return f"{_KNOWS_BUT} {', '.join(map(repr, sorted(known)))}"
    return "" if operation.blocking else _NON_BLOCKING


def _untold(experiment: ChaosExperiment, operation: UnmatchedOperation) -> str:
    """Why its client cannot be told when to try again."""
    statuses = [each for each in experiment.faults if isinstance(each, StatusResponse)]
    is_exact = operation.kind == RECEIVE and any(each.has_fraction for each in statuses)
    return _WHOLE_SECONDS if is_exact else ""


def _hidden(experiment: ChaosExperiment, operation: UnmatchedOperation) -> str:
    """Why the response, or the request that it belongs to, is not known."""
    if operation.multiplexed:
        return _HTTP_2
    if operation.request is not None:
        return ""
    if operation.encrypted:
        return _ENCRYPTED
    if operation.kind == RECEIVE:
        return _NO_REQUEST
    return "" if RECEIVE in experiment.kinds else _BEFORE_REQUESTS


_NOBODY_AWAITED = (
    "Cancelled is who awaits an operation, and nobody awaited one of these: what a coroutine does "
    "without `await` cannot be cancelled, and a task that a library has started for itself is "
    "cancelled by nobody else. "
)


def _advice(active_experiment: ActiveExperiment) -> str:
    experiment, unmatched = active_experiment.experiment, active_experiment.unmatched
    if unmatched.certainty == 2:
        return unmatched.advice
    if told := _advice_on_remarks(active_experiment):
        return told
    if unmatched.advice:
        of_target = "Correct the target. Or: " if _did_so_elsewhere(active_experiment) else ""
        return of_target + unmatched.advice + (_NO_REQUEST_MADE if unmatched.certainty else "")
    cancels = all(isinstance(fault, Cancellation) for fault in experiment.faults)
    did = {each.kind for each in unmatched.all}
    return (
        f"{_connections_there_were(active_experiment)}"
        f"{unmatched.blind_spot if did.isdisjoint(experiment.kinds) else ''}"
        f"{_NOBODY_AWAITED if cancels else _likely_reason(active_experiment)}"
        f"It hits {', '.join(sorted(experiment.kinds))}. Correct the target or the fault, or say "
        "must_fire=False if firing is not what you test."
    )


def _advice_on_remarks(active_experiment: ActiveExperiment) -> str:
    """What to do where operations were nearly what is meant; '' where none was."""
    experiment, unmatched = active_experiment.experiment, active_experiment.unmatched
    remarks = {_remark(experiment, each) for each in unmatched.all}
    if UNALTERABLE in remarks:
        return _why_unaltered(active_experiment)
    if UNALTERABLE_REQUEST in remarks:
        return _NO_BODY_SENT
    refused = unmatched.refused_by
    if refused and (told := _of_another_step(experiment)):
        return told
    if refused:
        others = f"None of these is the one that is meant: compare {' and '.join(refused)} with it."
        return others + (_OF_PATHS if any("path " in each for each in refused) else "")
    if any(remark.startswith(_KNOWS_BUT) for remark in remarks):
        return "Connections of redis are lost and refused by network_failure."
    return next((advice for remark, advice in _ADVICE.items() if remark in remarks), "")


def _of_another_step(experiment: ChaosExperiment) -> str:
    """What to do where `match` is for statements, and the failure happens at no such step."""
    if "match" not in dict(experiment.parameters):
        return ""
    if experiment.kinds == {COMMIT}:
        return (
            "It happens at commit, whose statement is COMMIT: write during='execute', and it "
            "happens to the statements of match, or leave match out."
        )
    if experiment.kinds <= {OPEN_CONNECTION, CHECK_OUT}:
        return "It happens before there is a statement: leave match out, or say database."
    return ""


def _connections_there_were(active_experiment: ActiveExperiment) -> str:
    counted = active_experiment.counted
    numbers = None if counted is None else counted.connections
    totals = {} if numbers is None else numbers.totals
    return "".join(f"{target} had {total} to count. " for target, total in totals.items())


def _likely_reason(active_experiment: ActiveExperiment) -> str:
    experiment = active_experiment.experiment
    did = {each.kind for each in active_experiment.unmatched.all}
    if experiment.has_relative_path:
        return (
            "A relative path begins at the current folder; with **/ in front it begins anywhere. "
        )
    if not experiment.kinds - _SENT and not did & experiment.kinds:
        return (
            "A mock, or an application in this process, shows nothing of what is sent to it: leave "
            f"out stream={UPSTREAM!r} there. "
        )
    if any(kind.startswith("database.") for kind in experiment.kinds - did):
        return (
            "Of sqlite3 and psycopg2, connections that were open before the run had chaos are not "
            "reached, and it has from the first module on whose text asks for it: open such a one "
            "in a fixture, or let a flag such as --chaos-seed=1 say so before any is imported. "
        )
    if did and experiment.kinds == {RESOLVE} and RESOLVE not in did:
        return "Where an address is given, no name is resolved. "
    connects = experiment.kinds - DATAGRAMS == {CONNECT}
    if did and connects and CONNECT not in did and not active_experiment.unmatched.is_elsewhere:
        return "A connection that was open before is not made again. "
    return ""
