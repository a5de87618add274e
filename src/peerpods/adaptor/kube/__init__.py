"""The adaptor's Kubernetes side: PeerPods, events on pods, pull secrets, the node's limit, pods that are gone.

Loaded only when the adaptor is to use Kubernetes; the rest of the adaptor knows `ports.ClusterPort`. An API server that
is away stops nothing here: what could not be written is written later from the records.
"""
