"""The document: YAML with one key `write_files`, a list of {path, content}, and no other path than ALLOWED_PATHS.

What we write has one fixed form; what we read may be any YAML of that shape (the existing system's adaptor writes its
own). Facts: upstream.md 4.1, 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peerpods.errors import Refused

FOLDER = "/run/peerpod"
APF_JSON = f"{FOLDER}/apf.json"
AUTH_JSON = f"{FOLDER}/auth.json"
INITDATA = f"{FOLDER}/initdata"
REGISTRIES_JSON = f"{FOLDER}/registries.json"
ALLOWED_PATHS = frozenset(
    {
        f"{FOLDER}/aa.toml",
        f"{FOLDER}/cdh.toml",
        APF_JSON,
        AUTH_JSON,
        INITDATA,
        f"{FOLDER}/scratch-space.marker",
        REGISTRIES_JSON,
    }
)
MAX_DOCUMENT = 512 * 1024  # bytes; far over what any metadata service carries, far under what could hurt a VM
_STR = "tag:yaml.org,2002:str"


def compose(files: Mapping[str, str | bytes]) -> bytes:
    """The document with these files, in order of path.

    Raises:
        Refused: for a path outside ALLOWED_PATHS, content that is not UTF-8, or a document over MAX_DOCUMENT.
    """
    lines = ["#cloud-config", "write_files:" if files else "write_files: []"]
    for path in sorted(files):
        _check_path(path)
        content = files[path]
        if isinstance(content, bytes):
            try:
                content = content.decode()
            except UnicodeDecodeError:
                raise Refused(f"the content of {path} is not UTF-8 text") from None
        lines += [f"- path: {path}", f"  content: {_scalar(content)}"]
    try:
        document = ("\n".join(lines) + "\n").encode()
    except UnicodeEncodeError:
        raise Refused("a file of the user data has characters that are no Unicode text") from None
    if len(document) > MAX_DOCUMENT:
        raise Refused(
            f"the user data has {len(document)} bytes, {MAX_DOCUMENT} are allowed",
            remedy="make initdata, auth-json or registries-json smaller",
        )
    return document


def parse(document: bytes) -> dict[str, bytes]:
    """The files of a document: path to content. Strict: all of it is as it should be, or nothing is given.

    Raises:
        Refused: when it is too large, not YAML, has any other key, a path outside ALLOWED_PATHS, or one path twice.
    """
    if len(document) > MAX_DOCUMENT:
        raise Refused(f"the user data has {len(document)} bytes, {MAX_DOCUMENT} are allowed")
    top = _mapping(_compose_node(document), "the user data")
    if set(top) != {"write_files"}:
        others = ", ".join(sorted(set(top) - {"write_files"})) or "nothing"
        raise Refused(f"the user data must have the one key write_files, it has {others[:200]}")
    listing = top["write_files"]
    if type(listing).__name__ != "SequenceNode":
        raise Refused("write_files in the user data is not a list")
    files: dict[str, bytes] = {}
    for item in listing.value:
        entry = _mapping(item, "an entry of write_files")
        if set(entry) != {"path", "content"}:
            raise Refused("an entry of write_files must have path and content and nothing else")
        path = _text(entry["path"], "path")
        _check_path(path)
        if path in files:
            raise Refused(f"the user data names {path} twice")
        files[path] = _text(entry["content"], f"the content of {path}").encode()
    return files


def _check_path(path: str) -> None:
    if path not in ALLOWED_PATHS:
        raise Refused(
            f"the user data may not write {path[:200]!r}", remedy="allowed: " + ", ".join(sorted(ALLOWED_PATHS))
        )


def _scalar(text: str) -> str:
    """A YAML scalar: a literal block when the text is plain lines, else double-quoted with escapes."""
    body = text[:-1] if text.endswith("\n") else text
    plain = body and not body.startswith((" ", "\n", "\t")) and not body.endswith("\n")
    if plain and all(" " <= char <= "~" or char in "\n\t" for char in body):
        style = "|" if len(body) < len(text) else "|-"
        return "\n".join([style, *(f"    {line}" if line else "" for line in body.split("\n"))])
    return '"' + "".join(_escape(char) for char in text) + '"'


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if " " <= char <= "~":
        return char
    if char == "\n":
        return "\\n"
    number = ord(char)
    if 0xD800 <= number < 0xE000:
        raise Refused("a file of the user data has characters that are no Unicode text")
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _compose_node(document: bytes) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.compose(document.decode(), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise Refused(f"the user data is not YAML{where}") from None


def _mapping(node: Any, what: str) -> dict[str, Any]:
    if type(node).__name__ != "MappingNode":
        raise Refused(f"{what} is not a mapping")
    found: dict[str, Any] = {}
    for key, value in node.value:
        name = _text(key, f"a key of {what}")
        if name in found:
            raise Refused(f"{what} has the key {name[:40]!r} twice")
        found[name] = value
    return found


def _text(node: Any, what: str) -> str:
    if type(node).__name__ != "ScalarNode" or node.tag != _STR:
        raise Refused(f"{what} in the user data is not text")
    value: str = node.value
    return value
