"""One module a service, loaded by twistd only when the service is named on its command line."""
