"""Real image archives for the tests, made by the tests: see `catalogue` for what is in them."""

from tests.images.archive import Image, Layout, SymlinkTo, oci_members, old_members, write_docker_archive, write_members
from tests.images.catalogue import app_image, busybox_image, edge_image, implied_parents_image, untagged_image
from tests.images.debian import debian_base_image, debian_image, debian_layer
from tests.images.example import example_images, tour_images
from tests.images.layer import Entry, Layer, make_layer

__all__ = [
    "Entry",
    "Image",
    "Layer",
    "Layout",
    "SymlinkTo",
    "app_image",
    "busybox_image",
    "debian_base_image",
    "debian_image",
    "debian_layer",
    "edge_image",
    "example_images",
    "implied_parents_image",
    "make_layer",
    "oci_members",
    "old_members",
    "tour_images",
    "untagged_image",
    "write_docker_archive",
    "write_members",
]
