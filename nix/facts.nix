# What Python's inputs.json and units.json say, for Nix: no list stands here a second time.
{
  inputsFile ? ../src/peerpods/image/inputs.json,
  unitsFile ? ../src/peerpods/image/units.json,
  setupFile ? ../setup.cfg,
}:
let
  inherit (builtins) addErrorContext attrNames concatStringsSep elem elemAt filter foldl' fromJSON hasAttr head
    isAttrs isList isString length listToAttrs map match readFile replaceStrings split;
  fail = message: throw "peerpods: ${message}";
  read = name: file: addErrorContext "while reading peerpods' ${name}" (fromJSON (readFile file));

  needed = [ "architectures" "command_line" "epoch" "files" "identifiers" "modules" "packages" "pins" "profiles"
    "groups" "sysctls" "tees" "users" ];
  inputs =
    let
      data = read "inputs.json" inputsFile;
      absent = filter (key: !(hasAttr key data)) needed;
    in
    if !(isAttrs data) then fail "inputs.json is not an object"
    else if data.schema or null != 1 then fail "inputs.json is not of schema 1"
    else if absent != [ ] then fail "inputs.json lacks ${concatStringsSep ", " absent}"
    else data;

  fields = [ "after" "agents" "before" "binds_to" "conflicts" "description" "exec" "layouts" "name" "profiles"
    "requires" "service" "step" "type" "unit" "wanted_by" "wants" ];
  checked =
    row:
    let
      name = if isAttrs row && isString (row.name or null) then row.name else fail "units.json: a unit without a name";
      unknown = filter (key: !(elem key fields)) (attrNames row);
    in
    if unknown != [ ] then fail "units.json: ${name}: unknown field ${head unknown}"
    else if !(isString (row.description or null)) then fail "units.json: ${name}: no description"
    else if !(isList (row.layouts or null)) then fail "units.json: ${name}: no list of layouts"
    else if !(isList (row.exec or [ ])) then fail "units.json: ${name}: exec is not a list of words"
    else row;
  units =
    let
      rows = read "units.json" unitsFile;
      names = map (unit: (checked unit).name) rows;
    in
    if !(isList rows) then fail "units.json is not a list"
    else if length (attrNames (listToAttrs (map (name: { inherit name; value = true; }) names))) != length names then
      fail "units.json names a unit twice"
    else map checked rows;

  # One word of a command line as Python's shlex.quote writes it.
  quote =
    word:
    if match "[a-zA-Z0-9_@%+=:,./-]+" word != null then word else "'${replaceStrings [ "'" ] [ "'\"'\"'" ] word}'";
  suffix = name: elemAt (match ".*[.]([a-z]+)" name) 0;
  without = name: elemAt (match "(.*)[.][a-z]+" name) 0;
  optional = condition: set: if condition then set else { };

  serviceConfig =
    unit: words:
    optional (suffix unit.name == "service") (
      { Type = unit.type or "oneshot"; ExecStart = concatStringsSep " " (map quote words); }
      // optional (unit.type or "oneshot" == "oneshot") { RemainAfterExit = "yes"; }
      // unit.service or { }
    );
in
rec {
  inherit inputs units suffix without fail;

  version =
    let
      line = text: if isString text then match "version = (.*)" text else null;
    in
    head (head (filter (found: found != null) (map line (split "\n" (readFile setupFile)))));

  # TEEs and profiles whose images Nix can make: nixpkgs' repart and UKI modules do not know s390x.
  tees = filter (tee: elem "amd64" inputs.tees.${tee}.architectures) (attrNames inputs.tees);
  profiles = filter (profile: inputs.profiles.${profile}.layout == "system") (attrNames inputs.profiles);
  agentOf = profile: if inputs.profiles.${profile}.agent == "development" then "development" else "kata";

  # The kernel command line as a list, without the word that names the verity partition.
  commandLine =
    { tee, profile }:
    [ "console=${inputs.architectures.amd64.console}" ]
    ++ inputs.command_line.system
    ++ inputs.command_line.tees.${tee}
    ++ (if profile == "debug" then inputs.command_line.debug else [ ]);

  forImage =
    { profile, agent }:
    let
      has = key: value: unit: (unit.${key} or [ ]) == [ ] || elem value unit.${key};
    in
    filter (unit: elem "system" unit.layouts && has "profiles" profile unit && has "agents" agent unit) units;
  forNode = filter (unit: elem "node" unit.layouts) units;

  # A unit as the options of systemd.services or systemd.targets; `words` stands for the table's command.
  options =
    unit: words:
    {
      inherit (unit) description;
      after = unit.after or [ ];
      before = unit.before or [ ];
      requires = unit.requires or [ ];
      wants = unit.wants or [ ];
      bindsTo = unit.binds_to or [ ];
      conflicts = unit.conflicts or [ ];
      wantedBy = unit.wanted_by or [ ];
      unitConfig = unit.unit or { };
    }
    // optional (suffix unit.name == "service") {
      enableDefaultPath = false;
      serviceConfig = serviceConfig unit words;
    };
  select = kind: list: filter (unit: suffix unit.name == kind) list;
  asOptions =
    kind: list: change:
    listToAttrs (map (unit: { name = without unit.name; value = options unit (change unit); }) (select kind list));

  kataAgent = arch: inputs.pins.kata_agent // inputs.pins.kata_agent.releases.${arch};
}
