# Images for the Docker of a NixOS machine, on a disk that is attached to it: the options of the module that NixOS had
# until 2020, and those of the agent (docker-preloader.conf(5)).
#
#     imports = [ ./packaging/nixos/module.nix ];
#     virtualisation.docker.enable = true;
#     virtualisation.dockerPreloader.images = [ (pkgs.dockerTools.buildImage { ... }) ];
#
# A machine of NixOS's own test driver or of `nixos-rebuild build-vm` has the disk of the images attached. In any other,
# the agent adopts what it is given; `config.virtualisation.dockerPreloader.disk` is the disk for it.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  cfg = config.virtualisation.dockerPreloader;
  hasImages = cfg.images != [ ];
  words = lib.types.listOf lib.types.str;

  # One disk: a layer that images share is on it once, and it takes one slot of the machine.
  disk = pkgs.runCommand "docker-preloader-disk" { nativeBuildInputs = [ cfg.package ]; } ''
    mkdir $out
    preloader build ${lib.escapeShellArgs (map (image: "${image}") cfg.images)} -o $out/images.qcow2
  '';

  yesOrNo = value: if value then "yes" else "no";
in
{
  options.virtualisation.dockerPreloader = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = hasImages;
      defaultText = lib.literalExpression "images != [ ]";
      description = "Whether to run the agent that makes the images on attached disks part of Docker's store.";
    };
    images = lib.mkOption {
      type = lib.types.listOf lib.types.package;
      default = [ ];
      description = ''
        Images for the Docker of this machine: archives as `dockerTools.buildImage` makes them, or programs that stream
        one, as `dockerTools.streamLayeredImage` makes them.
      '';
    };
    qcowSize = lib.mkOption {
      type = lib.types.nullOr lib.types.int;
      default = null;
      description = "Not used: a disk is as large as its images. It is accepted because it once had to be set.";
    };
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package with the agent and `preloader`, which builds the disk.";
    };
    disk = lib.mkOption {
      type = lib.types.package;
      default = disk;
      defaultText = lib.literalMD "a disk with `images`";
      readOnly = true;
      description = "The disk, a qcow2 file `images.qcow2`.";
    };
    labels = lib.mkOption {
      type = words;
      default = [ "dpl-*" ];
      description = "Which disks are used: patterns for the labels of their ext4 file systems.";
    };
    expect = lib.mkOption {
      type = lib.types.either lib.types.ints.unsigned words;
      default = [ "auto" ];
      example = 1;
      description = ''
        Which disks Docker waits for at boot: so many, those with these labels, `[ "none" ]`, or `[ "auto" ]`, those that
        are attached when the machine boots.
      '';
    };
    timeout = lib.mkOption {
      type = lib.types.ints.between 0 3600;
      default = 30;
      description = "How many seconds Docker waits for them, at most.";
    };
    required = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether the agent's unit fails when they do not come. Docker starts in either case.";
    };
    hotplug = lib.mkOption {
      type = lib.types.enum [
        "restart"
        "idle"
        "defer"
      ];
      default = "idle";
      description = ''
        When Docker is restarted for a disk that is plugged into the running machine: at once, as soon as no container
        runs, or not by the agent.
      '';
    };
    containersFromDisks = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = ''
        Whether the containers that disks bring run as services. Whoever can attach a disk has root in the machine then.
      '';
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = config.virtualisation.docker.storageDriver == "overlay2";
            message = "virtualisation.dockerPreloader needs virtualisation.docker.storageDriver to be \"overlay2\".";
          }
        ];
        warnings = lib.optional (cfg.qcowSize != null) ''
          virtualisation.dockerPreloader.qcowSize is not used any more: a disk is as large as its images. Remove it.
        '';

        # Docker 29 would take to containerd's store, where its data directory is new.
        virtualisation.docker.storageDriver = lib.mkDefault "overlay2";

        environment.etc."docker-preloader.conf".text = ''
          labels=${toString cfg.labels}
          expect=${if lib.isInt cfg.expect then "count:${toString cfg.expect}" else toString cfg.expect}
          timeout=${toString cfg.timeout}
          required=${yesOrNo cfg.required}
          hotplug=${cfg.hotplug}
          containers_from_disks=${yesOrNo cfg.containersFromDisks}
        '';
        environment.systemPackages = [ cfg.package ];
        services.udev.packages = [ cfg.package ];
        systemd.packages = [ cfg.package ];
        # NixOS enables no unit by its [Install] section.
        systemd.services.docker-preloader.wantedBy = [ "docker.service" ];
        systemd.services.docker-preloader-merge.wantedBy = [ "docker.service" ];
      }
      # Only a machine that QEMU runs for NixOS has drives.
      (lib.optionalAttrs (options.virtualisation ? qemu) {
        virtualisation.qemu.drives = lib.mkIf hasImages [
          {
            name = "docker-preloader";
            file = "${cfg.disk}/images.qcow2";
            driveExtraOpts = {
              format = "qcow2";
              readonly = "on";
            };
          }
        ];
      })
    ]
  );
}
