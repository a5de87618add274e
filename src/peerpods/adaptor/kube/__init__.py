"""The adaptor's Kubernetes side: pod facts, PeerPod objects, events, the node's limit. Pods run on without it."""
