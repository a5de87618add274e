"""Provider `libvirt`: QEMU guests through a libvirt daemon, local or remote."""
