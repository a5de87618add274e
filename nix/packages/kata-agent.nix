# The kata-agent of the pinned release, by digest. While the pin has no digest the build refuses.
{ pkgs, facts, arch }:
let
  pin = facts.kataAgent arch;
  release = pkgs.fetchurl {
    name = pin.file;
    url = "https://github.com/kata-containers/kata-containers/releases/download/${pin.version}/${pin.file}";
    inherit (pin) sha256;
  };
in
if pin.sha256 == null then
  pkgs.runCommand "kata-agent-without-digest" { } ''
    echo "peerpods: inputs.json pins no digest of ${pin.file}:" \
      "write pins.kata_agent.releases.${arch}.sha256, or set peerpods.podvm.kataAgent" >&2
    exit 1
  ''
else
  pkgs.runCommand "kata-agent-${pin.version}" { nativeBuildInputs = [ pkgs.zstd pkgs.gnutar ]; } ''
    mkdir -p $out/bin
    tar --extract --zstd --file ${release} --to-stdout ./${pin.member} > $out/bin/kata-agent
    test -s $out/bin/kata-agent
    chmod 555 $out/bin/kata-agent
  ''
