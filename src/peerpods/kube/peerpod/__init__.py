"""peerpod-ctrl: deletes the VMs that gone pods and gone nodes left."""
