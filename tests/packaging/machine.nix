# The module and the package as a machine without NixOS sees them: `lib` has what they use and no more, without checks of
# types or priorities. `user` is what a configuration says, `packages` the names of Python packages that there are.
{
  user,
  packages,
  hasQemu ? true,
}:

let
  recursiveUpdate =
    left: right:
    left
    // builtins.mapAttrs (
      name: value:
      if builtins.isAttrs value && builtins.isAttrs (left.${name} or null) then
        recursiveUpdate left.${name} value
      else
        value
    ) right;
  type = {
    __functor = _: _: type;
  };

  lib = {
    types = {
      bool = type;
      either = _: type;
      enum = type;
      int = type;
      ints = {
        between = _: type;
        unsigned = type;
      };
      listOf = type;
      nullOr = type;
      package = type;
      str = type;
    };
    isInt = builtins.isInt;
    licenses.mit = "MIT";
    platforms.linux = [ ];
    cleanSource = path: path;
    escapeShellArgs = words: builtins.concatStringsSep " " (map (word: "'${word}'") words);
    literalExpression = text: text;
    literalMD = text: text;
    makeBinPath = builtins.concatStringsSep ":";
    mkDefault = value: value;
    mkIf = condition: content: if condition then content else { };
    mkMerge = builtins.foldl' recursiveUpdate { };
    mkOption = option: option;
    optional = condition: value: if condition then [ value ] else [ ];
    optionalAttrs = condition: value: if condition then value else { };
  };

  package = import ../../packaging/nixos/package.nix {
    inherit lib;
    coreutils = "/coreutils";
    qemu-utils = "/qemu-utils";
    python3Packages =
      builtins.listToAttrs (
        map (name: {
          inherit name;
          value = name;
        }) packages
      )
      // {
        buildPythonApplication = application: application;
        python.sitePackages = "lib/python3/site-packages";
      };
  };

  module = import ../../packaging/nixos/module.nix {
    inherit lib;
    options.virtualisation = if hasQemu then { qemu.drives = { }; } else { };
    pkgs = {
      callPackage = _: _: "/package";
      runCommand = _: _: script: {
        inherit script;
        outPath = "/disk";
      };
    };
    config.virtualisation = {
      docker.storageDriver = "overlay2";
      dockerPreloader = builtins.mapAttrs (
        name: option: user.${name} or option.default
      ) module.options.virtualisation.dockerPreloader;
    };
  };
in
{
  inherit (module) config;
  options = builtins.attrNames module.options.virtualisation.dockerPreloader;
  disk = module.options.virtualisation.dockerPreloader.disk.default.script;
  package = {
    inherit (package) version dependencies postInstall;
  };
}
