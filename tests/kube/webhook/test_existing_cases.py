"""The cases of the existing system's own tests, with what they expect; where its rule was a defect, what is right."""

import pytest

from tests.kube.webhook.pods import SLOT, admit, amounts, container, pod, sizes

FOUR = amounts("2", "4Gi")


def check(body, expected):
    after, mutation = admit(body)
    assert sizes(after) == expected
    assert not mutation.denied
    first, *others = after["spec"]["containers"]
    assert first["resources"] == {"requests": {SLOT: "1"}, "limits": {SLOT: "1"}}
    assert all(other["resources"] == {} for other in [*others, *after["spec"].get("initContainers", [])])


CASES = {
    "CpuMemReqLimit": (pod(container("c", FOUR, amounts("3", "5Gi"))), ("3", "5120", None)),
    # One of the two alone: a provider needs both to choose a machine, so the other one is kata's own default.
    "CpuReq": (pod(container("c", amounts("2"))), ("2", "2048", None)),
    "MemReq": (pod(container("c", amounts(memory="4Gi"))), ("1", "4096", None)),
    "GpuReq": (pod(container("c", {"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "1"})), (None, None, "1")),
    "NoReq": (pod(container("c")), (None, None, None)),
    "CpuMemReqLimitSame": (pod(container("c", FOUR, FOUR)), ("2", "4096", None)),
    # The existing system adds the init container (6 and 8192); Kubernetes' rule takes the larger.
    "InitContainers": (
        pod(
            container("c1", FOUR, amounts("3", "5Gi")),
            container("c2", amounts("1", "1Gi"), amounts("1", "1Gi")),
            container("c3", amounts("1", **{"nvidia.com/gpu": "1"}), amounts("1", **{"nvidia.com/gpu": "1"})),
            init=[container("i", amounts("1", "2Gi"), amounts("1", "2Gi"))],
        ),
        ("5", "6144", "1"),
    ),
    "FractionalCpu": (pod(container("c", amounts("200m", "4Gi"), amounts("500m", "4Gi"))), ("1", "4096", None)),
    "FractionalCpuMoreThanOne": (
        pod(container("c", amounts("200m", "4Gi"), amounts("1500m", "4Gi"))),
        ("2", "4096", None),
    ),
    # 2 and 8192 where init containers are added.
    "FractionalCpu_MultipleContainers": (
        pod(
            container("c", amounts("200m", "4Gi"), amounts("0.5", "4Gi")),
            init=[container("i", amounts("200m", "4Gi"), amounts("0.7", "4Gi"))],
        ),
        ("1", "4096", None),
    ),
    "FractionalCpu_TwoContainers": (
        pod(
            container("c", amounts("200m", "4Gi"), amounts("0.5", "4Gi")),
            container("d", amounts("200m", "4Gi"), amounts("0.7", "4Gi")),
        ),
        ("2", "8192", None),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    check(*CASES[name])


@pytest.mark.parametrize("cls", ["kata-qemu", "kata-remote-x", "kata", "", None, 7])
def test_another_runtime_class_is_not_ours(cls):
    body = pod(container("c", FOUR, FOUR), cls=cls)
    after, mutation = admit(body)
    assert after == body
    assert not mutation.ours
    assert not mutation.patch


def test_no_runtime_class():
    body = pod(container("c", FOUR))
    del body["spec"]["runtimeClassName"]
    assert admit(body)[0] == body


def test_sample_pod_of_the_end_to_end_test_takes_one_slot():
    after, _ = admit(pod(container("busybox", amounts("250m", "64Mi"), amounts("500m", "128Mi"))))
    resources = after["spec"]["containers"][0]["resources"]
    assert resources["requests"][SLOT] == resources["limits"][SLOT] == "1"
