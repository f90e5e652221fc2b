"""Real images: `open_dataset(Settings(...))` gives a Dataset whose splits decode on demand."""

from infoutil_jax.data.digits import open_digits
from infoutil_jax.data.folder import open_folder
from infoutil_jax.data.settings import SOURCES, Dataset, Settings, Split
from infoutil_jax.data.tfds_source import open_tfds

__all__ = ["SOURCES", "Dataset", "Settings", "Split", "open_dataset"]

OPENERS = {"digits": open_digits, "digits_in_photos": open_digits, "tfds": open_tfds, "folder": open_folder}


def open_dataset(settings: Settings) -> Dataset:
    """Opens the data that `settings` names. Raises ConfigError, DataError or EnvironmentFault, with the way out."""
    return OPENERS[settings.source](settings)
