"""The host side: image archives become disks, and disks reach virtual machines."""
