"""What the existing webhook does wrong, or does not do, done right."""

import copy
import json

import attrs
import pytest

from peerpods.kube.objects.names import ORIGINAL_RESOURCES_ANNOTATION
from peerpods.kube.webhook.keys import GPUS, MEMORY, MIRROR, VCPUS
from tests.kube.webhook.pods import POLICY, SLOT, admit, amounts, container, kinds, memory_of, pod, sizes

VF = "intel.com/sriov_netdevice"


class TestSecondCall:
    def test_an_injected_sidecar_is_added(self):
        after, _ = admit(pod(container("app", amounts("3"), amounts("3"))))
        assert sizes(after)[0] == "3"
        after["spec"]["containers"].append(container("sidecar", amounts("100m"), amounts("100m")))
        again, _ = admit(after)
        assert sizes(again)[0] == "4"
        assert again["spec"]["containers"][1]["resources"] == {}
        assert again["spec"]["containers"][0]["resources"] == after["spec"]["containers"][0]["resources"]

    def test_an_injected_sidecar_in_front_does_not_get_a_second_slot(self):
        after, _ = admit(pod(container("app", amounts("3", "1Gi"))))
        after["spec"]["containers"].insert(0, container("proxy", amounts("100m", "64Mi")))
        again, _ = admit(after)
        assert sizes(again)[:2] == ("4", "1088")
        assert again["spec"]["containers"][0]["resources"] == {}
        assert SLOT in again["spec"]["containers"][1]["resources"]["limits"]

    def test_an_injected_init_container_counts_by_the_rule(self):
        after, _ = admit(pod(container("app", amounts("1", "1Gi"))))
        after["spec"]["initContainers"] = [container("big", amounts("2", "64Mi"))]
        assert sizes(admit(after)[0])[:2] == ("2", "1024")

    def test_nothing_new_changes_nothing(self):
        body = pod(container("a", amounts("1", "1Gi")), container("b"), init=[container("i", amounts("2"))])
        after, _ = admit(body)
        again, mutation = admit(after)
        assert again == after
        assert mutation.patch == []
        assert mutation.ours

    def test_a_removed_container_is_taken_off_the_sum(self):
        after, _ = admit(pod(container("a", amounts("1", "1Gi")), container("b", amounts("2", "2Gi"))))
        del after["spec"]["containers"][1]
        again, _ = admit(after)
        assert sizes(again)[:2] == ("1", "1024")
        assert list(memory_of(again)["containers"]) == ["a"]

    def test_what_a_limit_range_puts_in_later_does_not_replace_the_users_numbers(self):
        after, _ = admit(pod(container("app", amounts("3", "1Gi"))))
        resources = after["spec"]["containers"][0]["resources"]
        for section in resources.values():
            section.update(cpu="500m", memory="512Mi")
        again, mutation = admit(after)
        assert sizes(again)[:2] == ("3", "1024")
        assert again["spec"]["containers"][0]["resources"] == {"requests": {SLOT: "1"}, "limits": {SLOT: "1"}}
        assert "remembered" in kinds(mutation)

    def test_the_default_for_the_missing_one_gives_way_to_a_real_number(self):
        after, _ = admit(pod(container("app", amounts("3"))))
        assert sizes(after)[:2] == ("3", "2048")
        after["spec"]["containers"].append(container("db", amounts(memory="8Gi")))
        assert sizes(admit(after)[0])[:2] == ("3", "8192")

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"containers": []}', "[" * 5000, '"x"', 5, None])
    def test_a_broken_memory_is_written_anew(self, text):
        body = pod(container("app", amounts("3")), annotations={ORIGINAL_RESOURCES_ANNOTATION: text})
        after, mutation = admit(body)
        assert sizes(after)[0] == "3"
        assert memory_of(after)["containers"] == {"app": {"requests": {"cpu": "3"}}}
        assert ("annotation" in kinds(mutation)) == (text is not None)

    @pytest.mark.parametrize(
        "document",
        [
            {"containers": {"app": None}},
            {"containers": {"app": {"requests": []}}},
            {"containers": {"app": {"requests": {"cpu": "nonsense", "memory": {}}}}, "pod": 3, "set": []},
            {"containers": {"app": {"requests": {"cpu": "-4"}}}, "set": {VCPUS: 5}},
        ],
    )
    def test_nonsense_in_the_memory_does_no_harm(self, document):
        body = pod(container("app"), annotations={ORIGINAL_RESOURCES_ANNOTATION: json.dumps(document)})
        assert sizes(admit(body)[0]) == (None, None, None)

    def test_a_copy_of_a_running_pod_gets_the_same_vm(self):
        after, _ = admit(pod(container("app", amounts("3", "6Gi"), amounts("4", "6Gi"))))
        copied = copy.deepcopy(after)
        copied["metadata"]["name"] = "copy"
        assert sizes(admit(copied)[0]) == ("4", "6144", None)


