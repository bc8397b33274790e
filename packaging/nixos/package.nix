# The agent and the host's command, of these sources: pkgs.callPackage ./package.nix { }.
{
  lib,
  coreutils,
  python3Packages,
  qemu-utils,
}:

let
  sources = ../..;
  found = builtins.match ".*__version__ = \"([^\"]*)\".*" (builtins.readFile (sources + "/preloader_agent/__init__.py"));
in
python3Packages.buildPythonApplication {
  pname = "preloader-agent";
  version = builtins.head found;
  pyproject = true;
  src = lib.cleanSource sources;

  build-system = [ python3Packages.setuptools ];
  dependencies = [
    python3Packages.click
    python3Packages.fastcrc
    python3Packages.orjson
    python3Packages.pystemd
    python3Packages.pyudev
    python3Packages.qemu-qmp
    python3Packages.rich
    python3Packages.sdnotify
    python3Packages.zstandard
  ];
  makeWrapperArgs = [ "--prefix PATH : ${lib.makeBinPath [ qemu-utils ]}" ];

  # Where NixOS looks for the units, generators and rules of a package (`systemd.packages` brings the generators along),
  # with the programs where this one has them, and Docker's where a machine has it: systemd's own path has no other's.
  postInstall = ''
    install -D -m 644 -t $out/lib/systemd/system units/*.service
    install -D -m 644 -t $out/lib/udev/rules.d units/*.rules
    install -D -m 755 -t $out/lib/systemd/system-generators units/*-generator
    substituteInPlace $out/lib/systemd/system/*.service $out/lib/systemd/system-generators/* \
      --replace-fail "/usr/bin/python3 -I /usr/bin/docker-preloader" $out/bin/docker-preloader
    substituteInPlace $out/lib/systemd/system/docker-preloader.service \
      --replace-fail /bin/kill ${coreutils}/bin/kill
    modules=$out/${python3Packages.python.sitePackages}/preloader_agent
    substituteInPlace $modules/guest/generator.py \
      --replace-fail 'sys.executable, "-I", os.path.abspath(sys.argv[0])' "\"$out/bin/docker-preloader\","
    substituteInPlace $modules/containers/unit.py \
      --replace-fail 'DOCKER = "docker"' 'DOCKER = "/run/current-system/sw/bin/docker"'
  '';

  # The tests need root, disks and images: `make test` in the repository runs them.
  doCheck = false;
  pythonImportsCheck = [
    "preloader_agent.guest.daemon"
    "preloader_agent.host.cli"
  ];

  meta = {
    description = "Attach container images to test VMs as small read-only disks instead of loading them";
    license = lib.licenses.mit;
    mainProgram = "preloader";
    platforms = lib.platforms.linux;
  };
}
