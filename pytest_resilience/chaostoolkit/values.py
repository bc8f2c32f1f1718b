"""Configuration and secrets of a Chaos Toolkit experiment, and where they are put in."""

from __future__ import annotations

import os

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from string import Template
from typing import Any

from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = ["Values"]

_TYPES: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: text.strip().lower() in {"true", "1", "yes", "on"},
    "bytes": str.encode,
}


@dataclass(frozen=True, slots=True)
class Values:
    """What `${name}` stands for.

    Attributes:
        configuration: by name.
        secrets: by group, then by name.
    """

    configuration: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Values:
        """From an experiment and the environment. Raises ConfigurationError."""
        configuration = _read("configuration", document.get("configuration", {}))
        secrets = document.get("secrets", {})
        if not isinstance(secrets, Mapping):
            raise ConfigurationError(
                f"secrets={shortened(secrets)}: give groups of secrets by name"
            )
        return cls(
            configuration,
            {group: _read(f"secrets of {group}", secrets[group]) for group in secrets},
        )

    def put_into(self, data: Any) -> Any:
        """`data` with every `${name}` replaced; a name nobody knows stays as it is.

        A text that is nothing but one `${name}` becomes that value, of whatever type.
        """
        if isinstance(data, str):
            return self._text(data)
        if isinstance(data, Mapping):
            return {key: self.put_into(value) for key, value in data.items()}
        if isinstance(data, (list, tuple)):
            return [self.put_into(each) for each in data]
        return data

    def _text(self, text: str) -> Any:
        known: dict[str, Any] = {}
        for group in (*self.secrets.values(), self.configuration):  # the latter wins
            known.update(group)
        whole = Template.pattern.fullmatch(text)
        name = whole and (whole["named"] or whole["braced"])
        return known[name] if name in known else Template(text).safe_substitute(known)


def _read(where: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{where}={shortened(given)}: give values by name")
    return {name: _value(f"{where}: {name}", value) for name, value in given.items()}


def _value(where: str, value: Any) -> Any:
    if not isinstance(value, Mapping) or "type" not in value:
        return value
    if value["type"] != "env":
        raise ConfigurationError(
            f"{where} is of type {shortened(value['type'])}; give a value, or one of type 'env' "
            "with a 'key'"
        )
    key = value.get("key", "")
    if not isinstance(key, str) or not key.isprintable():
        raise ConfigurationError(f"{where}: key={shortened(key)}: give the name of a variable")
    if key not in os.environ:
        if "default" in value:
            return value["default"]
        raise ConfigurationError(
            f"{where}: the environment has no {shortened(key)}, and there is no default"
        )
    kind = value.get("env_var_type", "str")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ConfigurationError(
            f"{where}: env_var_type={shortened(kind)}; give one of {', '.join(_TYPES)}"
        )
    try:
        return _TYPES[kind](os.environ[key])
    except ValueError as error:
        raise ConfigurationError(f"{where}: {key} in the environment is no {kind}") from error