class TestInitContainers:
    def test_the_largest_of_them_or_the_containers(self):
        init = [container("i1", amounts("4", "1Gi")), container("i2", amounts("1", "8Gi"))]
        assert sizes(admit(pod(container("a", amounts("2", "2Gi")), init=init))[0])[:2] == ("4", "8192")

    def test_native_sidecars_add_up(self):
        init = [
            container("early", amounts("4", "1Gi")),
            container("s", amounts("1", "1Gi"), restartPolicy="Always"),
            container("late", amounts("3500m", "1Gi")),
        ]
        # early 4; late 3.5 + s 1 = 4.5; containers 2 + s 1 = 3.
        assert sizes(admit(pod(container("a", amounts("2", "4Gi")), init=init))[0])[:2] == ("5", "5120")

    def test_requests_and_limits_each_by_the_rule(self):
        init = [container("i", amounts("1", "1Gi"), amounts("6", "1Gi"))]
        assert sizes(admit(pod(container("a", amounts("5", "1Gi"), amounts("5", "1Gi")), init=init))[0])[0] == "6"

    def test_gpus_of_init_containers_are_not_added(self):
        one = {"nvidia.com/gpu": "1"}
        body = pod(container("a", one, one), init=[container("i", one, one)])
        assert sizes(admit(body)[0])[2] == "1"


