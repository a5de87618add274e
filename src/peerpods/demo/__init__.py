"""The demo: a real pod in a real VM, in namespaces of its own."""
