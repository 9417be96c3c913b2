"""The former place of `samzoo.download`."""

from samzoo.download import download

__all__ = ["download"]
