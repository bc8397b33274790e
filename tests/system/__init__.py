"""Needs root: loop devices, a real dockerd, systemd-nspawn."""
