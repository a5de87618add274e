"""The relay: each pod's agent socket, the link to its VM, and the frames between them."""