class TestPodLevel:
    def test_it_is_the_sum(self):
        body = pod(
            container("a", amounts("1", "1Gi")),
            container("b"),
            resources={"requests": amounts("2", "3Gi"), "limits": amounts("4", "4Gi"), "new": 1},
        )
        after, _ = admit(body)
        assert sizes(after)[:2] == ("4", "4096")
        assert after["spec"]["resources"] == {"new": 1}
        assert memory_of(after)["pod"]["limits"] == amounts("4", "4Gi")
        assert admit(after)[1].patch == []

    def test_it_goes_when_nothing_is_left_of_it_and_holds_an_injected_sidecar(self):
        after, _ = admit(pod(container("a", amounts("1")), resources={"limits": amounts("4", "4Gi")}))
        assert "resources" not in after["spec"]
        after["spec"]["containers"].append(container("s", amounts("100m", "64Mi"), amounts("2", "64Mi")))
        assert sizes(admit(after)[0])[:2] == ("4", "4096")

    def test_only_what_it_names(self):
        body = pod(container("a", amounts("1", "1Gi")), resources={"requests": amounts("2")})
        assert sizes(admit(body)[0])[:2] == ("2", "1024")

    def test_huge_pages_go_with_a_warning(self):
        body = pod(container("a"), resources={"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}})
        after, mutation = admit(body)
        assert "resources" not in after["spec"]
        assert "hugepages" in kinds(mutation)


def test_overhead_is_not_part_of_the_vm():
    body = pod(container("a", amounts("1", "1Gi")), overhead=amounts("250m", "120Mi"))
    after, _ = admit(body)
    assert sizes(after)[:2] == ("1", "1024")
    assert after["spec"]["overhead"] == amounts("250m", "120Mi")


class TestOtherResources:
    def test_a_device_resource_stays_with_a_warning(self):
        body = pod(container("a", amounts("1", **{VF: "1"}), amounts("1", **{VF: "1"})))
        after, mutation = admit(body)
        assert after["spec"]["containers"][0]["resources"]["limits"] == {VF: "1", SLOT: "1"}
        assert after["spec"]["containers"][0]["resources"]["requests"] == {VF: "1", SLOT: "1"}
        assert kinds(mutation) == ["extended"]

    @pytest.mark.parametrize(
        ("name", "value", "kind"),
        [
            ("hugepages-2Mi", "4Mi", "hugepages"),
            ("hugepages-1Gi", "1Gi", "hugepages"),
            ("ephemeral-storage", "10Gi", "disk"),
            ("gpu.intel.com/millicores", "100", "share"),
            ("kata.peerpods.io/gpu-vm", "1", "other-slot"),
        ],
    )
    def test_what_cannot_work_goes_with_a_warning(self, name, value, kind):
        body = pod(container("a"), container("b", amounts("1", **{name: value}), amounts("1", **{name: value})))
        after, mutation = admit(body)
        assert after["spec"]["containers"][1]["resources"] == {}
        assert kinds(mutation) == [kind]
        assert name in mutation.notices[0].text
        assert memory_of(after)["containers"]["b"]["limits"][name] == value
        assert admit(after)[1].notices == mutation.notices

    def test_claims_stay_on_both_sides(self):
        first = container("a", amounts("1"))
        first["resources"]["claims"] = [{"name": "gpu"}]
        body = pod(first, resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "t"}])
        after, mutation = admit(body)
        assert after["spec"]["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]
        assert after["spec"]["resourceClaims"] == body["spec"]["resourceClaims"]
        assert "claims" in kinds(mutation)

    def test_unknown_fields_stay(self):
        first = container("a", amounts("1"), futureField={"x": [1]})
        first["resources"]["future"] = {"y": 2}
        body = pod(first, futureSpec=True)
        body["metadata"]["futureMeta"] = 1
        after, mutation = admit(body)
        assert after["spec"]["containers"][0]["resources"]["future"] == {"y": 2}
        assert after["spec"]["containers"][0]["futureField"] == {"x": [1]}
        assert after["spec"]["futureSpec"] is True
        assert all(op["path"].startswith(("/spec/containers/0/resources", "/metadata/ann")) for op in mutation.patch)

    def test_ephemeral_containers_are_not_touched(self):
        debug = container("debug", amounts("1"))
        after, _ = admit(pod(container("a"), ephemeralContainers=[debug]))
        assert after["spec"]["ephemeralContainers"] == [debug]

    @pytest.mark.parametrize("raw", ["-1", "x", "", None, {}, "1 "])
    def test_what_the_server_must_refuse_is_left_for_it(self, raw):
        after, _ = admit(pod(container("a", {"cpu": raw, "memory": "1Gi"})))
        assert after["spec"]["containers"][0]["resources"]["requests"] == {"cpu": raw, SLOT: "1"}


class TestGpus:
    @pytest.mark.parametrize(
        ("name", "warned"),
        [
            ("nvidia.com/gpu", []),
            ("nvidia.com/pgpu", []),
            ("amd.com/gpu", []),
            ("gpu.intel.com/i915", []),
            ("gpu.intel.com/xe", []),
            ("nvidia.com/mig-1g.5gb", ["slice"]),
            ("nvidia.com/mig-3g.20gb", ["slice"]),
            ("nvidia.com/gpu.shared", ["slice"]),
        ],
    )
    def test_each_vendor_counts(self, name, warned):
        after, mutation = admit(pod(container("a", {name: "2"}, {name: "2"}), container("b", limits={name: 1})))
        assert sizes(after) == (None, None, "3")
        assert kinds(mutation) == warned * 2
        assert name not in after["spec"]["containers"][0]["resources"]["limits"]

    @pytest.mark.parametrize("name", ["nvidia.com/hostdev", "gpu.intel.com/i915_monitoring", "amd.com/cpx_nps4"])
    def test_what_is_no_gpu_stays_with_a_warning(self, name):
        after, mutation = admit(pod(container("a", {name: "1"}, {name: "1"})))
        assert sizes(after)[2] is None
        assert after["spec"]["containers"][0]["resources"]["limits"] == {name: "1", SLOT: "1"}
        assert kinds(mutation) == ["extended"]

    def test_two_vendors_are_warned_of(self):
        after, mutation = admit(pod(container("a", limits={"nvidia.com/gpu": "1", "amd.com/gpu": "1"})))
        assert sizes(after)[2] == "2"
        assert kinds(mutation) == ["gpu"]

    def test_a_part_of_a_gpu_is_left_for_the_server_to_refuse(self):
        after, _ = admit(pod(container("a", limits={"nvidia.com/gpu": "500m"})))
        assert after["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "500m"


class TestAnnotations:
    def test_a_users_own_number_is_kept_and_the_difference_said(self):
        body = pod(container("a", amounts("4", "8Gi")), annotations={VCPUS: "2", "a/b~c": "x"})
        after, mutation = admit(body)
        assert sizes(after) == ("2", "8192", None)
        assert after["metadata"]["annotations"]["a/b~c"] == "x"
        assert "default_vcpus is 2" in mutation.notices[0].text
        assert "ask for 4" in mutation.notices[0].text
        again, second = admit(after)
        assert (again, second.patch) == (after, [])

    def test_the_same_number_needs_no_word(self):
        _, mutation = admit(pod(container("a", amounts("4")), annotations={VCPUS: "4", MEMORY: "2048"}))
        assert mutation.notices == ()

    def test_kept_where_nothing_is_asked_for(self):
        after, mutation = admit(pod(container("a"), annotations={VCPUS: "2", GPUS: "1"}))
        assert sizes(after) == ("2", None, "1")
        assert mutation.notices == ()

    def test_a_user_who_changes_ours_between_the_calls_is_heard(self):
        after, _ = admit(pod(container("a", amounts("4"))))
        after["metadata"]["annotations"][VCPUS] = "16"
        after["spec"]["containers"].append(container("s", amounts("1")))
        assert sizes(admit(after)[0])[0] == "16"

    @pytest.mark.parametrize("metadata", [{}, {"annotations": None}, {"annotations": {}}, None])
    def test_wherever_the_map_begins(self, metadata):
        body = pod(container("a", amounts("4")))
        body["metadata"] = metadata
        assert sizes(admit(body)[0])[0] == "4"
        if metadata is None:
            del body["metadata"]
            assert sizes(admit(body)[0])[0] == "4"


class TestSlot:
    @pytest.mark.parametrize("asked", ["2", "0", "1k"])
    def test_another_number_becomes_one(self, asked):
        after, mutation = admit(pod(container("a"), container("b", {SLOT: asked}, {SLOT: asked})))
        assert after["spec"]["containers"][1]["resources"] == {"requests": {SLOT: "1"}, "limits": {SLOT: "1"}}
        assert after["spec"]["containers"][0]["resources"] == {}
        assert kinds(mutation) == ["slot"]

    def test_a_limit_or_a_request_alone_gets_the_other(self):
        for side in ("requests", "limits"):
            after, mutation = admit(pod(container("a", **{side: {SLOT: "1"}})))
            assert after["spec"]["containers"][0]["resources"] == {"requests": {SLOT: "1"}, "limits": {SLOT: "1"}}
            assert mutation.notices == ()

    def test_on_two_containers_one_stays(self):
        one = {SLOT: "1"}
        after, mutation = admit(pod(container("a", one, one), container("b", one, one), init=[container("i", one)]))
        assert [item["resources"] for item in after["spec"]["containers"]] == [{"requests": one, "limits": one}, {}]
        assert after["spec"]["initContainers"][0]["resources"] == {}
        assert kinds(mutation) == ["slot", "slot"]

    def test_each_class_has_its_own(self):
        after, _ = admit(pod(container("a"), cls="kata-remote-gpu"))
        assert after["spec"]["containers"][0]["resources"]["limits"] == {"kata.peerpods.io/gpu-vm": "1"}


def test_limit_alone_and_request_above_the_limit():
    assert sizes(admit(pod(container("a", limits=amounts("2", "1Gi"))))[0])[:2] == ("2", "1024")
    assert sizes(admit(pod(container("a", amounts("3", "1Gi"), amounts("2", "1Gi"))))[0])[0] == "3"


def test_no_default_for_the_missing_one_when_the_operator_wants_none():
    policy = attrs.evolve(POLICY, default_vcpus=0, default_memory_mib=0)
    assert sizes(admit(pod(container("a", amounts("2"))), policy)[0]) == ("2", None, None)
    assert sizes(admit(pod(container("a", amounts(memory="2Gi"))), policy)[0]) == (None, "2048", None)


@pytest.mark.parametrize("containers", [[], None, {}, "x", [None], ["x"]])
def test_no_containers_is_the_servers_to_refuse(containers):
    body = pod()
    body["spec"]["containers"] = containers
    _, mutation = admit(body)
    assert mutation.patch == []
    assert kinds(mutation) == ["no-containers"]


def test_a_container_without_resources_or_with_null():
    body = pod({"name": "a"}, {"name": "b", "resources": None}, {"image": "x"})
    after, mutation = admit(body)
    assert after["spec"]["containers"][0]["resources"]["limits"] == {SLOT: "1"}
    assert after["spec"]["containers"][1:] == body["spec"]["containers"][1:]
    assert len(mutation.patch) == 1


def test_static_pods_are_left_alone():
    body = pod(container("a", amounts("4")), annotations={MIRROR: "x"})
    after, mutation = admit(body)
    assert after == body
    assert kinds(mutation) == ["static-pod"]
