"""The engine of the system layout: systemd root on erofs and dm-verity, dracut initrd, UKI, partitioned disk."""
