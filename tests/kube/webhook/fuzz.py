"""Pods at random against an oracle that shares no code with what it judges.

    python -m tests.kube.webhook.fuzz [N] [SEED]

The oracle walks through the pod's life (each init container with the sidecars already running, then everything) in
whole billionths. Every pod is admitted, admitted again, given a sidecar and admitted again, and refilled as a
LimitRange would before one more call.
"""

import json
import marshal
import random
import sys
import time
from decimal import ROUND_CEILING, Decimal, localcontext
from functools import lru_cache

from peerpods.kube.webhook.mutate import mutate
from peerpods.kube.webhook.notice import texts
from tests.kube.webhook.applier import apply
from tests.kube.webhook.pods import POLICY, SLOT

KATA = "io.katacontainers.config.hypervisor."
MEMORY_KEY = "peerpods.confidentialcontainers.org/original-resources"
GPUS = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "nvidia.com/mig-1g.5gb")
GONE = ("ephemeral-storage", "hugepages-2Mi", "gpu.intel.com/millicores", "kata.peerpods.io/gpu-vm")
KEPT = ("example.com/widget", "intel.com/sriov", "nvidia.com/hostdev", "pods")
SCALES = {"n": "1e-9", "u": "1e-6", "m": "1e-3", "": "1", "k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"}
SCALES |= {"Ki": "1024", "Mi": "1048576", "Gi": "1073741824", "Ti": "1099511627776"}


def clone(document):
    """A deep copy of JSON, quickly."""
    return marshal.loads(marshal.dumps(document))


@lru_cache(maxsize=100_000)
def billionths(text):
    """A quantity in whole billionths, rounded up; None for what is no quantity or negative."""
    if not isinstance(text, str) or not text or text[0] == "-":
        return None
    digits = text.rstrip("numkMGTi" + "K")
    suffix = text[len(digits) :]
    if "e" in digits:
        digits, exponent = digits.split("e")
        scale = Decimal(10) ** int(exponent)
    elif suffix in SCALES:
        scale = Decimal(SCALES[suffix])
    else:
        return None
    with localcontext() as context:
        context.prec = 60
        try:
            return int((Decimal(digits) * scale * 10**9).to_integral_value(ROUND_CEILING))
        except ArithmeticError:
            return None


def asks(container, name):
    """(request, limit) in billionths of a raw container; 0 where there is none."""
    resources = container.get("resources") or {}
    return tuple(billionths((resources.get(side) or {}).get(name)) or 0 for side in ("requests", "limits"))


def peak(spec, ask):
    """The most that runs at once: `ask(container)` gives a number."""
    running, phases = 0, []
    for container in spec.get("initContainers") or []:
        if container.get("restartPolicy") == "Always":
            running += ask(container)
            phases.append(running)
        else:
            phases.append(running + ask(container))
    phases.append(running + sum(ask(container) for container in spec["containers"]))
    return max(phases)


def gpus_of(container, side):
    total = 0
    for name in GPUS:
        request, limit = asks(container, name)
        if request % 10**9 or limit % 10**9:
            # What is no whole number stays for the server to refuse, on its side alone.
            request, limit = request if not request % 10**9 else 0, limit if not limit % 10**9 else 0
        sides = (container.get("resources") or {}).get("requests") or {}
        present = billionths(sides.get(name)) is not None and billionths(sides.get(name)) % 10**9 == 0
        total += request if present else limit
    return total


