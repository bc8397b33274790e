"""ext4 file systems in files: a writer for read-only disks and a reader, without root, mount or other programs.

Layout: https://docs.kernel.org/filesystems/ext4/. What both know of it stands in `layout`.
"""
