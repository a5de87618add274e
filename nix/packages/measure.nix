# `peerpods image measure`, `verify`, `diff` and `rvps` under a name of its own.
{ pkgs, peerpods }:
pkgs.runCommand "peerpods-measure" { } ''
  mkdir -p $out/bin
  printf '#!%s\nexec %s image "$@"\n' ${pkgs.runtimeShell} ${peerpods}/bin/peerpods > $out/bin/peerpods-measure
  chmod 555 $out/bin/peerpods-measure
''
