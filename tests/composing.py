"""What Hydra and OmegaConf do for nothing, or again, in each composition, left out: hundreds of tests compose."""

from functools import cache
from typing import Any

import omegaconf.base
import omegaconf.omegaconf
import yaml
from hydra._internal import defaults_list


def compose_faster() -> None:
    """Take more than a third of a composition's processor time away; the config stays the same to the last key."""
    omegaconf.base.parse = cache(omegaconf.base.parse)  # an interpolation takes two milliseconds
    _make_no_idle_maps()
    _write_yaml_in_c()


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
