# The disk: an erofs /usr with dm-verity that holds the store and the programs at the table's paths, and the unified
# kernel image as the only program of the EFI partition, by nixpkgs' image.repart. Its root hash is `usrhash=`.
{ self }:
{ config, lib, pkgs, modulesPath, ... }:
let
  facts = self.lib.facts;
  cfg = config.peerpods.podvm;
  inherit (config.image.repart.verityStore) partitionIds;
  python = pkgs.python313;
  guest = ../../src/peerpods/image/guest/system;

  start = name: program: pkgs.writeScript name "#!${pkgs.runtimeShell}\nexec ${program} \"$@\"\n";
  # Which package has the program at a path that units.json starts.
  programs = {
    "/usr/bin/twistd" = start "twistd" (lib.getExe' cfg.package "twistd");
    "/usr/bin/python3.13" = start "python3.13" (lib.getExe' cfg.package "python3.13");
    "/usr/sbin/nft" = start "nft" (lib.getExe' pkgs.nftables "nft");
    "/usr/bin/busybox" = start "busybox" (lib.getExe' pkgs.busybox "busybox");
    "/usr/local/bin/kata-agent" = lib.getExe' cfg.kataAgent "kata-agent";
  } // lib.genAttrs components (
    path: if cfg.guestComponents == null then null else lib.getExe' cfg.guestComponents (baseNameOf path)
  );
  components = map (name: "/usr/local/bin/${name}") facts.inputs.pins.guest_components.programs;
  wanted = map (unit: lib.head unit.exec) (facts.select "service" (facts.forImage { inherit (cfg) profile agent; }));
  found = lib.genAttrs wanted (
    path:
    programs.${path} or (facts.fail "units.json starts ${path}, and nix/modules/image.nix knows no package for it")
  );
  development = lib.mapAttrs' (
    debian: _:
    let
      name = lib.removeSuffix "-static" debian;
    in
    lib.nameValuePair "/usr/bin/${name}" (lib.getExe' pkgs.${name} name)
  ) facts.inputs.packages.development;
  contents = {
    "/usr/lib/peerpods" = guest;
    "/usr/lib/python3/dist-packages" = "${cfg.package}/${python.sitePackages}";
  } // lib.filterAttrs (_: source: source != null) found // lib.optionalAttrs (cfg.agent == "development") development;
  # repart copies what `contents` names and nothing that it refers to: a file that names it all brings that along.
  references = pkgs.writeText "podvm-usr" (
    lib.concatStringsSep "\n" (map (source: "${source}") (lib.attrValues contents))
  );
in
{
  imports = [ (modulesPath + "/image/repart.nix") ];

  image.repart = {
    name = facts.inputs.profiles.${cfg.profile}.image_id;
    seed = facts.inputs.identifiers.disk_seed;
    verityStore.enable = true;
    verityStore.ukiPath = "/EFI/BOOT/BOOTX64.EFI";
    partitions = {
      ${partitionIds.esp}.repartConfig = { Type = "esp"; Format = "vfat"; SizeMinBytes = "64M"; SizeMaxBytes = "64M"; };
      ${partitionIds.store-verity}.repartConfig.Minimize = "best";
      ${partitionIds.store} = {
        repartConfig.Minimize = "best";
        storePaths = [ references ];
        # The partition is mounted on /usr.
        contents = lib.mapAttrs' (
          path: source: lib.nameValuePair (lib.removePrefix "/usr" path) { inherit source; }
        ) contents;
      };
    };
  };
  fileSystems."/" = { fsType = "tmpfs"; options = [ "mode=0755" ]; };
  fileSystems."/nix/store" = { device = "/usr/nix/store"; fsType = "none"; options = [ "bind" ]; };
  boot.uki.name = facts.inputs.profiles.${cfg.profile}.image_id;
  system.image.id = facts.inputs.profiles.${cfg.profile}.image_id;
  system.image.version = "${facts.version}-${cfg.tee}-amd64";
  system.activationScripts.usrbinenv = lib.mkForce ""; # /usr is read-only
}
