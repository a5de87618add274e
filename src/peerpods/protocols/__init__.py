"""Message and service definitions: our own .proto files and the modules generated from them."""
