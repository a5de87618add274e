"""JSON texts that travel to the VM: checked where a mistake can still be told to somebody."""

from __future__ import annotations

import json

from peerpods.errors import Refused


def check_object(text: str, setting: str) -> str:
    """The text itself, once it is known to be a JSON object.

    Raises:
        Refused: naming the setting, never the content (it may hold credentials).
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refused(f"the file of {setting} is not a JSON object", remedy=f"correct the file that {setting} names")
    return text
