"""What the cloud's list and the journal disagree about: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from peerpods.adaptor.sandbox import Sandbox
from peerpods.clouds.interface import TAG_SANDBOX, TAG_TOKEN
from peerpods.model import Instance, InstanceState, Phase, SandboxId

_ENDED = frozenset({InstanceState.DELETING, InstanceState.GONE})
_HAS_INSTANCE = frozenset({Phase.BOOTING, Phase.LINKING, Phase.RUNNING})


def is_ours(instance: Instance, tags: Mapping[str, str]) -> bool:
    """Whether an instance carries all of this adaptor's tags and a token that its own sandbox can have made."""
    found = dict(instance.tags)
    if not tags or any(not value or found.get(key) != value for key, value in tags.items()):
        return False
    sandbox, token = found.get(TAG_SANDBOX, ""), instance.token or found.get(TAG_TOKEN, "")
    head, _, attempt = token.rpartition("-")
    return bool(sandbox) and head == sandbox and attempt.isascii() and attempt.isdigit()


def stray_instances(
    listed: Iterable[Instance], known: Mapping[SandboxId, Sandbox], tags: Mapping[str, str]
) -> list[Instance]:
    """Instances of ours that no record explains.

    Args:
        listed: what the cloud shows.
        known: every sandbox that has not ended, as it is after the list was read: a record is written before its
            instance is made, so no instance can be younger than its record.
        tags: cluster and node of this adaptor.

    Returns:
        Those whose sandbox is unknown, or that another attempt of it made. Deletion of a sandbox that is on its way
        out is left to itself; a stranger's instance is never among them.
    """
    strays = []
    for instance in listed:
        if not is_ours(instance, tags) or instance.state in _ENDED:
            continue
        record = known.get(SandboxId(dict(instance.tags)[TAG_SANDBOX]))
        if record is None or record.phase is Phase.GONE:
            strays.append(instance)
        elif record.phase in (Phase.STOPPING, Phase.FAILED):
            continue
        elif (instance.token or dict(instance.tags).get(TAG_TOKEN)) != record.token:
            strays.append(instance)
    return strays


def missing_instances(
    listed: Iterable[Instance], before: Mapping[SandboxId, Sandbox], now: Mapping[SandboxId, Sandbox]
) -> list[tuple[Sandbox, str]]:
    """Sandboxes that had an instance before the list was asked for, and still have, and that the list lacks or calls
    stopped; each with its instance's id."""
    alive = {i.id for i in listed if i.state not in _ENDED and i.state is not InstanceState.STOPPED}
    missing = []
    for sandbox, record in before.items():
        current = now.get(sandbox)
        if current is None or record.instance is None or current.instance is None:
            continue
        same = current.instance.id == record.instance.id and current.phase in _HAS_INSTANCE
        if same and record.phase in _HAS_INSTANCE and record.instance.id not in alive:
            missing.append((current, record.instance.id))
    return missing
