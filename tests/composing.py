"""What Hydra and OmegaConf do again for each composition, done once a session: hundreds of tests compose a config."""

import pickle
from functools import cache
from typing import Any

import omegaconf.base
from hydra._internal import defaults_list
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource


def compose_faster() -> None:
    """Halve the processor time of a composition, which stays the same to the last key."""
    omegaconf.base.parse = cache(omegaconf.base.parse)  # an interpolation takes two milliseconds
    for source in (FileConfigSource, ImportlibResourcesConfigSource):
        _keep_parsed_files(source)
    _make_no_idle_maps()


def _keep_parsed_files(source: type[Any]) -> None:
    load, kept = source.load_config, dict[Any, bytes]()

    def load_config(self: Any, config_path: str) -> Any:
        key = (self.path, config_path)
        if key not in kept:
            kept[key] = pickle.dumps(load(self, config_path))
        return pickle.loads(kept[key])  # a copy: Hydra changes what it has loaded

    source.load_config = load_config


def _make_no_idle_maps() -> None:
    """Of what ``${…}`` within a defaults list could name Hydra makes a config at every node, wherever there is none."""
    make = defaults_list._create_interpolation_map

    def create(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        names = (str(getattr(default, field, "")) for default in defaults for field in ("path", "value"))
        return make(overrides, defaults, self_added) if any("$" in name for name in names) else None

    defaults_list._create_interpolation_map = create