def oracle(pod):
    """The three annotations that a pod must end with."""
    spec = pod["spec"]
    level = spec.get("resources") or {}
    sizes = {}
    for name, unit in (("cpu", 10**9), ("memory", 10**9 * 2**20)):
        both = []
        for index, side in enumerate(("requests", "limits")):
            value = peak(spec, lambda c, index=index, name=name: asks(c, name)[index])
            own = billionths((level.get(side) or {}).get(name))
            if own is not None:
                value = max(own, value) if side == "requests" else own
            both.append(value)
        sizes[name] = -(-max(both) // unit)
    gpus = peak(spec, lambda c: gpus_of(c, "requests")) // 10**9
    cpus, mib = sizes["cpu"], sizes["memory"]
    if cpus and not mib:
        mib = 2048
    elif mib and not cpus:
        cpus = 1
    computed = {KATA + "default_vcpus": cpus, KATA + "default_memory": mib, KATA + "default_gpus": gpus}
    wanted = {key: str(value) for key, value in computed.items() if value}
    metadata = pod.get("metadata") or {}
    given = metadata.get("annotations") or {}
    return {key: given.get(key, wanted.get(key)) for key in computed}


class Maker:
    """Makes pods."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def chance(self, share):
        return self.rng.random() < share

    def cpu(self):
        pick = self.rng.choice
        rng = self.rng
        return pick(
            [
                f"{rng.randint(1, 9000)}m",
                str(rng.randint(0, 64)),
                f"{rng.randint(0, 9)}.{rng.randint(0, 999)}",
                f"{rng.randint(1, 10**9)}n",
                f"{rng.randint(1, 10**6)}u",
                f"{rng.randint(1, 9)}e0",
            ]
        )

    def memory(self):
        pick = self.rng.choice
        suffix = pick(["Mi", "Mi", "Gi", "Ki", "M", "G", "k", ""])
        number = self.rng.randint(0, {"": 10**10, "Ki": 10**7, "k": 10**7, "G": 64, "Gi": 64}.get(suffix, 9000))
        return pick([f"{number}{suffix}", f"{number}.5{suffix}", f"{self.rng.randint(1, 9)}e8"])

    def amounts(self):
        found = {}
        if self.chance(0.7):
            found["cpu"] = self.cpu()
        if self.chance(0.7):
            found["memory"] = self.memory()
        if self.chance(0.12):
            found[self.rng.choice(GPUS)] = str(self.rng.randint(0, 4))
        if self.chance(0.1):
            found[self.rng.choice(GONE)] = str(self.rng.randint(0, 9))
        if self.chance(0.1):
            found[self.rng.choice(KEPT)] = str(self.rng.randint(1, 9))
        if self.chance(0.04):
            found[SLOT] = str(self.rng.choice([0, 1, 1, 2]))
        if self.chance(0.02):
            found[self.rng.choice(["cpu", "memory"])] = self.rng.choice(["-1", "x", "", "1Q"])
        if self.chance(0.01):
            found[self.rng.choice(GPUS)] = "500m"
        return found

    def container(self, name, init=False):
        container = {"name": name, "image": "i"}
        if self.chance(0.9):
            resources = container["resources"] = {}
            for side in ("requests", "limits"):
                if self.chance(0.6):
                    resources[side] = self.rng.choice([self.amounts, self.amounts, self.amounts, lambda: None, dict])()
            if self.chance(0.05):
                resources["claims"] = [{"name": "c"}]
            if self.chance(0.05):
                resources["future"] = {"a/b": [1, None]}
        elif self.chance(0.3):
            container["resources"] = None
        if init and self.chance(0.4):
            container["restartPolicy"] = "Always"
        if self.chance(0.1):
            container["unknownField"] = {"~": "/"}
        return container

    def pod(self):
        rng = self.rng
        spec = {"runtimeClassName": rng.choice(["kata-remote"] * 9 + ["other"]), "containers": []}
        spec["containers"] = [self.container(f"c{i}") for i in range(rng.randint(1, 5))]
        if self.chance(0.5):
            spec["initContainers"] = [self.container(f"i{i}", init=True) for i in range(rng.randint(0, 4))]
        if self.chance(0.15):
            spec["resources"] = {side: self.level() for side in ("requests", "limits") if self.chance(0.6)}
        if self.chance(0.2):
            spec["overhead"] = {"cpu": "250m", "memory": "120Mi"}
        if self.chance(0.1):
            spec["volumes"] = [{"name": "v", rng.choice(["hostPath", "emptyDir", "nfs"]): {}}]
        metadata = {"name": "p"}
        if self.chance(0.5):
            metadata["annotations"] = rng.choice([None, {}, {"a/b~c": "x"}, {"k": "v", "é": "ü"}])
            if self.chance(0.2):
                key = KATA + rng.choice(["default_vcpus", "default_memory", "default_gpus", "machine_type"])
                metadata["annotations"] = {**(metadata["annotations"] or {}), key: str(rng.randint(1, 99))}
        pod = {"metadata": metadata, "spec": spec}
        if self.chance(0.02):
            pod["metadata"] = None
        return pod

    def level(self):
        found = {}
        if self.chance(0.7):
            found["cpu"] = self.cpu()
        if self.chance(0.7):
            found["memory"] = self.memory()
        return found


def all_containers(pod):
    return [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]


def rest_of(pod):
    """The pod without what the webhook may change."""
    bare = clone(pod)
    bare["spec"].pop("resources", None)
    for container in all_containers(bare):
        resources = container.pop("resources", None) or {}
        container["kept"] = {key: value for key, value in resources.items() if key not in ("requests", "limits")}
    annotations = (bare.pop("metadata", None) or {}).get("annotations") or {}
    bare["other"] = {key: value for key, value in annotations.items() if not key.startswith((KATA, MEMORY_KEY))}
    return bare


def admit(pod):
    mutation = mutate(pod, POLICY)
    return apply(pod, json.loads(json.dumps(mutation.patch))), mutation


def check_sizes(original, after):
    annotations = (after.get("metadata") or {}).get("annotations") or {}
    for key, value in oracle(original).items():
        assert annotations.get(key) == value, (key, annotations.get(key), value)


def check_resources(original, after, mutation):
    slots = []
    said = " ".join(texts(mutation.notices))
    for before, now in zip(all_containers(original), all_containers(after), strict=True):
        left = now.get("resources") or {}
        for side in ("requests", "limits"):
            had, has = (before.get("resources") or {}).get(side) or {}, left.get(side) or {}
            for name, raw in had.items():
                gone = name not in has
                sound = billionths(raw) is not None
                whole = sound and billionths(raw) % 10**9 == 0
                if name in ("cpu", "memory", "ephemeral-storage", "hugepages-2Mi"):
                    assert gone == sound, (name, raw)
                elif name in GPUS or name in GONE:
                    assert gone == whole, (name, raw)
                elif name != SLOT:
                    assert has[name] == raw
                if name in GONE and gone:
                    assert name in said or "more warnings" in said or "…" in said
            assert set(has) <= set(had) | {SLOT}
        slots += [(side, (left.get(side) or {}).get(SLOT)) for side in ("requests", "limits")]
    assert sorted(slot for slot in slots if slot[1] is not None) == [("limits", "1"), ("requests", "1")]


def check(pod, maker):
    """Everything about one pod."""
    after, mutation = admit(pod)
    if pod["spec"]["runtimeClassName"] == "other":
        assert mutation.patch == []
        return
    check_sizes(pod, after)
    check_resources(pod, after, mutation)
    assert rest_of(after) == rest_of(pod)
    again, second = admit(after)
    assert second.patch == []
    assert again == after
    sidecar = maker.container("sidecar")
    for resources in (sidecar.get("resources") or {}).values():
        if isinstance(resources, dict):
            resources.pop(SLOT, None)
    place = maker.rng.randint(0, len(pod["spec"]["containers"]))
    bigger, injected = clone(pod), clone(after)
    for one in (bigger, injected):
        one["spec"]["containers"].insert(place, clone(sidecar))
    refill(injected, maker)
    result, third = admit(injected)
    check_sizes(bigger, result)
    assert sum(SLOT in ((c.get("resources") or {}).get("limits") or {}) for c in all_containers(result)) == 1
    assert admit(result)[1].patch == []
    assert all(len(item.text.encode()) <= 256 for item in (*mutation.notices, *third.notices))


def refill(pod, maker):
    """What a LimitRange does after a webhook: defaults for containers that once had numbers of their own."""
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    remembered = json.loads(annotations.get(MEMORY_KEY, '{"containers":{}}'))["containers"]
    for container in all_containers(pod):
        for name in ("cpu", "memory"):
            sides = remembered.get(container["name"], {})
            if any(name in section for section in sides.values()) and maker.chance(0.3):
                resources = container["resources"] = dict(container.get("resources") or {})
                resources["requests"] = {
                    **(resources.get("requests") or {}),
                    name: "777m" if name == "cpu" else "777Mi",
                }


def run(count, seed):
    """Seconds taken; raises at the first pod that is wrong, with its number."""
    began = time.monotonic()
    for number in range(count):
        maker = Maker(f"{seed}-{number}")
        pod = maker.pod()
        try:
            check(pod, maker)
        except Exception as error:
            error.add_note(f"pod {number} of seed {seed}: {json.dumps(pod)}")
            raise
    return time.monotonic() - began


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6)
    took = run(count, seed)
    print(f"{count} pods, seed {seed}: all right, {took:.0f} s")


if __name__ == "__main__":
    main()
