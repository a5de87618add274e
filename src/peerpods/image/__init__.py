"""The local pod VM image: built from Debian 13 packages and pinned wheels, the same bytes every time."""
