# Units and command lines as text files, by /bin/sh alone: what `nix build --rebuild` can show without nixpkgs.
{ facts, system }:
let
  lines = builtins.listToAttrs (
    builtins.concatMap (
      tee:
      map (profile: {
        name = "cmdline_${builtins.replaceStrings [ "-" ] [ "_" ] "${tee}_${profile}"}";
        value = builtins.concatStringsSep " " (facts.commandLine { inherit tee profile; });
      }) facts.profiles
    ) facts.tees
  );
  print = name: "printf '%s: %s\\n' ${name} \"\$${name}\"";
  texts = lines // {
    units_json = builtins.toJSON facts.units;
    inputs_json = builtins.toJSON facts.inputs;
  };
in
derivation (texts // {
  name = "peerpods-tables";
  inherit system;
  builder = "/bin/sh";
  # The shell in a sandbox may have no mkdir: the files stand one after another in one file.
  args = [ "-eu" "-c" "{ ${builtins.concatStringsSep "; " (map print (builtins.attrNames texts))}; } > \"$out\"" ];
})
