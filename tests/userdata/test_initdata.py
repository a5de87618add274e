"""Initdata: the digest is over the text, whatever the packing, and nothing unmeasured slips in."""

import base64
import gzip
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.errors import Refused
from peerpods.userdata.initdata import MAX_TEXT, decode_initdata, encode_initdata, read_initdata


def toml(algorithm="sha256", version="0.1.0", **data):
    rows = "".join(f"{json.dumps(name)} = {json.dumps(text)}\n" for name, text in data.items())
    return f'algorithm = "{algorithm}"\nversion = "{version}"\n[data]\n{rows}'


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_text_survives_the_packing(text):
    assert decode_initdata(encode_initdata(text)) == text


def test_another_packer_gives_the_same_text():
    text = toml(**{"aa.toml": "x"})
    packed = base64.encodebytes(gzip.compress(text.encode(), compresslevel=1)).decode()
    assert decode_initdata(packed) == text


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_digest_is_over_the_text_with_the_named_algorithm(algorithm):
    text = toml(algorithm, **{"policy.rego": "package agent_policy\n"})
    data = read_initdata(text)
    assert data.digest == hashlib.new(algorithm, text.encode()).hexdigest()
    assert data.files == {"policy.rego": "package agent_policy\n"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("= junk", "not TOML"),
        ("", "algorithm"),
        (toml("md5"), "algorithm"),
        ('algorithm = ["sha256"]\nversion = "0.1.0"\n', "algorithm"),
        (toml(version="9"), "version"),
        (toml(authorized_keys="x"), "authorized_keys"),
        (toml(**{"../aa.toml": "x"}), "aa.toml"),
        ('algorithm = "sha256"\nversion = "0.1.0"\ndata = 1\n', "table"),
        ('algorithm = "sha256"\nversion = "0.1.0"\n[data]\n"aa.toml" = 1\n', "not text"),
        ("a = " + "[" * 5000, "not TOML"),
        ("a = " + "9" * 5000, "not TOML"),
        ("#" * (MAX_TEXT + 1), "more than"),
    ],
)
def test_wrong_initdata_is_refused_in_words(text, reason):
    with pytest.raises(Refused, match=reason) as error:
        read_initdata(text)
    assert "initdata" in str(error.value)


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        ("%%%", "base64"),
        (base64.b64encode(b"not gzip").decode(), "base64 of gzip"),
        (base64.b64encode(gzip.compress(b"a" * (MAX_TEXT + 1))).decode(), "more than"),
        (base64.b64encode(gzip.compress(b"abc")[:-3]).decode(), "whole"),
        (base64.b64encode(gzip.compress(b"abc") + b"tail").decode(), "whole"),
        (base64.b64encode(gzip.compress(b"\xff")).decode(), "UTF-8"),
        ("", "whole|gzip"),
    ],
)
def test_wrong_packing_is_refused_in_words(packed, reason):
    with pytest.raises(Refused, match=reason):
        decode_initdata(packed)
