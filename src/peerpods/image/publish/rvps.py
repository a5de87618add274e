"""rvps.json: reference values as the reference value provider service (RVPS) of trustee takes them.

A message of type "sample" carries base64 of a JSON map from name to the list of allowed values. Names: those of
trustee's default attestation policy. The plain values are beside it, for services that are filled directly.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

MESSAGE_VERSION = "0.1.0"


def reference_values(measured: Mapping[str, Any]) -> dict[str, list[str]]:
    """Name to allowed values, sorted and without doubles. Pure.

    Args:
        measured: measurements.json.
    """
    found: dict[str, set[str]] = {}

    def add(name: str, *values: str) -> None:
        found.setdefault(name, set()).update(values)

    for value in measured.get("snp", {}).get("values", ()):
        add("snp_launch_measurement", value["digest"])
    tdx = measured.get("tdx", {})
    for firmware in tdx.get("firmware", {}).values():
        add("mr_td", *firmware["mrtd"].values())
    for name, boot in tdx.get("boots", {}).items():
        for index in ("1", "2"):
            if index in boot["rtmr"]:
                add(f"rtmr_{index}", boot["rtmr"][index])
        for one in boot["events"]:
            if one["name"] == "command line":
                add("tdvfkernelparams", one["digest"])
            if one["name"] == name:  # the program that -kernel names: "uki", "kernel"; a disk boot has none
                add("tdvfkernel", one["digest"])
    vtpm = measured.get("vtpm", {}).get("sha256")
    if vtpm:
        tee = str(measured["image"]["name"]).partition("-")[0]
        prefix = tee if tee in ("snp", "tdx") else "tpm"
        for register in ("pcr4", "pcr9", "pcr11"):
            add(f"{prefix}_{register}", vtpm[register])
    se = measured.get("se")
    if se:
        add("se.tag", se["tag"])
        add("se.image_phkh", *se["image_phkh"])
    return {name: sorted(values) for name, values in sorted(found.items())}


def message(measured: Mapping[str, Any]) -> dict[str, Any]:
    """rvps.json: `message` to send to the service, `values` to read. Equal measurements give equal messages."""
    values = reference_values(measured)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return {
        "message": {
            "version": MESSAGE_VERSION,
            "type": "sample",
            "payload": base64.b64encode(text.encode()).decode(),
        },
        "values": values,
    }
