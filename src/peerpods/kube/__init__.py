"""The Kubernetes side: a client on the reactor, the webhook, and two controllers."""
