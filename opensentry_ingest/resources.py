"""The folders of files that are installed with the package: `schemas` and `sql`."""

from pathlib import Path


def folder(name: str) -> Path:
    """Return the folder `name`, which is `schemas` or `sql`.

    It is inside an installed package, and beside the package in a checkout or an editable install.
    """
    package = Path(__file__).parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
