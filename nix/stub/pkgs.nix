# Names of nixpkgs that nix/ uses; each package is an empty file. runCommand and the writers do what they say, as far as
# /bin/sh goes.
{ lib }:
let
  system = "x86_64-linux";
  make = set: script: derivation (set // { inherit system; builder = "/bin/sh"; args = [ "-eu" "-c" script ]; });
  empty = name: make { inherit name; } ": > $out";
  fetch =
    name: sha256:
    make { inherit name; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = sha256; } "exit 1";
  named = names: lib.genAttrs names empty;
  # Not builtins.toFile, which refuses text that names a derivation.
  file = name: text: make { inherit name text; } "printf %s \"$text\" > $out";
  # Names all that it would be built of, so that each is evaluated.
  build =
    set:
    make {
      name = set.pname;
      inherit (set) version src;
      dependencies = set.dependencies or [ ] ++ set.nativeBuildInputs or [ ] ++ set.buildInputs or [ ];
    } ": > $out";
in
named [ "nftables" "crun" "skopeo" "umoci" "busybox" "zstd" "gnutar" "libvirt" "pkg-config" "autoPatchelfHook"
  "gnumake" "git" "qemu" "nixfmt-rfc-style" "linux" "ruff" "erofs-utils" "cryptsetup" "iproute2" "genisoimage" ]
// {
  inherit lib;
  stdenv.cc.cc.lib = empty "gcc-lib";
  runtimeShell = "/bin/sh";
  linuxPackages_6_12 = { kernel = empty "linux"; };
  runCommand = name: environment: make (environment // { inherit name; });
  writeScript = file;
  writeText = file;
  fetchurl = set: fetch set.name set.sha256;
  fetchPypi = set: fetch "${set.pname}-${set.version}" set.sha256;
  # One that `nix develop` can enter: the packages are named, and the host's programs stay in reach.
  mkShell =
    set:
    derivation { name = "shell"; inherit system; inherit (set) packages; builder = "${../offline/bin}/bash"; };
  formats.toml = _: { generate = name: value: file name (builtins.toJSON value); };
  python313 = empty "python3" // {
    sitePackages = "lib/python3.13/site-packages";
    withPackages = choose: make { name = "python3-env"; packages = choose { }; } ": > $out";
    pkgs = { buildPythonPackage = build; setuptools = empty "setuptools"; };
  };
}
