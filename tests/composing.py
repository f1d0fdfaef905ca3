"""What Hydra and OmegaConf do again for each composition, done once a session: hundreds of tests compose a config."""

import pickle
from functools import cache
from typing import Any

import omegaconf.base
import omegaconf.omegaconf
import yaml
from hydra._internal import defaults_list
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins


def compose_faster() -> None:
    """Take more than half of a composition's processor time away; the config stays the same to the last key."""
    omegaconf.base.parse = cache(omegaconf.base.parse)  # an interpolation takes two milliseconds
    Plugins.instance()  # now, for it makes the classes of sources anew
    for scheme in ("file", "pkg"):
        _keep_parsed_files(SourcesRegistry.instance().resolve(scheme))
    _make_no_idle_maps()
    _write_yaml_in_c()


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


def _write_yaml_in_c() -> None:
    """Hydra writes three files a run, and the run one."""

    class Dumper(yaml.CDumper):
        yaml_representers = omegaconf.omegaconf.get_omega_conf_dumper().yaml_representers

    omegaconf.omegaconf.get_omega_conf_dumper = lambda: Dumper
