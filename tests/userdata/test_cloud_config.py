"""The document: what is written is read back, by us and by any YAML reader, and nothing else is taken."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from peerpods.errors import Refused
from peerpods.userdata import ALLOWED_PATHS, MAX_DOCUMENT, compose, parse

APF = "/run/peerpod/apf.json"
CDH = "/run/peerpod/cdh.toml"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | st.text(" \t\n|'\"#:-ab", max_size=60)


@given(st.dictionaries(st.sampled_from(sorted(ALLOWED_PATHS)), texts))
def test_what_is_composed_is_read_back(files):
    document = compose(files)
    assert parse(document) == {path: text.encode() for path, text in files.items()}
    other = yaml.safe_load(document)["write_files"]
    assert {entry["path"]: entry["content"] for entry in other} == files


def test_first_line_is_the_one_that_cloud_init_looks_for():
    assert compose({APF: "{}\n"}).splitlines()[0] == b"#cloud-config"


def test_bytes_and_text_make_the_same_document():
    assert compose({APF: "{}\n"}) == compose({APF: b"{}\n"})


def test_order_of_files_does_not_matter():
    assert compose({APF: "a", CDH: "b"}) == compose({CDH: "b", APF: "a"})


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/run/peerpod/../peerpod/apf.json", "run/peerpod/apf.json", "", APF + "/"]
)
def test_other_paths_are_refused_both_ways(path):
    with pytest.raises(Refused, match="may not write"):
        compose({path: "x"})
    document = yaml.safe_dump({"write_files": [{"path": path, "content": "x"}]}).encode()
    with pytest.raises(Refused, match="may not write"):
        parse(document)


def test_content_that_is_no_text_is_refused():
    with pytest.raises(Refused, match="not UTF-8"):
        compose({APF: b"\xff"})
    with pytest.raises(Refused, match="no Unicode"):
        compose({APF: "\ud800"})


def test_a_document_of_the_existing_adaptor_is_read():
    document = (
        b"#cloud-config\n\nwrite_files:\n"
        b'- path: /run/peerpod/apf.json\n  content: |\n    {\n      "a": 1\n    }\n'
        b"- path: '/run/peerpod/initdata'\n  content: 'H4sI'\n"
    )
    assert parse(document) == {APF: b'{\n  "a": 1\n}\n', "/run/peerpod/initdata": b"H4sI"}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "not a mapping"),
        (b"[]", "not a mapping"),
        (b"runcmd: [reboot]\n", "one key write_files"),
        (b"write_files: []\nruncmd: []\n", "one key write_files"),
        (b"write_files: {}\n", "not a list"),
        (b"write_files: [a]\n", "not a mapping"),
        (b"write_files: [{path: /run/peerpod/apf.json}]\n", "path and content"),
        (b"write_files: [{path: /run/peerpod/apf.json, content: a, owner: root}]\n", "path and content"),
        (b"write_files: [{path: /run/peerpod/apf.json, content: 1}]\n", "is not text"),
        (b"write_files: [{path: /run/peerpod/apf.json, content: !!binary aGk=}]\n", "is not text"),
        (b"write_files: [{path: /run/peerpod/apf.json, content: [a]}]\n", "is not text"),
        (b"write_files: [{path: /run/peerpod/apf.json, path: /run/peerpod/apf.json, content: a}]\n", "twice"),
        (b"write_files: []\nwrite_files: []\n", "twice"),
        (
            b"write_files: [{path: /run/peerpod/apf.json, content: a}, {path: /run/peerpod/apf.json, content: b}]",
            "twice",
        ),
        (b"write_files: []\n---\nwrite_files: []\n", "not YAML"),
        (b"write_files: [\n", "not YAML"),
        (b"\xff\xfe\xff", "not YAML"),
        (b"write_files: !!python/object/apply:os.system ['true']\n", "not a list|is not"),
        (b"[" * 100_000, "not YAML"),
        (b"a: " * 5 + b"&a [*a]", "not"),
        (b"#" * (MAX_DOCUMENT + 1), "bytes"),
    ],
)
def test_anything_else_is_refused_in_words(document, reason):
    with pytest.raises(Refused, match=reason):
        parse(document)


def test_too_much_is_refused_before_it_is_sent():
    with pytest.raises(Refused, match="are allowed"):
        compose({APF: "x" * MAX_DOCUMENT})


@given(st.binary(max_size=200))
def test_junk_is_refused_or_read_but_never_anything_else(junk):
    try:
        files = parse(junk)
    except Refused:
        return
    assert set(files) <= ALLOWED_PATHS
