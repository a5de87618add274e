# The node's services as hardened systemd units, from the same table as the rest.
{ self }:
{ config, lib, pkgs, ... }:
let
  facts = self.lib.facts;
  cfg = config.services.peerpods;
  names = map (unit: facts.without unit.name) facts.forNode;
  units = lib.filter (unit: lib.elem (facts.without unit.name) cfg.run) facts.forNode;
  # The table's command with the package's program in front; its arguments stay.
  command = unit: [ (lib.getExe' cfg.package (baseNameOf (lib.head unit.exec))) ] ++ lib.tail unit.exec;
  environment = lib.mapAttrs (_: file: { serviceConfig.EnvironmentFile = lib.mkForce file; }) cfg.environmentFile;
in
{
  options.services.peerpods = {
    enable = lib.mkEnableOption "the peer pods services of a node";
    package = lib.mkOption {
      type = lib.types.package;
      default = self.packages.x86_64-linux.peerpods;
      description = "Where twistd comes from.";
    };
    run = lib.mkOption {
      type = lib.types.listOf (lib.types.enum names);
      default = [ "peerpods-relay" "peerpods-adaptor" ];
      description = "Which of them: relay and adaptor on each node, webhook and controllers once in a cluster.";
    };
    settings = lib.mkOption {
      type = lib.types.attrsOf lib.types.anything;
      default = { };
      description = "/etc/peerpods/peerpods.toml, as docs/configuration.md lists it; a secret is given by its file.";
    };
    environmentFile = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      example = { peerpods-adaptor = "/run/keys/adaptor.env"; };
      description = "By unit: a file with its environment, in place of the table's optional /etc/peerpods/NAME.env.";
    };
  };

  config = lib.mkIf cfg.enable {
    systemd.services = lib.mkMerge [ (facts.asOptions "service" units command) environment ];
    environment.etc."peerpods/peerpods.toml".source = (pkgs.formats.toml { }).generate "peerpods.toml" cfg.settings;
    environment.systemPackages = [ cfg.package ];
  };
}
