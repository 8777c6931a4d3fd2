"""Starts the server: `ENVIRONMENT/bin/python -P .../child/__main__.py`.

In that environment there is no package `quern`, and this folder must not be on the path either, or its modules would
hide others' of the same name. So the folder is made a package of its own here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

PACKAGE = "quern_transformers_child"


def main() -> None:
    """Make this folder a package and run its `serve.main`."""
    folder = Path(__file__).resolve().parent
    places = [str(folder)]
    spec = importlib.util.spec_from_file_location(PACKAGE, folder / "__init__.py", submodule_search_locations=places)
    if spec is None or spec.loader is None:
        msg = f"{folder} is not a package"
        raise ImportError(msg)
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    importlib.import_module(f"{PACKAGE}.serve").main()


if __name__ == "__main__":
    main()
