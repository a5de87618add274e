# The few functions of nixpkgs' lib that nix/ uses, by the same names.
let
  inherit (builtins) attrNames filter isAttrs listToAttrs map;
  self = {
    inherit (builtins) attrNames attrValues concatMap concatStringsSep elem filter hasAttr head isList isString
      listToAttrs mapAttrs tail;
    removePrefix =
      start: text:
      let
        length = builtins.stringLength start;
      in
      if builtins.substring 0 length text == start then builtins.substring length (-1) text else text;
    removeSuffix =
      end: text:
      let
        length = builtins.stringLength text - builtins.stringLength end;
      in
      if length >= 0 && builtins.substring length (-1) text == end then builtins.substring 0 length text else text;
    nameValuePair = name: value: { inherit name value; };
    genAttrs = names: make: listToAttrs (map (name: { inherit name; value = make name; }) names);
    filterAttrs = keep: set: self.genAttrs (filter (name: keep name set.${name}) (attrNames set)) (name: set.${name});
    mapAttrs' = make: set: listToAttrs (map (name: make name set.${name}) (attrNames set));
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    optionalString = condition: text: if condition then text else "";
    getExe' = package: name: "${package}/bin/${name}";
    isDerivation = value: isAttrs value && value.type or "" == "derivation";
    recursiveUpdate =
      left: right:
      left
      // builtins.mapAttrs (
        name: value:
        if isAttrs value && isAttrs (left.${name} or null) then self.recursiveUpdate left.${name} value else value
      ) right;
  } // import ./modules.nix self;
in
self
