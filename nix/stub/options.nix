# The paths of NixOS options that our modules define or read. A path that is not here is an error, so that a misspelt
# one is found without nixpkgs. What lies below is free.
{ config, lib, ... }:
let
  inherit (lib) types;
  of = type: lib.mkOption { inherit type; };
  list = lib.mkOption { type = types.listOf types.anything; default = [ ]; };
  set = lib.mkOption { type = types.attrsOf types.anything; default = { }; };
  flag = of types.bool;
  text = of types.str;
in
{
  options = {
    boot = {
      kernelParams = list;
      kernelPackages = of types.anything;
      kernelModules = list;
      blacklistedKernelModules = list;
      kernel.sysctl = set;
      initrd.systemd.enable = flag;
      initrd.availableKernelModules = list;
      loader.grub.enable = flag;
      uki.name = text;
    };
    systemd = { services = set; targets = set; defaultUnit = text; enableEmergencyMode = flag; };
    users = { users = set; groups = set; mutableUsers = flag; allowNoPasswordLogin = flag; };
    networking = { hostName = text; useNetworkd = flag; useDHCP = flag; firewall.enable = flag; };
    environment = { etc = set; systemPackages = list; };
    security.sudo.enable = flag;
    services = { openssh.enable = flag; getty.autologinUser = text; };
    nix.enable = flag;
    nixpkgs.hostPlatform = text;
    documentation.enable = flag;
    fileSystems = set;
    image.repart = {
      name = text;
      seed = text;
      partitions = set;
      verityStore = {
        enable = flag;
        ukiPath = text;
        partitionIds = {
          esp = lib.mkOption { type = types.str; default = "00-esp"; };
          store-verity = lib.mkOption { type = types.str; default = "10-store-verity"; };
          store = lib.mkOption { type = types.str; default = "20-store"; };
        };
      };
    };
    system = {
      image.id = text;
      image.version = text;
      stateVersion = text;
      nixos = { variant_id = text; extraOSReleaseArgs = set; };
      activationScripts = set;
      build = set;
    };
  };
  # Names all that an image is made of, so that each is evaluated when the image is.
  config.system.build =
    let
      image = name: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ "-c" "printf %s \"$parts\" > $out" ];
        parts = builtins.toJSON { inherit (config) image boot systemd users networking environment; };
      };
    in
    {
      toplevel = image "toplevel";
      finalImage = image "image";
    };
}
