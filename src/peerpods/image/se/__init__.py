"""Secure Execution images: host key documents checked, then kernel, initrd and command line packed for those hosts."""
