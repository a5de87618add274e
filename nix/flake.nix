# nixpkgs is pinned by revision. The lock that would hold its narHash was NOT made where this was written, and no NixOS
# system was evaluated there: see README.md for what was shown and how.
{
  description = "peerpods: pod VM images and node services from the input set that the Debian images are built from";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/31ced316e564ff61a519b41b1aca3b3135e59359";

  outputs =
    { self, nixpkgs }:
    let
      system = "x86_64-linux";
      inherit (nixpkgs) lib;
      pkgs = nixpkgs.legacyPackages.${system};
      facts = import ./facts.nix { };
      module = file: import file { inherit self; };
      configuration =
        modules:
        nixpkgs.lib.nixosSystem {
          inherit system;
          modules = modules ++ [ { nixpkgs.hostPlatform = system; } ];
        };
      variant = tee: { imports = [ self.nixosModules.podvm ]; peerpods.podvm.tee = tee; };
    in
    {
      lib = {
        inherit (facts) inputs units;
        inherit facts;
        # What tests compare with Python: compare.py reads it as JSON.
        contract = import ./contract.nix { inherit self lib facts configuration; };
      };

      nixosModules = {
        podvm = module ./modules/podvm.nix;
        podvm-snp = variant "snp";
        podvm-tdx = variant "tdx";
        node = module ./modules/node.nix;
        debug = module ./modules/debug.nix;
      };

      nixosConfigurations = lib.mapAttrs' (
        tee: _: lib.nameValuePair "podvm-${tee}" (configuration [ (variant tee) ])
      ) (lib.genAttrs facts.tees (tee: tee));

      packages.${system} =
        {
          default = self.packages.${system}.peerpods;
          peerpods = import ./packages/peerpods.nix { inherit pkgs lib facts; };
          measure = import ./packages/measure.nix { inherit pkgs; inherit (self.packages.${system}) peerpods; };
          kata-agent = import ./packages/kata-agent.nix { inherit pkgs facts; arch = "amd64"; };
          tables = import ./packages/tables.nix { inherit facts system; };
        }
        // lib.genAttrs (map (tee: "podvm-${tee}") facts.tees) (
          name: self.nixosConfigurations.${name}.config.system.build.finalImage
        );

      checks.${system} = import ./checks.nix { inherit self pkgs lib; };
      devShells.${system} = import ./shells.nix { inherit pkgs; };
      formatter.${system} = pkgs.nixfmt-rfc-style;
      overlays.default = final: _: {
        peerpods = import ./packages/peerpods.nix { pkgs = final; inherit (final) lib; inherit facts; };
      };
    };
}
