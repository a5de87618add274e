"""The adaptor: answers the kata shim as a hypervisor would, decides, writes down, and has VMs made and removed."""
