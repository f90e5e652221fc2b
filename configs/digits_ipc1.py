"""The embedded default: ten distilled images, one per class, teach a network to read digits; see configs/digits.py."""

from configs import digits


def get_config():
    return digits.get_config(ipc=1)
