"""Kubernetes quantities, exactly: "1500m", "2Gi", "1e3", and back in canonical form.

| form             | suffixes                    |
|------------------|-----------------------------|
| binary           | Ki Mi Gi Ti Pi Ei           |
| decimal          | n u m (none) k M G T P E    |
| decimal exponent | e3, E3, e-3 (any integer)   |

Rules of apimachinery's resource.Quantity: nothing finer than a billionth is kept (the rest rounds away from zero), the
canonical text has no fraction and the largest suffix that keeps the number whole.
"""

from __future__ import annotations

import enum
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import attrs

_GRAMMAR = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+|[KMGTPE]i|[numkMGTPE]?)")
_DECIMAL = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_SCALE = {suffix: Fraction(10) ** power for power, suffix in _DECIMAL.items()} | {
    suffix: Fraction(1024**step) for step, suffix in enumerate(_BINARY) if step
}
_NANO = 10**9
_LARGEST_BINARY = 2**63 - 1
"""Binary quantities are cut to this; the others are not."""
_LONGEST = 64
"""Characters of a text we look at, and the largest exponent: a number with a million digits is nobody's request."""
MIB = 1024 * 1024


class Form(enum.Enum):
    """How a quantity was written, which is how it is written again."""

    BINARY = "binary"
    DECIMAL = "decimal"
    EXPONENT = "exponent"


@attrs.frozen
class Quantity:
    """A number with its form. Arithmetic is on `value`."""

    value: Fraction
    form: Form = Form.DECIMAL

    def __str__(self) -> str:
        """The canonical text, as the API server writes it."""
        value, form = self.value, self.form
        if form is Form.BINARY and value.denominator == 1 and abs(value) >= 1024:
            number, step = value.numerator, 0
            while step < len(_BINARY) - 1 and number % 1024 == 0:
                number //= 1024
                step += 1
            return f"{number}{_BINARY[step]}"
        if not value:
            return "0"
        number, power = (value * _NANO).numerator, -9
        while number % 1000 == 0 and (power < 18 or form is Form.EXPONENT):
            number //= 1000
            power += 3
        if form is Form.EXPONENT:
            return f"{number}e{power}" if power else str(number)
        return f"{number}{_DECIMAL[power]}"


def parse(raw: Any) -> Quantity:
    """Read a quantity out of JSON: text, or a plain number.

    Raises:
        ValueError: it is not a quantity; the message has it.
    """
    if isinstance(raw, str):
        return _parse(raw)
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return _parse(repr(raw))
    raise ValueError(f"{raw!r:.80} is not a quantity")


@lru_cache(maxsize=4096)
def _parse(text: str) -> Quantity:
    match = _GRAMMAR.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{text[:80]!r} is not a quantity")
    sign, digits, suffix = match.groups()
    whole, _, fraction = digits.partition(".")
    value = Fraction(int(whole + fraction or "0"), 10 ** len(fraction))
    form = Form.BINARY if suffix.endswith("i") else Form.DECIMAL
    if len(suffix) > 1 and form is Form.DECIMAL:
        form, power = Form.EXPONENT, int(suffix[1:])
        if abs(power) > _LONGEST:
            raise ValueError(f"{text!r} is out of all bounds")
        value *= Fraction(10) ** power
    else:
        value *= _SCALE[suffix]
    nanos = value * _NANO
    if nanos.denominator != 1:
        value = Fraction(-(-nanos.numerator // nanos.denominator), _NANO)
    if form is Form.BINARY:
        value = min(value, Fraction(_LARGEST_BINARY))
        if 0 < value < 1:
            form = Form.DECIMAL
    return Quantity(-value if sign == "-" else value, form)


def round_up(value: Fraction, unit: int = 1) -> int:
    """How many whole units hold `value`: cpus with 1, MiB with `MIB`."""
    return -(-value.numerator // (value.denominator * unit))
