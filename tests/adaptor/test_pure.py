"""The small pure parts: requests, console text, stray instances, shims that left, relay reports."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.adaptor import console, requests
from peerpods.adaptor.admin import fresh_part
from peerpods.adaptor.ports import LinkFacts
from peerpods.adaptor.shims import GRACE, ShimTracker, is_gone
from peerpods.adaptor.sweep import missing_instances, stray_instances
from peerpods.clouds.interface import TAG_CLUSTER, TAG_NODE, TAG_SANDBOX, TAG_TOKEN
from peerpods.errors import Refused
from peerpods.model import Instance, InstanceState, Phase, SandboxId
from tests.adaptor.test_lifecycle import at

OURS = {TAG_CLUSTER: "lab", TAG_NODE: "node-1"}
words = st.sampled_from(["lab", "node-1", "s1", "s2", "s1-1", "s1-2", "x", ""])
inventories = st.lists(
    st.builds(
        lambda n, tags, token, state: Instance(
            id=f"i-{n}", name="x", tags=tuple(tags.items()), token=token, state=state
        ),
        st.integers(0, 99),
        st.dictionaries(st.sampled_from([TAG_CLUSTER, TAG_NODE, TAG_SANDBOX, TAG_TOKEN, "other"]), words),
        words,
        st.sampled_from(list(InstanceState)),
    ),
    max_size=8,
)


@given(inventories, st.sampled_from(list(Phase)))
def test_a_sweep_never_names_a_strangers_or_a_known_instance(listed, phase):
    record = attrs.evolve(at(phase), id=SandboxId("s1"), attempt=1)
    for stray in stray_instances(listed, {record.id: record}, OURS):
        tags = dict(stray.tags)
        assert OURS.items() <= tags.items()
        token = stray.token or tags[TAG_TOKEN]
        assert token.startswith(tags[TAG_SANDBOX] + "-")
        if tags[TAG_SANDBOX] == "s1":
            assert phase is Phase.GONE or token != "s1-1"
            assert phase not in (Phase.STOPPING, Phase.FAILED)


def test_a_sweep_without_tags_of_its_own_names_nothing():
    orphan = Instance(id="i", name="x", token="s9-1", tags=((TAG_SANDBOX, "s9"),))
    assert stray_instances([orphan], {}, {}) == []
    assert stray_instances([orphan], {}, {TAG_NODE: ""}) == []


def test_missing_means_known_before_and_after_the_list():
    record = at(Phase.RUNNING)
    known = {record.id: record}
    assert [r.id for r, _ in missing_instances([], known, known)] == [record.id]
    assert missing_instances([attrs.evolve(record.instance)], known, known) == []
    assert missing_instances([], {}, known) == []
    assert missing_instances([], known, {record.id: at(Phase.STOPPING)}) == []
    stopped = attrs.evolve(record.instance, state=InstanceState.STOPPED)
    assert len(missing_instances([stopped], known, known)) == 1


def test_console_text_is_safe_and_short():
    raw = b"\x1b[2J\x1b[1;31mred\x1b[0m\r\n\x00bell\x07\n\n\x1b]0;title\x07after\n" + b"y" * 5000 + b"\n\xff\xfe\n"
    lines = console.tail(raw)
    assert lines[:3] == ("red", "bell", "after")
    assert len(lines[3]) == console.LINE_MAX
    assert console.tail(b"") == ()
    assert console.tail(b"".join(b"%d\n" % n for n in range(100)))[0] == "80"


@given(st.binary(max_size=400))
def test_console_text_never_holds_controls(raw):
    for line in console.tail(raw):
        assert all(ord(c) >= 0x20 and not 0x7F <= ord(c) <= 0x9F for c in line)


@given(st.binary(max_size=300), st.integers(1, 100), st.integers(0, 300))
def test_a_followed_console_shows_what_was_appended(text, window, more):
    text = bytes(range(256)) + text
    older, newer = text[:more][-window:], text[-window:]
    fresh = fresh_part(older, newer)
    assert newer.endswith(fresh)


def test_a_shim_is_gone_by_the_relays_count_only():
    sandbox = SandboxId("s")
    gone = LinkFacts(sandbox=sandbox, up=True, was_active=True, idle=GRACE)
    assert is_gone(gone)
    assert not is_gone(attrs.evolve(gone, active_connections=1))
    assert not is_gone(attrs.evolve(gone, was_active=False))
    assert not is_gone(attrs.evolve(gone, idle=0.5))
    tracker = ShimTracker()
    tracker.baseline(attrs.evolve(gone, idle=0.5), 10.0)
    assert tracker.next_due() == 11.5
    tracker.forget(sandbox)
    tracker.gone(sandbox, active=True, by_relay=False, now=20.0)
    assert tracker.expired(21.9) == []
    assert tracker.expired(22.0) == [sandbox]
    assert tracker.next_due() is None


def test_digests_separate_what_looks_alike():
    one = requests.digest_of("s", {"a": "bc"}, "/n")
    assert one == requests.digest_of("s", {"a": "bc"}, "/n")
    assert one != requests.digest_of("s", {"ab": "c"}, "/n")
    assert one != requests.digest_of("s", {"a": "bc", "d": ""}, "/n")


@pytest.mark.parametrize(
    ("remaining", "expected"), [(None, 200.0), (599.99, 200.0), (100.0, 90.0), (12.0, 6.0), (10_000.0, 200.0)]
)
def test_the_budget_of_a_start(remaining, expected):
    assert requests.start_budget(remaining, 200.0) == expected


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("web", "web"),
        ("k8s_web_ns_uid_0", "web"),
        ("k8s_", "k8s_"),
        ("my_pod", "my_pod"),
        ("k8s__ns_u_0", "k8s__ns_u_0"),
    ],
)
def test_pod_names(sent, name):
    assert requests.pod_name(sent) == name


def test_a_socket_path_that_is_too_long_or_undialable_is_refused():
    annotations = {requests.NAME: "p", requests.NAMESPACE: "n"}
    with pytest.raises(Refused, match="bytes"):
        requests.parse_create("a" * 64, annotations, "/run/netns/x", "/run/" + "long/" * 12)
    with pytest.raises(Refused, match="':'"):
        requests.parse_create("a" * 64, annotations, "/run/netns/x", "/run/a:b")
