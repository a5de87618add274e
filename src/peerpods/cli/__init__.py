"""The command line and the wiring of services: option parsing, nothing else."""
