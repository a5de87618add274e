# Each compares what Nix evaluates with what Python says, in words (compare.py); and builds what needs no nixpkgs.
{ self, pkgs, lib }:
let
  python = pkgs.python313.withPackages (packages: [ packages.attrs or null ]);
  contract = pkgs.writeText "contract.json" (builtins.toJSON self.lib.contract);
  compare =
    what:
    pkgs.runCommand "peerpods-${what}" { nativeBuildInputs = [ python ]; } ''
      PYTHONPATH=${../src} python3 ${./compare.py} ${what} ${contract} > $out
    '';
in
lib.genAttrs [ "units-match" "cmdline-match" "agent-match" "files-match" "node-match" ] compare
// { rebuild = self.packages.x86_64-linux.tables; }
