"""The development agent: the kata agent's service on crun, for machines that can get no kata-agent release."""
