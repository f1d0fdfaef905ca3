"""A user's own experiment and module, in the user's own folder, nothing in this repository touched."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import train
from tests.conf.tiny import TINY

ROOT = Path(train.__file__).parent
MODULE = """
    from lightning_modules import DaDPOModule


    class BriefDaDPO(DaDPOModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log(f"{self.name}/train/brief", loss.detach() * 0 + 7)
            return loss
"""


@pytest.mark.slow
def test_the_readmes_own_folder_works(tmp_path):
    shown = (ROOT / "README.md").read_text().split("names your module by `_target_`,")[1].split("```")[1]
    mine = tmp_path / "mine"
    (mine / "experiment").mkdir(parents=True)
    (mine / "experiment" / "brief.yaml").write_text(shown.removeprefix("yaml\n"))
    (mine / "my_module.py").write_text(textwrap.dedent(MODULE))
    stages = "stages=[teacher,teacher_responses,dsft,pairs,scores,dadpo]"
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--config-dir", "mine", "experiment=brief", *TINY, stages],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": "mine"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "outputs" / "brief" / "metrics.json").read_text())
    assert metrics["dadpo/train/brief"] == 7
