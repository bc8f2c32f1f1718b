"""Tolerances of a Chaos Toolkit hypothesis as functions of a probe's output."""

from __future__ import annotations

import json
import pkgutil

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from pytest_resilience.chaos.parsing.texts import inline
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaostoolkit.providers import provider_of
from pytest_resilience.chaostoolkit.values import Values
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.monkey.tolerance import Matches
from pytest_resilience.monkey.tolerance import OneOf
from pytest_resilience.monkey.tolerance import Within


__all__ = ["tolerance_of"]

_PAIR = 2
Judge = Callable[[Any], bool]


def tolerance_of(where: str, tolerance: Any, values: Values) -> Judge:
    """What says whether an output is tolerated. Raises ConfigurationError.

    Numbers and lists look at the `status` of the output of a request or a program, a list of
    two are bounds, both included, and a regular expression and a path look at the `target`.
    """
    if isinstance(tolerance, Mapping):
        kind = tolerance.get("type")
        judge = _KINDS.get(kind, _unknown) if isinstance(kind, str) else _unknown
        return judge(where, tolerance, values)
    if isinstance(tolerance, list):
        bounds = len(tolerance) == _PAIR
        whole = Within(*tolerance) if bounds else OneOf(tuple(tolerance))
        one = OneOf(tuple(tolerance))
        return lambda output: one(output["status"]) if _has_status(output) else whole(output)
    if isinstance(tolerance, (bool, str)):
        expected = values.put_into(tolerance)
        return lambda output: bool(output == expected)
    if isinstance(tolerance, int):
        return lambda output: bool(
            (output["status"] if _has_status(output) else output) == tolerance
        )
    raise ConfigurationError(
        f"{where}: tolerance={shortened(tolerance)}: give a value, two bounds, or one of type "
        + ", ".join(map(repr, _KINDS))
    )


def _has_status(output: Any) -> bool:
    return isinstance(output, Mapping) and "status" in output


def _part(tolerance: Mapping[str, Any], output: Any) -> Any:
    target = tolerance.get("target")
    return output.get(target, output) if target and isinstance(output, Mapping) else output


def _range(where: str, tolerance: Mapping[str, Any], _values: Values) -> Judge:
    bounds = tolerance.get("range")
    if (
        not isinstance(bounds, list)
        or len(bounds) != _PAIR
        or not all(isinstance(bound, (int, float)) for bound in bounds)
    ):
        raise ConfigurationError(f"{where}: range={shortened(bounds)}: give two numbers")
    within = Within(*bounds)
    return lambda output: within(float(_part(tolerance, output)))


def _regex(where: str, tolerance: Mapping[str, Any], values: Values) -> Judge:
    pattern = tolerance.get("pattern")
    if not isinstance(pattern, str):
        raise ConfigurationError(
            f"{where}: pattern={shortened(pattern)}: give a regular expression"
        )
    matches = Matches(str(values.put_into(pattern)))
    return lambda output: matches(_part(tolerance, output))


def _jsonpath(where: str, tolerance: Mapping[str, Any], values: Values) -> Judge:
    try:
        parse = pkgutil.resolve_name("jsonpath2.path:Path").parse_str
    except ImportError:
        raise ConfigurationError(
            f"{where}: a tolerance of type 'jsonpath' needs the package jsonpath2"
        ) from None
    try:
        path = parse(str(values.put_into(tolerance.get("path", ""))).strip())
    except ValueError as error:
        raise ConfigurationError(
            f"{where}: path={shortened(tolerance.get('path'))}: {inline(str(error))}"
        ) from error
    expected = values.put_into(tolerance.get("expect"))

    def judge(output: Any) -> bool:
        part = _part(tolerance, output)
        found = [
            match.current_value
            for match in path.match(json.loads(part) if isinstance(part, (str, bytes)) else part)
        ]
        if "expect" in tolerance:
            return bool(found == (expected if isinstance(expected, list) else [expected]))
        return len(found) == tolerance["count"] if "count" in tolerance else bool(found)

    return judge


def _probe(where: str, tolerance: Mapping[str, Any], values: Values) -> Judge:
    provider = tolerance.get("provider")
    if not isinstance(provider, Mapping) or provider.get("type") != "python":
        raise ConfigurationError(f"{where}: a tolerance of type 'probe' is a python function")
    perform = provider_of(where, provider, extra=("value",))
    return lambda output: bool(perform(values, value=output))


def _unknown(where: str, tolerance: Mapping[str, Any], _values: Values) -> Judge:
    raise ConfigurationError(
        f"{where}: tolerance of type {shortened(tolerance.get('type'))}; give one of "
        + ", ".join(map(repr, _KINDS))
    )


_KINDS: dict[Any, Callable[[str, Mapping[str, Any], Values], Judge]] = {
    "range": _range,
    "regex": _regex,
    "jsonpath": _jsonpath,
    "probe": _probe,
}
