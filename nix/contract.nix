# What of the evaluated modules must agree with Python, for every TEE and profile and for the node.
{ self, lib, facts, configuration }:
let
  # Of a NixOS configuration only what the table speaks of; NixOS adds its own.
  unit = config: row: {
    name = row.name;
    value =
      let
        kind = if facts.suffix row.name == "target" then "targets" else "services";
        found = config.systemd.${kind}.${facts.without row.name};
      in
      {
        inherit (found) description after before requires wants bindsTo conflicts wantedBy unitConfig;
        serviceConfig = found.serviceConfig or { };
      };
  };
  image =
    tee: profile:
    let
      inherit (configuration [ self.nixosModules.podvm { peerpods.podvm = { inherit tee profile; }; } ]) config;
      inherit (config.image) repart;
    in
    {
      agent = config.peerpods.podvm.agent;
      imageId = config.system.image.id;
      osRelease = {
        VARIANT_ID = config.system.nixos.variant_id;
        inherit (config.system.nixos.extraOSReleaseArgs) PEERPODS_AGENT;
      };
      imageVersion = config.system.image.version;
      commandLine = config.boot.kernelParams;
      modules = config.boot.kernelModules;
      initrdModules = config.boot.initrd.availableKernelModules;
      denied = config.boot.blacklistedKernelModules;
      sysctls = config.boot.kernel.sysctl;
      seed = repart.seed;
      users = lib.genAttrs (map (user: user.name) facts.inputs.users) (name: config.users.users.${name}.uid);
      groups = lib.genAttrs (builtins.attrNames facts.inputs.groups) (name: config.users.groups.${name}.gid);
      files = lib.mapAttrs (_: file: file.text) (
        lib.filterAttrs (name: _: facts.inputs.files ? "etc/${name}") config.environment.etc
      );
      programs = builtins.attrNames repart.partitions.${repart.verityStore.partitionIds.store}.contents;
      units = builtins.listToAttrs (
        map (unit config) (facts.forImage { inherit profile; agent = config.peerpods.podvm.agent; })
      );
    };
  node =
    let
      all = { enable = true; run = map (row: facts.without row.name) facts.forNode; };
      inherit (configuration [ self.nixosModules.node { services.peerpods = all; } ]) config;
    in
    builtins.listToAttrs (map (unit config) facts.forNode);
in
{
  images = lib.genAttrs facts.tees (tee: lib.genAttrs facts.profiles (image tee));
  inherit node;
  kataAgent = lib.mapAttrs (arch: _: (facts.kataAgent arch).sha256) facts.inputs.pins.kata_agent.releases;
}
