# A small evalModules: imports, options with types, mkIf, mkMerge, mkForce, mkDefault. A definition for a path that no
# module declares, or of the wrong type, is an error, as with nixpkgs' own.
lib:
let
  inherit (builtins) all attrNames concatMap concatStringsSep elem filter foldl' head isAttrs isBool isFunction isInt
    isList isPath isString length listToAttrs map mapAttrs typeOf;
  fail = path: message: throw "The option `${concatStringsSep "." path}' ${message}.";
  tagged = kind: value: isAttrs value && value._type or "" == kind;

  # mkIf and mkMerge taken apart: a list of plain or overriding definitions.
  discharge =
    value:
    if tagged "if" value then (if value.condition then discharge value.content else [ ])
    else if tagged "merge" value then concatMap discharge value.contents
    else if tagged "override" value then map (inner: override value.priority inner) (discharge value.content)
    else [ value ];
  override = priority: content: { _type = "override"; inherit priority content; };
  strongest =
    values:
    let
      priority = value: if tagged "override" value then value.priority else 100;
      best = foldl' (low: value: if priority value < low then priority value else low) 10000 values;
    in
    map (value: if tagged "override" value then value.content else value) (
      filter (value: priority value == best) values
    );
  definitions = values: strongest (concatMap discharge values);

  # For a group of options the tags move down to its members, so that a condition may read other members.
  spread =
    value:
    if tagged "if" value then
      map (mapAttrs (_: content: { _type = "if"; inherit (value) condition; inherit content; })) (spread value.content)
    else if tagged "merge" value then concatMap spread value.contents
    else if tagged "override" value then map (mapAttrs (_: override value.priority)) (spread value.content)
    else [ value ];

  names = sets: attrNames (foldl' (left: right: left // right) { } sets);
  having = name: sets: map (set: set.${name}) (filter (set: set ? ${name}) sets);

  scalar = name: check: {
    inherit name check;
    merge =
      path: values:
      if all (value: value == head values) values then head values else fail path "has conflicting definitions";
  };
  types = {
    str = scalar "string" (value: isString value || lib.isDerivation value);
    bool = scalar "boolean" isBool;
    int = scalar "integer" isInt;
    path = scalar "path" (value: isPath value || isString value || lib.isDerivation value);
    package = scalar "package" lib.isDerivation;
    raw = scalar "raw value" (_: true);
    enum = values: scalar "one of ${concatStringsSep ", " values}" (value: elem value values);
    nullOr = type: type // {
      name = "null or ${type.name}";
      check = value: value == null || type.check value;
      merge = path: values: if elem null values then null else type.merge path values;
    };
    lines = scalar "lines" isString // { merge = _: concatStringsSep "\n"; };
    listOf = type: {
      name = "list of ${type.name}";
      check = isList;
      merge = path: values: map (value: checked path type value) (concatMap (value: value) values);
    };
    attrsOf = type: {
      name = "attribute set of ${type.name}";
      check = isAttrs;
      merge = path: sets: lib.genAttrs (names sets) (name: merge (path ++ [ name ]) type (having name sets));
    };
    # Sets are merged, lists are joined, anything else must agree.
    anything = {
      name = "anything";
      check = _: true;
      merge =
        path: values:
        if all (value: isAttrs value && !(lib.isDerivation value)) values then
          (types.attrsOf types.anything).merge path values
        else if all isList values then concatMap (value: value) values
        else (scalar "anything" (_: true)).merge path values;
    };
    submodule = module: {
      name = "submodule";
      check = isAttrs;
      merge = path: sets: evaluate path (module.options or { }) sets;
    };
  };
  checked =
    path: type: value:
    if type.check value then value else fail path "is not of type `${type.name}' but a ${typeOf value}";
  merge = path: type: values: type.merge path (map (checked path type) (definitions values));

  evaluate =
    path: node: values:
    if tagged "option" node then
      let
        found = definitions values;
      in
      if found != [ ] then node.type.merge path (map (checked path node.type) found)
      else if node ? default then node.default
      else fail path "is used but not defined"
    else
      let
        group = value: if isAttrs value then value else fail path "is a group of options, not a ${typeOf value}";
        sets = map group (concatMap spread values);
        unknown = filter (name: !(node ? ${name})) (names sets);
      in
      if unknown != [ ] then fail (path ++ [ (head unknown) ]) "does not exist"
      else mapAttrs (name: inner: evaluate (path ++ [ name ]) inner (having name sets)) node;

  options = left: right:
    left // mapAttrs (name: value:
      if !(left ? ${name}) then value
      else if tagged "option" value || tagged "option" left.${name} then throw "The option `${name}' is declared twice."
      else options left.${name} value) right;
in
{
  inherit types;
  mkOption = set: set // { _type = "option"; };
  mkEnableOption = text: { _type = "option"; type = types.bool; default = false; description = "Enables ${text}."; };
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkForce = override 50;
  mkDefault = override 1000;

  evalModules =
    { modules, specialArgs ? { } }:
    let
      arguments = specialArgs // { inherit lib config; options = declared; };
      load =
        module:
        let
          value = if isPath module || isString module then import module else module;
          called = if isFunction value then value arguments else value;
          short = { config = removeAttrs called [ "imports" ]; imports = called.imports or [ ]; };
          plain = if called ? options || called ? config then called else short;
        in
        concatMap load (plain.imports or [ ]) ++ [ plain ];
      all = concatMap load modules;
      declared = foldl' options { } (map (module: module.options or { }) all);
      config = evaluate [ ] declared (map (module: module.config or { }) all);
    in
    {
      inherit config;
      options = declared;
    };
}
