# The one Python package: our source by setup.cfg, over exactly the files that requirements/run.txt pins. wheels.json
# says which of the pinned files are for CPython 3.13 on x86_64 Linux (tools/nix_wheels.py writes it). The result is an
# environment: bin/ has python3.13, peerpods, and Twisted's twistd that sees our plugins.
{ pkgs, lib, facts }:
let
  python = pkgs.python313;
  dependency =
    row:
    python.pkgs.buildPythonPackage (
      {
        inherit (row) pname version;
        doCheck = false;
        dontCheckRuntimeDeps = true;
      }
      // (
        if row ? wheel then
          {
            format = "wheel";
            src = pkgs.fetchPypi (
              { inherit (row) pname version sha256; format = "wheel"; dist = row.wheel.python; } // row.wheel
            );
            nativeBuildInputs = lib.optionals (row.wheel.platform != "any") [ pkgs.autoPatchelfHook ];
            buildInputs = lib.optionals (row.wheel.platform != "any") [ pkgs.stdenv.cc.cc.lib ];
          }
        else
          {
            pyproject = true;
            build-system = [ python.pkgs.setuptools ];
            src = pkgs.fetchPypi { inherit (row) pname version sha256; };
            nativeBuildInputs = [ pkgs.pkg-config ];
            buildInputs = [ pkgs.libvirt ];
          }
      )
    );
  peerpods = python.pkgs.buildPythonPackage {
    pname = "peerpods";
    inherit (facts) version;
    pyproject = true;
    src = ../..;
    build-system = [ python.pkgs.setuptools ];
    dependencies = map dependency (builtins.fromJSON (builtins.readFile ./wheels.json));
    doCheck = false; # `make test` runs the tests
  };
in
python.withPackages (_: [ peerpods ])
