"""Container images as attachable disks: a host tool that makes them and a guest agent that adopts them."""

__version__ = "0.1.0"
