"""What can go wrong, by exit code. Each message says what, where, why and the way out, in one line."""


class InfoUtilError(Exception):
    """Base of every error that a user can mend; `main.py` prints its message without a traceback."""

    exit_code = 1
    label = "error"  # what its line begins with


class ConfigError(InfoUtilError):
    """A flag, config key, name or value is wrong."""

    exit_code = 2


class DataError(InfoUtilError):
    """The input images or labels are not usable."""

    exit_code = 3


class EnvironmentFault(InfoUtilError):
    """Something outside is missing: a package, space, a permission."""

    exit_code = 4


class CorruptArtifact(InfoUtilError):
    """A file that this program wrote is no longer what it wrote."""

    exit_code = 5


class Busy(InfoUtilError):
    """Another live run holds the folder."""

    exit_code = 6


class NumericError(InfoUtilError):
    """NaN or Inf, a teacher near chance, or a device that computes wrong gradients."""

    exit_code = 7


class Preempted(InfoUtilError):
    """Stopped from outside; what is done is saved, and the same command goes on from there."""

    exit_code = 75  # EX_TEMPFAIL: run me again
    label = "stopped"
