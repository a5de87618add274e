"""Quantities: the API server's own rules as a table, and the properties that hold for all."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.kube.objects.quantity import MIB, Form, Quantity, parse, round_up

TABLE = [
    # text, value, canonical (as kubectl get -o yaml shows it)
    ("0", 0, "0"),
    ("0Ki", 0, "0"),
    ("-0", 0, "0"),
    ("1", 1, "1"),
    ("+1", 1, "1"),
    ("-1", -1, "-1"),
    ("1.", 1, "1"),
    (".5", Fraction(1, 2), "500m"),
    ("0.5", Fraction(1, 2), "500m"),
    ("1500m", Fraction(3, 2), "1500m"),
    ("1000m", 1, "1"),
    ("1u", Fraction(1, 10**6), "1u"),
    ("1n", Fraction(1, 10**9), "1n"),
    ("0.1n", Fraction(1, 10**9), "1n"),
    ("-0.1n", Fraction(-1, 10**9), "-1n"),
    ("0.0000000011", Fraction(2, 10**9), "2n"),
    ("1k", 1000, "1k"),
    ("1000k", 10**6, "1M"),
    ("1M", 10**6, "1M"),
    ("1G", 10**9, "1G"),
    ("1T", 10**12, "1T"),
    ("1P", 10**15, "1P"),
    ("1E", 10**18, "1E"),
    ("12345k", 12345000, "12345k"),
    ("1Ki", 1024, "1Ki"),
    ("1024Ki", 2**20, "1Mi"),
    ("5Gi", 5 * 2**30, "5Gi"),
    ("1.5Gi", 3 * 2**29, "1536Mi"),
    ("1Ti", 2**40, "1Ti"),
    ("1Pi", 2**50, "1Pi"),
    ("7Ei", 7 * 2**60, "7Ei"),
    ("8Ei", 2**63 - 1, "9223372036854775807"),
    ("100E", 10**20, "100E"),
    ("1000E", 10**21, "1000E"),
    ("0.5Ki", 512, "512"),
    ("0.0001Ki", Fraction(1024, 10000), "102400u"),
    ("1.0001Ki", Fraction(10241024, 10000), "1024102400u"),
    ("1e3", 1000, "1e3"),
    ("1E3", 1000, "1e3"),
    ("12e5", 1200000, "1200e3"),
    ("1e-3", Fraction(1, 1000), "1e-3"),
    ("100e-1", 10, "10"),
    ("1e+6", 10**6, "1e6"),
    ("1e-12", Fraction(1, 10**9), "1e-9"),
    ("128974848", 128974848, "128974848"),
    ("129e6", 129 * 10**6, "129e6"),
    ("129M", 129 * 10**6, "129M"),
    ("123Mi", 123 * 2**20, "123Mi"),
    (2, 2, "2"),
    (0.5, Fraction(1, 2), "500m"),
]


@pytest.mark.parametrize(("text", "value", "canonical"), TABLE)
def test_table(text, value, canonical):
    quantity = parse(text)
    assert quantity.value == value
    assert str(quantity) == canonical


@pytest.mark.parametrize(
    "wrong",
    ["", " ", "1 ", " 1", "m", ".", "1.1.1", "1mi", "1KI", "1K", "1ki", "1e", "1e1.5", "--1", "1Kim", "1e999999999",
     "9" * 65, "0x1", "1_0", "1\n", "٣", "NaN", "inf", None, True, [], {}, float("nan"), float("inf")],
)  # fmt: skip
def test_refused(wrong):
    with pytest.raises(ValueError, match=r"quantity|bounds"):
        parse(wrong)


def test_rounding_up():
    assert [round_up(parse(text).value) for text in ("0", "1n", "0.5", "1", "1500m", "3")] == [0, 1, 1, 1, 2, 3]
    assert [round_up(parse(text).value, MIB) for text in ("1", "1Mi", "5Gi", "1500M", "0.1Mi")] == [1, 1, 5120, 1431, 1]
    assert round_up(Fraction(-1, 2)) == 0


VALUES = st.integers(-(10**24), 10**24).map(lambda nanos: Fraction(nanos, 10**9))


@given(VALUES, st.sampled_from(Form))
def test_canonical_text_reads_back(value, form):
    if form is Form.BINARY and abs(value) > 2**63 - 1:
        value = value % 2**62
    text = str(Quantity(value, form))
    again = parse(text)
    assert again.value == value
    assert str(again) == text
    assert "." not in text


@given(
    st.sampled_from(["", "+", "-"]),
    st.from_regex(r"[0-9]{1,12}(\.[0-9]{0,6})?", fullmatch=True),
    st.sampled_from(["n", "u", "m", "", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "e0", "e3", "E-4"]),
)
def test_reading_against_decimal_arithmetic(sign, digits, suffix):
    from decimal import ROUND_UP, Decimal, localcontext

    scales = {"n": "1e-9", "u": "1e-6", "m": "1e-3", "": "1", "k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"}
    scales |= {"P": "1e15", "E": "1e18", "Ki": "1024", "Mi": "1048576", "Gi": "1073741824"}
    scales |= {"e0": "1", "e3": "1e3", "E-4": "1e-4"}
    with localcontext() as context:
        context.prec = 80
        expected = (Decimal(digits) * Decimal(scales[suffix])).quantize(Decimal("1e-9"), rounding=ROUND_UP)
        if suffix.endswith("i"):
            expected = min(expected, Decimal(2**63 - 1))
    assert parse(sign + digits + suffix).value == Fraction(expected) * (-1 if sign == "-" else 1)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text):
    try:
        parse(text)
    except ValueError:
        return
