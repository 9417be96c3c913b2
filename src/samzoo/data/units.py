"""Which kind of training unit a method wants, and whether the data module's settings are for it."""

from __future__ import annotations

from typing import Any

from samzoo.errors import ConfigError


def trains_on_slices(method: Any, augment: Any, volume_augment: Any, features: Any) -> bool:
    """Whether training units are slices.

    Args:
        method: anything with a `spec`; None (no training) takes slices.
        augment, volume_augment, features: what the data module was told, or None.

    Raises:
        ConfigError: settings for another kind of training unit.
    """
    if method is None or method.spec.unit == "slice":
        if volume_augment is not None:
            raise ConfigError(
                "data.volume_augment is for methods on slabs or crops, but training units are slices: use "
                "data.augment, and set data.volume_augment to null"
            )
        return True
    units = f"{method.spec.name} is trained on {method.spec.unit}s"
    if augment is not None:
        raise ConfigError(
            f"data.augment is for slices, but {units}: use data.volume_augment, and set data.augment to null"
        )
    if features is not None:
        raise ConfigError(f"data.features are of slices, but {units}: set data.features to null")
    return False
