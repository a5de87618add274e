"""The admission webhook: sizes a peer pod's VM from its containers, and warns of what cannot work."""
