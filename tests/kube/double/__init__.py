"""An in-memory API server for unit tests: what tests of this project need of Kubernetes 1.20, on a loopback port.

What it cannot do, and the real one can:

- Built-in kinds are not typed: unknown fields stay, and of a pod, node, lease, secret, event or webhook configuration
  only what our code may get wrong is checked.
- No conversion: a CRD's storage version is the one that is served; events are those of events.k8s.io/v1 only.
- No discovery, no Tables, no protobuf, no CEL, no validating webhooks, no quotas, no aggregation, no kubectl.
- Field managers know lists with keys by field name for built-in kinds, and no atomic maps.
- Webhooks are not asked about deletions, and a webhook's rules are not matched by equivalent versions.
- Patches are not bounded in size or number of operations; a request has no audit trail but `Double.seen`.
- Only the service account plugin's image pull secrets; no tokens, and no default service accounts.
- No RBAC: an authorizer is a function that the test sets.
"""

from tests.kube.double.server import Double

__all__ = ["Double"]
