"""The line splitter of the watch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.kube.client.lines import LineSplitter, LineTooLong

LINE = st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"x"))


@given(st.lists(LINE, max_size=8), st.lists(st.integers(0, 12), max_size=30))
def test_lines_come_out_whole_however_they_are_cut(lines, cuts):
    stream = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter()
    found = []
    for cut in [*cuts, len(stream)]:
        piece, stream = stream[:cut], stream[cut:]
        found += splitter.feed(piece)
    assert found == [line for line in lines if line.strip()]


def test_a_line_far_above_a_read_comes_in_one_piece():
    splitter = LineSplitter()
    body = b"x" * 100_000
    found = []
    for _ in range(30):
        found += splitter.feed(body)
    found += splitter.feed(b"\ny")
    assert [len(each) for each in found] == [3_000_000]
    assert list(splitter.feed(b"\n")) == [b"y"]


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 6, b"x" * 5], [b"x" * 6, b"x" * 5 + b"\n"]])
def test_a_line_above_the_bound_is_refused(pieces):
    splitter = LineSplitter(limit=10)
    with pytest.raises(LineTooLong):
        for piece in pieces:
            list(splitter.feed(piece))


def test_the_bound_is_for_a_line_not_for_a_stream():
    splitter = LineSplitter(limit=10)
    assert list(splitter.feed(b"1234567890\n" * 5)) == [b"1234567890"] * 5
