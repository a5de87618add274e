"""Provider `netns`: instances that are namespaces of this machine. Fast, real networking, NO isolation: not for use."""
