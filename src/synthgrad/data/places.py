"""Where the user keeps the data sets that are not shipped with the package."""

import os
from pathlib import Path

__all__ = ["VARIABLE", "places"]

VARIABLE = "SYNTHGRAD_DATA"
"""The environment variable that names the folder of all data sets."""


def places(folder: Path | None, name: str) -> list[Path]:
    """Where the files of a data set may be, the best place first; none of the folders need be there.

    Args:
        folder: the only place, if given.
        name: of the data set, which its own folder has.

    Returns:
        `folder`; or else the folder that the environment variable SYNTHGRAD_DATA names, first its subfolder of the
        data set's name, and then that subfolder of the user's cache.
    """
    if folder is not None:
        return [Path(folder)]
    import pooch  # on use, as only those who name no folder need it

    named = os.environ.get(VARIABLE)
    return [*([Path(named, name), Path(named)] if named else []), Path(pooch.os_cache("synthgrad"), name)]
