"""Prompts: simulated for training and test, grouped in regimes, saved and replayed."""

from samzoo.prompts.regimes import REGIMES, Regime, make_regime

__all__ = ["REGIMES", "Regime", "make_regime"]
