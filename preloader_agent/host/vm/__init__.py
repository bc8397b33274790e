"""Virtual machines in QEMU: one that we start and drive (`driver`), and the disks of anybody's (`attached`)."""
