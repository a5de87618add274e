"""Provider `memory`: instances that are only objects in this process, for tests, contract and simulation."""
