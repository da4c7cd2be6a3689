"""Reads a disk image with a library of Python and prints its size and the SHA-256 of its content from an offset on.

usage: readers.py pyvmdk|dissect OFFSET IMAGE [PARENT ...]

Parents follow the image youngest first; dissect finds them by itself.
"""

import hashlib
import os
import sys

STEP = 1 << 20

# What dissect reads at once, 8192 bytes unless told: it reads past the end of a disk that is no multiple of that, and
# fails.
os.environ.setdefault("DISSECT_STREAM_BUFFER_SIZE", "512")


def with_libvmdk(paths):
    import pyvmdk

    handles = []
    for path in paths:
        handle = pyvmdk.handle()
        handle.open(path)
        handle.open_extent_data_files()
        handles.append(handle)
    for child, parent in zip(handles, handles[1:]):
        child.set_parent(parent)
    return handles[0].get_media_size(), handles[0].seek_offset, handles[0].read_buffer


def with_dissect(paths):
    from dissect.hypervisor.disk.vmdk import VMDK

    disk = VMDK(paths[0])
    return disk.size, disk.seek, disk.read


def main():
    library, offset, *paths = sys.argv[1:]
    size, seek, read = {"pyvmdk": with_libvmdk, "dissect": with_dissect}[library](paths)
    seek(int(offset), 0)
    digest, left = hashlib.sha256(), size - int(offset)
    while left:
        part = read(min(left, STEP))
        if not part:
            sys.exit(f"the content ends {left} bytes early")
        digest.update(part)
        left -= len(part)
    print(size, digest.hexdigest())


main()
