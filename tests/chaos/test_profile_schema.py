"""The JSON Schema of a profile says what the reader of profiles takes.

`UPDATE_DOCS=1` writes it anew, from the chaos types there are.
"""

from __future__ import annotations

import json
import os
import tomllib

from pathlib import Path
from typing import Any

import jsonschema
import pytest

import pytest_resilience

from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.chaos.types.catalog import SCHEMAS


FILE = Path(pytest_resilience.__file__).parent / "chaos" / "profile.schema.json"
SHIPPED = Path(pytest_resilience.__file__).parent / "plugin" / "profiles.toml"
VALUE = {"type": ["string", "number", "boolean", "array"]}
TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
SHARE = {"type": ["number", "string"]}
RUNS_OR_TIME = {"type": ["number", "string"], "exclusiveMinimum": 0}


def expected() -> dict[str, Any]:
    common = {
        "name": {"type": "string", "minLength": 1},
        "weight": {"type": "number", "exclusiveMinimum": 0},
        "enabled": {"type": "boolean"},
        "intensity": SHARE,
        "probability": SHARE,
        "duration": SHARE,
        "target_services": TEXTS,
    }
    kinds = [
        {
            "properties": {
                "chaos_type": {"const": kind.value},
                **common,
                **{each.name: VALUE | {"description": each.help} for each in schema.parameters},
            },
            "required": ["chaos_type"],
            "additionalProperties": False,
        }
        for kind, schema in SCHEMAS.items()
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A profile of pytest-resilience",
        "type": "object",
        "properties": {
            "experiments": {
                "type": "array",
                "items": {"type": "object", "oneOf": kinds},
            },
            "services": {"type": "object", "additionalProperties": TEXTS},
            "description": {"type": "string"},
            "markers": {"type": "string"},
            "paths": TEXTS,
            "seed": {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
            "gate": {"type": "number", "minimum": 0, "maximum": 100},
            "intensity": SHARE,
            "probability": SHARE,
            "interval": SHARE,
            "max_active": {"type": "integer", "minimum": 1},
            "explore": {
                "type": "object",
                "properties": {
                    "depth": {"type": "integer", "minimum": 1, "maximum": 4},
                    "budget": {
                        "anyOf": [RUNS_OR_TIME, {"type": "array", "items": RUNS_OR_TIME}],
                    },
                    "deadline": SHARE,
                    "max_calls": {
                        "anyOf": [
                            {"type": "integer", "minimum": 1},
                            {"type": "string", "pattern": "^[0-9]{1,6}x$"},
                        ]
                    },
                },
                "minProperties": 1,
                "additionalProperties": False,
            },
        },
        "minProperties": 1,
        "additionalProperties": False,
    }


def test_it_is_up_to_date() -> None:
    if os.environ.get("UPDATE_DOCS"):
        FILE.write_text(json.dumps(expected(), indent=1) + "\n", encoding="utf-8")
    assert json.loads(FILE.read_text(encoding="utf-8")) == expected()
    jsonschema.Draft202012Validator.check_schema(expected())


VALIDATOR = jsonschema.Draft202012Validator(expected())
SLOW = {"experiments": [{"chaos_type": "network_latency"}]}
GOOD: list[dict[str, Any]] = [
    {"gate": 95, "seed": 3, "markers": "slow", "paths": ["a*"], "services": {"x": "h:1"}, **SLOW},
    {"experiments": [{"chaos_type": "network_latency", "delay": "300ms", "weight": 2}]},
    {"experiments": [{"chaos_type": "network_failure", "target": ["a:1"], "between": [1, 2]}]},
    {"experiments": [{"name": "x", "chaos_type": "database_failure", "after": "commit"}]},
    {"experiments": [{"chaos_type": "service_failure", "target_services": ["x"]}]},
    {"explore": {"depth": 1, "budget": [200, "30s"], "deadline": "2s", "max_calls": "4x"}},
    {"explore": {"budget": "30s", "max_calls": 10}},
    *tomllib.loads(SHIPPED.read_text(encoding="utf-8"))["profiles"].values(),
]
BAD: list[dict[str, Any]] = [
    {},
    {"gates": 95, **SLOW},
    {"gate": 101, **SLOW},
    {"seed": -1, **SLOW},
    {"seed": 2**64, **SLOW},
    {"experiments": {"chaos_type": "network_latency"}},
    {"experiments": [{"delay": "300ms"}]},
    {"experiments": [{"chaos_type": "network_latencies"}]},
    {"experiments": [{"chaos_type": "network_latency", "status": 503}]},
    {"experiments": [{"chaos_type": "network_latency", "weight": 0}]},
    {"services": {"x": 3}},
    {"paths": 3},
    {"experiments": [{"chaos_type": 3}]},
    {"experiments": [{"chaos_type": "service_failure", "target_services": 3}]},
    {"markers": 3},
    {"description": 3, **SLOW},
    {"explore": {}},
    {"explore": 3},
    {"explore": {"depht": 2}},
    {"explore": {"depth": 5}},
    {"explore": {"budget": 0}},
    {"explore": {"budget": {"runs": 3}}},
    {"explore": {"max_calls": 0}},
    {"explore": {"max_calls": "x"}},
]


@pytest.mark.parametrize("table", GOOD)
def test_both_take_it(table: dict[str, Any]) -> None:
    VALIDATOR.validate(table)
    Profile.parse("x", table)


@pytest.mark.parametrize("table", BAD, ids=repr)
def test_both_refuse_it(table: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(table)
    with pytest.raises(ConfigurationError):
        Profile.parse("x", table)
