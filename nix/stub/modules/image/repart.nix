# What nixpkgs has here is, for the stub, part of ../../options.nix.
{ }
