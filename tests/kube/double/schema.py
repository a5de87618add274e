"""Structural schemas of custom resources: pruning, defaults, validation."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.kube.double.refusal import cause

Schema = dict[str, Any]
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}
ROOT = ("apiVersion", "kind", "metadata")


def prune(value: Any, schema: Schema, *, root: bool = False) -> None:
    """Drop what the schema does not name, in place."""
    if isinstance(value, list):
        for each in value:
            prune(each, schema.get("items", {}))
    if not isinstance(value, dict):
        return
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    keep_all = schema.get("x-kubernetes-preserve-unknown-fields") or others is True
    for name in list(value):
        if root and name in ROOT:
            continue
        if name in properties:
            prune(value[name], properties[name])
        elif isinstance(others, dict):
            prune(value[name], others)
        elif not keep_all:
            del value[name]


def fill(value: Any, schema: Schema) -> None:
    """Put defaults where nothing is, in place."""
    if isinstance(value, list):
        for each in value:
            fill(each, schema.get("items", {}))
    if not isinstance(value, dict):
        return
    others = schema.get("additionalProperties")
    for name, each in schema.get("properties", {}).items():
        if name in value and value[name] is None and not each.get("nullable"):
            del value[name]
        if name not in value and "default" in each:
            value[name] = copy.deepcopy(each["default"])
        if name in value:
            fill(value[name], each)
    if isinstance(others, dict):
        for each in value.values():
            fill(each, others)


def faults(value: Any, schema: Schema, path: str = "") -> Iterator[dict[str, str]]:
    """What is wrong with a value, as causes of a 422."""
    if value is None and schema.get("nullable"):
        return
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        right = isinstance(value, int | str) and not isinstance(value, bool)
    else:
        right = not kind or (isinstance(value, TYPES[kind]) and (kind == "boolean") == isinstance(value, bool))
    if not right:
        text = f'Invalid value: "{_name(value)}": {path} in body must be of type {kind}: "{_name(value)}"'
        yield cause(path, text, "FieldValueTypeInvalid" if value is None else "FieldValueInvalid")
        return
    if "enum" in schema and value not in schema["enum"]:
        listed = ", ".join(json.dumps(each) for each in schema["enum"])
        yield cause(
            path, f"Unsupported value: {json.dumps(value)}: supported values: {listed}", "FieldValueNotSupported"
        )
    for text in _limits(value, schema):
        yield cause(path, f"Invalid value: {json.dumps(value)}: {path} in body {text}")
    if isinstance(value, dict):
        yield from _members(value, schema, path)
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys") or ()
        marks = [json.dumps([each.get(key) for key in keys]) for each in value if isinstance(each, dict) and keys]
        for number, mark in enumerate(marks):
            if mark in marks[:number]:
                yield cause(f"{path}[{number}]", f"Duplicate value: {json.dumps(value[number])}", "FieldValueDuplicate")
        for number, each in enumerate(value):
            yield from faults(each, schema.get("items", {}), f"{path}[{number}]")
    yield from _combined(value, schema, path)


def _members(value: dict[str, Any], schema: Schema, path: str) -> Iterator[dict[str, str]]:
    dot = f"{path}." if path else ""
    for name in schema.get("required", ()):
        if name not in value:
            yield cause(f"{dot}{name}", "Required value", "FieldValueRequired")
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, each in value.items():
        rule = properties.get(name) or (others if isinstance(others, dict) else None)
        if rule and not (not path and name == "metadata"):
            yield from faults(each, rule, f"{dot}{name}")


def _limits(value: Any, schema: Schema) -> Iterator[str]:
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"should match '{schema['pattern']}'"
        if len(value) > schema.get("maxLength", len(value)):
            yield f"should be at most {schema['maxLength']} chars long"
        if len(value) < schema.get("minLength", 0):
            yield f"should be at least {schema['minLength']} chars long"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            yield f"should be greater than or equal to {schema['minimum']}"
        if "maximum" in schema and value > schema["maximum"]:
            yield f"should be less than or equal to {schema['maximum']}"
    elif isinstance(value, list):
        if len(value) > schema.get("maxItems", len(value)):
            yield f"should have at most {schema['maxItems']} items"
        if len(value) < schema.get("minItems", 0):
            yield f"should have at least {schema['minItems']} items"
    elif isinstance(value, dict):
        if len(value) > schema.get("maxProperties", len(value)):
            yield f"should have at most {schema['maxProperties']} properties"


def _combined(value: Any, schema: Schema, path: str) -> Iterator[dict[str, str]]:
    for each in schema.get("allOf", ()):
        yield from faults(value, each, path)
    for word, wanted in (("anyOf", None), ("oneOf", 1)):
        if word in schema:
            good = sum(not any(True for _ in faults(value, each, path)) for each in schema[word])
            if good == 0 or (wanted and good != wanted):
                yield cause(path, f"Invalid value: {json.dumps(value)}: must validate against {word}")
    if "not" in schema and not any(True for _ in faults(value, schema["not"], path)):
        yield cause(path, f"Invalid value: {json.dumps(value)}: must not validate the schema (not)")


def _name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return next(name for name, types in TYPES.items() if isinstance(value, types))
