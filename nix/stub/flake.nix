# In nixpkgs' place where there is no network: `--override-input nixpkgs path:…/nix/stub`. Our modules are evaluated
# over the option paths that they use (options.nix), with a small evalModules (modules.nix); packages are empty.
{
  description = "peerpods: a stand-in for nixpkgs, for evaluation without network";

  outputs =
    { self }:
    let
      lib = import ./lib.nix;
      pkgs = import ./pkgs.nix { inherit lib; };
    in
    {
      legacyPackages.x86_64-linux = pkgs;
      lib = lib // {
        nixosSystem =
          { modules, ... }:
          lib.evalModules {
            modules = [ ./options.nix ] ++ modules;
            specialArgs = {
              inherit pkgs;
              modulesPath = ./modules;
            };
          };
      };
    };
}
