"""ProMISe (Wang et al. 2024): auto-prompting and pattern shifting on a wholly frozen SAM."""

from samzoo.methods.promise.module import ProMISe

__all__ = ["ProMISe"]
