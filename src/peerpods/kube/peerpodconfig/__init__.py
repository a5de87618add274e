"""peerpodconfig-ctrl: sets a cluster up from one PeerPodConfig, keeps it so, and undoes it."""
