# The pod VM: kernel command line, modules, users, settings and units of the table, in a dm-verity image (image.nix).
{ self }:
{ config, lib, pkgs, ... }:
let
  facts = self.lib.facts;
  cfg = config.peerpods.podvm;
  units = facts.forImage { inherit (cfg) profile; agent = cfg.agent; };
  profile = facts.inputs.profiles.${cfg.profile};
  etc = lib.filterAttrs (path: _: !(lib.elem path elsewhere)) facts.inputs.files;
  # NixOS writes these itself: hostname from networking.hostName, no fstab of ours, machine-id at boot.
  elsewhere = [ "etc/hostname" "etc/hosts" "etc/fstab" "etc/machine-id" "etc/nsswitch.conf" ];
in
{
  imports = [ (import ./image.nix { inherit self; }) ];

  options.peerpods.podvm = {
    tee = lib.mkOption {
      type = lib.types.enum facts.tees;
      default = "none";
      description = "The TEE that the image is for.";
    };
    profile = lib.mkOption {
      type = lib.types.enum facts.profiles;
      default = "prod";
      description = "The image's profile.";
    };
    agent = lib.mkOption {
      type = lib.types.enum [ "kata" "development" ];
      default = facts.agentOf cfg.profile;
      description = "The kind of agent; a release has kata's.";
    };
    package = lib.mkOption {
      type = lib.types.package;
      default = self.packages.x86_64-linux.peerpods;
      description = "Forwarder and user data reader.";
    };
    kataAgent = lib.mkOption {
      type = lib.types.package;
      default = self.packages.x86_64-linux.kata-agent;
      description = "A package with bin/kata-agent.";
    };
    guestComponents = lib.mkOption {
      type = lib.types.nullOr lib.types.package;
      default = null;
      description = "A package with the guest components in bin/; without it their units' conditions are not met.";
    };
  };

  config = {
    boot.kernelParams = facts.commandLine { inherit (cfg) tee profile; };
    boot.kernelPackages = pkgs.linuxPackages_6_12;
    boot.kernelModules = facts.inputs.modules.loaded ++ facts.inputs.tees.${cfg.tee}.guest_modules;
    boot.blacklistedKernelModules = facts.inputs.modules.denied;
    boot.kernel.sysctl = facts.inputs.sysctls;
    boot.initrd.systemd.enable = true;
    boot.initrd.availableKernelModules = facts.inputs.modules.system_initrd;
    boot.loader.grub.enable = false;

    systemd.services = lib.mkMerge [
      (facts.asOptions "service" units (unit: unit.exec))
      (if profile.shell then { } else lib.genAttrs [ "getty@" "serial-getty@" "autovt@" ] (_: { enable = false; }))
    ];
    systemd.targets = facts.asOptions "target" units (_: [ ]);
    systemd.defaultUnit = "peerpods.target";
    systemd.enableEmergencyMode = profile.shell;

    # Numbers as in the Debian image; nixpkgs has its own for some, hence mkForce.
    users.users = lib.listToAttrs (
      map (
        user: lib.nameValuePair user.name { uid = lib.mkForce user.uid; hashedPassword = lib.mkForce "!"; }
      ) facts.inputs.users
    );
    users.groups = lib.mapAttrs (_: number: { gid = lib.mkForce number; }) facts.inputs.groups;
    users.mutableUsers = false;
    users.allowNoPasswordLogin = true;

    networking.hostName = "podvm";
    networking.useNetworkd = true;
    networking.useDHCP = false;
    networking.firewall.enable = false; # peerpods-firewall.service drops, before there is a network
    environment.etc = lib.mapAttrs' (
      path: text: lib.nameValuePair (lib.removePrefix "etc/" path) { text = lib.mkForce text; }
    ) etc;

    security.sudo.enable = false;
    services.openssh.enable = false;
    nix.enable = false;
    documentation.enable = false;
    # In os-release, as in the Debian image: which agent is inside, and that only a release calls itself one.
    system.nixos.variant_id = if profile.release && cfg.agent == "kata" then "release" else cfg.profile;
    system.nixos.extraOSReleaseArgs.PEERPODS_AGENT = cfg.agent;
    system.stateVersion = "25.05";
  };
}
