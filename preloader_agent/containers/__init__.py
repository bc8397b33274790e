"""Containers as services: what describes one, and the systemd unit that it becomes.

Both sides read descriptions: the guest, which runs them, and the host, which puts them on disks. This package imports
neither of the two.
"""
