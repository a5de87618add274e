"""The VM's end of a pod's link: ends TLS, checks every call to the agent, builds the pod's network."""
