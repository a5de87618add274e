"""The decisions as a table: what is known, and what is done."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.kube.objects.conditions import condition
from peerpods.kube.objects.peerpod import DELETED, PeerPodView
from peerpods.kube.peerpod.decide import decide, last_resort, superseded_by
from peerpods.kube.peerpod.deletion import LOOK_DELAYS, Progress
from peerpods.kube.peerpod.facts import (
    Ask,
    Decision,
    DeleteInstance,
    DeleteObject,
    Ending,
    Facts,
    Known,
    Limits,
    NodeFact,
    PodFact,
    ProviderFact,
    Question,
    Release,
    Tell,
    WriteStatus,
)
from tests.kube.peerpod.making import (
    CLUSTER,
    GONE_NODE,
    GONE_POD,
    NO_NODE,
    NOW,
    SANDBOX,
    UNREADY_NODE,
    facts,
    failing,
    pod,
    view,
)

LIMITS = Limits()
OTHER = "1" * 64


def said(decision: Decision) -> list[str]:
    """The kinds of actions, in order, with what tells them apart."""
    words = []
    for action in decision.actions:
        match action:
            case Ask(question):
                words.append(f"ask {question.value}")
            case Tell(warning=warning, reason=reason):
                words.append(f"{'warn' if warning else 'tell'} {reason}")
            case WriteStatus(reason=reason):
                words.append(f"status {reason}")
            case Release(left):
                words.append("release with words" if left else "release")
            case DeleteObject():
                words.append("delete object")
            case DeleteInstance():
                words.append("delete instance")
    return words


def orphan(**changes: Any) -> PeerPodView:
    return attrs.evolve(view(**changes), owners=())


@pytest.mark.parametrize(
    ("name", "seen", "known", "does", "again"),
    [
        ("a healthy pod", view(), facts(), [], 600),
        ("a healthy pod, asked long ago", view(), facts(pod_asked_at=NOW - 600), ["ask pod"], None),
        ("the pod is there", view(), facts(pod=pod()), [], 600),
        ("no owner, young", orphan(age=10), facts(), [], 20),
        ("no owner, old enough to be asked about", orphan(), facts(), ["ask pod"], None),
        ("no owner, pod there", orphan(), facts(pod=pod()), [], 600),
        ("no owner, pod just gone", orphan(), facts(pod=PodFact(state=Known.ABSENT, absent_since=NOW)), [], 30),
        ("no owner, pod gone (Orphan)", orphan(), facts(pod=GONE_POD), ["delete object"], None),
        ("owner gone and GC idle", view(), facts(pod=GONE_POD), ["delete object"], None),
        ("nobody says which pod", orphan(), facts(pod=PodFact(state=Known.UNNAMED)), [], 600),
        ("node gone, pod not asked", view(), facts(node=GONE_NODE), ["ask pod"], None),
        (
            "node gone just now",
            view(),
            facts(node=NodeFact(state=Known.ABSENT, absent_since=NOW), pod=pod()),
            [],
            60,
        ),
        ("node gone, to be confirmed", view(), facts(node=GONE_NODE, pod=pod()), ["ask node"], None),
        ("node gone", view(), facts(node=GONE_NODE, pod=pod(), node_confirmed=True), ["delete object"], None),
        ("node not gone after all", view(), facts(node=GONE_NODE, pod=pod(), node_confirmed=False), [], 600),
        ("node not ready", view(), facts(node=UNREADY_NODE), [], 600),
        ("unknown provider, not our turn", view(provider="gcp"), facts(provider=ProviderFact(unknown="no")), [], 600),
        ("uninstalling", view(), facts(ending=Ending.INSTALLATION), ["delete object"], None),
        ("only the controller goes", view(), facts(ending=Ending.CONTROLLER), [], 600),
    ],
)
def test_live_objects(name: str, seen: PeerPodView, known: Facts, does: list[str], again: float | None) -> None:
    decision = decide(seen, known, NOW, LIMITS, cluster=CLUSTER)
    assert (said(decision), decision.again) == (does, again), name


ERROR = Progress(error="quota", tries=3, not_before=NOW + 4, began=NOW - 9)
TOLD = failing(9, message="quota")
LATE = failing(241, message="quota")
DONE = condition(DELETED, True, "Gone", "gone", NOW, generation=1)


@pytest.mark.parametrize(
    ("name", "seen", "known", "does", "again"),
    [
        ("not ours", view(deleting=100, finalizers=["other"]), facts(), [], None),
        ("not asked yet", view(deleting=1), facts(), ["ask pod"], None),
        ("adaptor alive, in its grace", view(deleting=1), facts(pod=GONE_POD), [], 29),
        ("uninstalling: a short grace", view(deleting=1), facts(pod=GONE_POD, ending=Ending.INSTALLATION), [], 9),
        (
            "uninstalling: no time for the pod",
            view(deleting=10),
            facts(pod=pod(ends_at=NOW + 70), ending=Ending.INSTALLATION),
            None,
            None,
        ),
        ("grace over", view(deleting=30), facts(pod=GONE_POD), ["status Deleting", "delete instance"], None),
        (
            "node not ready",
            view(deleting=0),
            facts(pod=GONE_POD, node=UNREADY_NODE),
            None,
            None,
        ),
        ("foreground: kubelet still ends it", view(deleting=50), facts(pod=pod(ends_at=NOW + 20)), [], 50),
        ("foreground, a long grace", view(deleting=50), facts(pod=pod(ends_at=NOW + 700)), [], 60),
        ("the server's clock is ahead", view(deleting=-900), facts(pod=pod(), deleting_seen_at=NOW - 9), [], 21),
        ("foreground, node dead", view(deleting=1), facts(pod=pod(ends_at=NOW + 70), node=GONE_NODE), None, None),
        ("by hand, pod runs on", view(deleting=10), facts(pod=pod()), [], 20),
        ("node unknown (existing system)", view(deleting=0), facts(pod=GONE_POD, node=NO_NODE), None, None),
        ("under way", view(deleting=40), facts(progress=Progress(running=True, began=NOW - 3)), [], None),
        (
            "next look awaited",
            view(deleting=40, conditions=failing(5, reason="Deleting", message="x"), instance_id=""),
            facts(progress=Progress(looks=1, not_before=NOW + 2, began=NOW - 3)),
            ["status Deleting"],
            2,
        ),
        (
            "gone",
            view(deleting=40),
            facts(progress=Progress(gone=True, looks=1, began=NOW - 3)),
            ["status Gone", "tell VMDeleted", "release"],
            None,
        ),
        (
            "gone, but the id was a stranger's",
            view(deleting=40),
            facts(progress=Progress(gone=True, looks=1, began=NOW - 3, foreign="i-9")),
            ["status Gone", "warn VMMayBeLeft", "release"],
            None,
        ),
        ("cut off before the release", view(deleting=40, conditions=[DONE]), facts(), ["release"], None),
        (
            "done for an older spec",
            view(deleting=40, conditions=[DONE], generation=2),
            facts(pod=GONE_POD),
            ["status Deleting", "delete instance"],
            None,
        ),
        (
            "failed",
            view(deleting=40),
            facts(progress=ERROR),
            ["status CloudError", "warn VMDeletionFailed"],
            4,
        ),
        ("failed, said already", view(deleting=40, conditions=TOLD), facts(progress=ERROR), [], 4),
        (
            "failed, time for the next try",
            view(deleting=40, conditions=TOLD),
            facts(progress=attrs.evolve(ERROR, not_before=NOW)),
            ["delete instance"],
            None,
        ),
        (
            "rights missing",
            view(deleting=40),
            facts(progress=attrs.evolve(ERROR, unusable=True)),
            ["status ProviderUnusable", "warn VMDeletionFailed"],
            4,
        ),
        (
            "failing for long: what waits?",
            view(deleting=300, conditions=LATE),
            facts(progress=ERROR),
            ["ask terminating"],
            None,
        ),
        (
            "failing for long, nothing waits",
            view(deleting=300, conditions=LATE),
            facts(progress=ERROR, terminating=False),
            [],
            4,
        ),
        (
            "failing for long in a dying namespace",
            view(deleting=300, conditions=LATE),
            facts(progress=ERROR, terminating=True),
            ["warn VMMayBeLeft", "release with words"],
            None,
        ),
        (
            "hanging in the second try in a dying namespace",
            view(deleting=300, conditions=LATE),
            facts(progress=attrs.evolve(ERROR, running=True), terminating=True),
            ["warn VMMayBeLeft", "release with words"],
            None,
        ),
        (
            "failing for long while uninstalling",
            view(deleting=300, conditions=LATE),
            facts(progress=ERROR, ending=Ending.INSTALLATION),
            ["warn VMMayBeLeft", "release with words"],
            None,
        ),
        (
            "woken at the bound, not at the end of a long back-off",
            view(deleting=200, conditions=failing(200, message="quota")),
            facts(progress=attrs.evolve(ERROR, not_before=NOW + 128)),
            [],
            40,
        ),
        (
            "an adaptor had failed for long before the deletion",
            view(deleting=40, conditions=LATE),
            facts(progress=ERROR, terminating=True),
            [],
            4,
        ),
        (
            "restarted: no failure of its own yet",
            view(deleting=300, conditions=LATE),
            facts(pod=GONE_POD),
            ["status Deleting", "delete instance"],
            None,
        ),
        (
            "unknown provider",
            view(deleting=40, provider="gcp"),
            facts(pod=GONE_POD, provider=ProviderFact(unknown="no provider gcp")),
            ["status UnknownProvider", "warn UnknownProvider"],
            240,
        ),
        (
            "unknown provider, said",
            view(deleting=40, conditions=failing(10, reason="UnknownProvider", message="no provider gcp")),
            facts(pod=GONE_POD, provider=ProviderFact(unknown="no provider gcp")),
            [],
            230,
        ),
        (
            "unknown provider for long",
            view(deleting=400, conditions=failing(300, reason="UnknownProvider", message="no provider gcp")),
            facts(pod=GONE_POD, provider=ProviderFact(unknown="no provider gcp"), terminating=False),
            [],
            300,
        ),
        (
            "unknown provider in a dying namespace",
            view(deleting=400, conditions=failing(300, reason="UnknownProvider", message="no provider gcp")),
            facts(pod=GONE_POD, provider=ProviderFact(unknown="no provider gcp"), terminating=True),
            ["warn VMMayBeLeft", "release with words"],
            None,
        ),
    ],
)
def test_dying_objects(name: str, seen: PeerPodView, known: Facts, does: list[str] | None, again: float | None) -> None:
    decision = decide(seen, known, NOW, LIMITS, cluster=CLUSTER)
    expected = does if does is not None else ["status Deleting", "delete instance"]
    assert (said(decision), decision.again) == (expected, again), name


def sibling(**changes: Any) -> PeerPodView:
    return view(**{"sandbox": OTHER, "uid": "pp-2", "age": 10, "phase": "Running", **changes})


@pytest.mark.parametrize(
    ("name", "mine", "other", "left_over"),
    [
        ("a newer one runs", view(), sibling(), True),
        ("a newer one starts", view(), sibling(phase="Booting"), False),
        ("a newer one goes", view(), sibling(deleting=1), False),
        ("an older one", view(age=5), sibling(), False),
        ("the same sandbox", view(), sibling(sandbox=SANDBOX), False),
        ("same second, name decides", view(name="a"), sibling(age=100, name="b"), True),
        ("same second, mine is the later name", view(name="c"), sibling(age=100, name="b"), False),
        (
            "same second, both ran: the later start is the newer",
            view(name="b", phase="Running", started=NOW - 5),
            sibling(age=100, name="a", started=NOW - 1),
            True,
        ),
        ("existing system's", view(sandbox="", name="a"), sibling(sandbox="", name="b", phase=""), True),
        (
            "existing system's, the newer without a VM",
            view(sandbox="", name="a"),
            sibling(sandbox="", name="b", phase="", instance_id=""),
            False,
        ),
        ("ours has a VM and no phase yet", view(), sibling(phase=""), False),
        ("existing system's, ours newer and running", view(sandbox="", name="z"), sibling(), True),
    ],
)
def test_older_peer_pods_of_a_pod(name: str, mine: PeerPodView, other: PeerPodView, left_over: bool) -> None:
    assert (superseded_by(mine, (other,)) is not None) is left_over, name
    known = facts(siblings=(other,))
    assert (said(decide(mine, known, NOW, LIMITS)) == ["delete object"]) is left_over, name


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["Running", "Booting", ""]), st.integers(0, 2)), max_size=5)
)
def test_of_the_peer_pods_of_a_pod_one_always_stays(drawn: list[tuple[int, str, int]]) -> None:
    views = [
        view(name=f"p{n}", uid=f"u{n}", sandbox=str(n) * 64, age=100 + age, phase=phase, started=NOW + start)
        for n, (age, phase, start) in enumerate(drawn)
    ]
    left = [one for one in views if superseded_by(one, tuple(o for o in views if o is not one)) is not None]
    assert len(left) < len(views) or not views


@pytest.mark.parametrize(
    ("name", "seen", "known", "released"),
    [
        ("alive", view(), facts(ending=Ending.INSTALLATION), False),
        ("failing, uninstalling", view(deleting=50), facts(ending=Ending.INSTALLATION, progress=ERROR), True),
        (
            "failing, only the controller goes",
            view(deleting=50),
            facts(ending=Ending.CONTROLLER, progress=ERROR),
            False,
        ),
        (
            "rights missing, only the controller goes",
            view(deleting=50),
            facts(ending=Ending.CONTROLLER, progress=attrs.evolve(ERROR, unusable=True)),
            True,
        ),
        (
            "no such provider, only the controller goes",
            view(deleting=50),
            facts(ending=Ending.CONTROLLER, provider=ProviderFact(unknown="no")),
            True,
        ),
        ("let go already", view(deleting=50, finalizers=[]), facts(ending=Ending.INSTALLATION), False),
    ],
)
def test_the_last_resort(name: str, seen: PeerPodView, known: Facts, released: bool) -> None:
    decision = last_resort(seen, known, CLUSTER)
    assert said(decision) == (["warn VMMayBeLeft", "release with words"] if released else []), name
    if released:
        (left,) = [one.left for one in decision.actions if isinstance(one, Release)]
        assert "i-1" in left and SANDBOX in left and "by hand" in left
        assert f"answer was: {known.progress.error or known.provider.unknown}." in left


def test_looks_for_a_vm_whose_id_nobody_wrote_down() -> None:
    progress, waits = Progress(), []
    while not progress.gone:
        progress = progress.start(NOW).succeed(NOW, uncertain=True)
        waits.append(progress.not_before - NOW)
    assert waits == [*LOOK_DELAYS, 0] and progress.looks == 3
    assert Progress().start(NOW).succeed(NOW, uncertain=False).gone


def test_back_off_is_bounded_and_a_success_forgets_it() -> None:
    progress = Progress()
    waits = []
    for _ in range(12):
        progress = progress.start(NOW).fail(NOW, "no", unusable=False, hurried=False)
        waits.append(progress.not_before - NOW)
    assert waits[:4] == [1, 2, 4, 8] and waits[-1] == 300
    assert progress.fail(NOW, "no", unusable=True, hurried=True).not_before == NOW + 10
    assert progress.succeed(NOW, uncertain=True).tries == 0


def test_every_decision_ends_its_questions() -> None:
    """Each question, once answered, is not asked again."""
    for question in Question:
        for seen in (view(), view(deleting=300, conditions=LATE)):
            for progress in (Progress(), ERROR):
                known = facts(pod=pod(), node_confirmed=True, terminating=True, progress=progress, node=GONE_NODE)
                assert Ask(question) not in decide(seen, known, NOW, LIMITS).actions
