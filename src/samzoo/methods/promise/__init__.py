"""ProMISe (Wang et al. 2024): auto-prompting and pattern shifting on a wholly frozen SAM."""
