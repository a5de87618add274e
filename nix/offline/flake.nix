# A contributor's shell without any input: `nix develop ./nix/offline` works with no network and no nixpkgs. It adds
# nothing to PATH, since everything in this repository comes from the host and from `make`; it says what to run.
{
  description = "peerpods: a shell that needs no input";

  outputs =
    { self }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "s390x-linux" ];
      # The builder must be called `bash`. It needs nothing but the /bin/sh that each Nix sandbox has: see bin/bash.
      shell =
        system:
        derivation {
          name = "peerpods-offline-shell";
          inherit system;
          builder = "${./bin}/bash";
          args = [ ];
        };
      each = make: builtins.listToAttrs (map (name: { inherit name; value = make name; }) systems);
    in
    {
      devShells = each (system: { default = shell system; });
      packages = each (system: { default = shell system; });
    };
}
