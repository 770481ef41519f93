"""The folders of files that are installed with the package: `schemas` and `sql`."""

from pathlib import Path


def folder(name: str) -> Path:
    """Return the folder `name`, `schemas` or `sql`.

    An installed package holds it; a checkout, and so an editable install, has it beside the package.
    """
    package = Path(__file__).parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
