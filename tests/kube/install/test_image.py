"""The image's recipe, as far as it can be looked at without a container builder."""

from __future__ import annotations

import re

from tests.kube.install.rendered import K8S, TOP

FILE = K8S / "image/Containerfile"


def _steps() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def test_what_is_copied_exists_and_is_let_through_by_the_ignore_file() -> None:
    let_through = {
        line.removeprefix("!")
        for line in (FILE.parent / "Containerfile.containerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = [rest.split()[:-1] for word, rest in _steps() if word == "COPY" and not rest.startswith("--from")]
    assert len(copied) == 3
    for source in (one for step in copied for one in step):
        assert (TOP / source).exists(), source
        assert source.split("/")[0] in let_through, source


def test_packages_are_pinned_and_the_result_runs_as_nobody_special() -> None:
    steps = _steps()
    for _, rest in steps:
        for install in re.findall(r"pip install[^&]*", rest):
            assert "--require-hashes" in install or "--no-index" in install, install
    assert [rest for word, rest in steps if word == "USER"] == ["65532:65532"]
    assert [rest.split()[0] for word, rest in steps if word == "FROM"] == ["${BASE}", "${BASE}"]
    assert ":latest" not in FILE.read_text()
    requirements = (TOP / "requirements/run.txt").read_text()
    for block in re.split(r"\n(?=\S)", requirements):
        assert block.startswith("#") or "--hash=sha256:" in block, block[:80]
