# Names of nixpkgs that nix/ uses; each package is an empty file. runCommand and the writers do what they say, as far as
# /bin/sh goes.
{ lib }:
let
  system = "x86_64-linux";
  run = name: script: derivation { inherit name system; builder = "/bin/sh"; args = [ "-eu" "-c" script ]; };
  empty = name: run name ": > $out" // { override = _: empty name; };
  named = names: lib.genAttrs names empty;
  # Not builtins.toFile, which refuses text that names a derivation.
  file = name: text: derivation { inherit name system text; builder = "/bin/sh"; args = [ "-eu" "-c" "printf %s \"$text\" > $out" ]; };
  # Names all that it would be built of, so that each is evaluated.
  build = set: derivation {
    name = set.pname;
    inherit system;
    inherit (set) version src;
    dependencies = set.dependencies or [ ] ++ set.nativeBuildInputs or [ ] ++ set.buildInputs or [ ];
    builder = "/bin/sh";
    args = [ "-c" ": > $out" ];
  };
in
named [ "nftables" "crun" "skopeo" "umoci" "busybox" "zstd" "gnutar" "libvirt" "pkg-config" "autoPatchelfHook" "gnumake" "git" "qemu" "nixfmt-rfc-style" "linux" "ruff" "erofs-utils" "cryptsetup" "iproute2" "genisoimage" ]
// {
  inherit lib;
  stdenv.cc.cc.lib = empty "gcc-lib";
  runtimeShell = "/bin/sh";
  linuxPackages_6_12 = { kernel = empty "linux"; };
  runCommand = name: environment: script: derivation (environment // { inherit name system; builder = "/bin/sh"; args = [ "-eu" "-c" script ]; });
  writeScript = file;
  writeText = file;
  fetchurl = set: derivation { name = set.name; inherit system; builder = "/bin/sh"; args = [ "-c" "exit 1" ]; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = set.sha256; };
  fetchPypi = set: derivation { name = "${set.pname}-${set.version}"; inherit system; builder = "/bin/sh"; args = [ "-c" "exit 1" ]; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = set.sha256; };
  # One that `nix develop` can enter: the packages are named, and the host's programs stay in reach.
  mkShell = set: derivation { name = "shell"; inherit system; inherit (set) packages; builder = "${../offline/bin}/bash"; };
  formats.toml = _: { generate = name: value: file name (builtins.toJSON value); };
  python313 = empty "python3" // {
    sitePackages = "lib/python3.13/site-packages";
    withPackages = choose: derivation { name = "python3-env"; inherit system; packages = choose { }; builder = "/bin/sh"; args = [ "-c" ": > $out" ]; };
    pkgs = { buildPythonPackage = build; setuptools = empty "setuptools"; };
  };
}
