# What `make` needs beyond itself. The Python packages come from `make venv`, pinned by digest.
{ pkgs }:
let
  hint = ''echo "peerpods: make venv once, then make test; or make lint, type, unit alone (see CONTRIBUTING.md)"'';
  base = with pkgs; [ python313 gnumake git pkg-config libvirt iproute2 ];
in
{
  default = pkgs.mkShell { packages = base; shellHook = hint; };
  image = pkgs.mkShell {
    packages = base ++ (with pkgs; [ qemu erofs-utils cryptsetup zstd ]);
    shellHook = hint;
  };
}
