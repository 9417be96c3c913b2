"""The errors that are meant for the user."""


class SamzooError(Exception):
    """Something that the user can put right: the message says what was wrong, in which file, and what to do.

    The command line prints the message alone and exits with 1; a traceback is for faults of samzoo itself.
    """


class DataError(SamzooError):
    """A data set, a case or a prompts file that can't be used as it is."""


class WeightsError(SamzooError):
    """A weights file or checkpoint that can't be loaded, or not as what it was asked for."""


class ConfigError(SamzooError):
    """A setting that is unknown, out of range, or contradicts another."""
