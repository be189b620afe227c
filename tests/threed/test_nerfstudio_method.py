"""The method of nerfstudio, in nerfstudio's own trainer, on the CPU and without a network.

nerfstudio pins old releases and so lives in an environment of its own; elsewhere these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import socket
import warnings
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from degauss.threed.cameras import Cameras
from degauss.threed.mesh_files import write_mesh
from degauss.threed.rendering import render

from ._little import box

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of nerfstudio and what it pins
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("nerfstudio") is None,
        reason="needs nerfstudio (extra nerfstudio), which wants an environment of its own",
    ),
]


@pytest.fixture
def method() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("degauss.threed.nerfstudio_method")


@pytest.fixture
def config(method: ModuleType, here: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a training of six steps on the oracle of a box, where nothing can be fetched."""

    def refuse(*told: Any) -> None:
        raise AssertionError("nothing must be fetched")

    monkeypatch.setattr(socket, "create_connection", refuse)
    write_mesh(here / "box.glb", box())
    import copy

    made = copy.deepcopy(method.METHOD.config)
    made.output_dir, made.timestamp, made.vis, made.machine.device_type = here / "out", "now", "tensorboard", "cpu"
    made.max_num_iterations, made.steps_per_save = 6, 3
    model = made.pipeline.model
    model.prompt, model.prior, model.resolution, model.size, model.views = "box", "oracle:box.glb", 12, 16, 2
    return made


def trained(config: Any) -> Any:
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer


def test_nerfstudio_finds_it(method: ModuleType) -> None:
    from nerfstudio.plugins.registry import discover_methods  # pyright: ignore[reportMissingImports]

    found = [point for point in entry_points(group="nerfstudio.method_configs") if point.name == "degauss"]
    if not found:
        pytest.skip("degauss-3d is on the path but not installed, so that it has no entry points")
    configs, descriptions = discover_methods()
    assert configs["degauss"] is method.METHOD.config
    assert "Score distillation" in descriptions["degauss"]


def test_cameras_go_there_and_back(method: ModuleType) -> None:
    ours = Cameras.orbit(torch.tensor([0.0, 70.0, -120.0]), torch.tensor([10.0, -5.0, 40.0]), size=(12, 16))
    theirs = method.their_cameras(ours)
    # In a world with z up the front is seen from -y, and a camera that is 10 degrees higher has the larger z.
    place = theirs.camera_to_worlds[0, :, 3]
    assert place[1] < -2
    assert 0.3 < place[2] < 0.5
    back = method.our_cameras(theirs)
    torch.testing.assert_close(back.world_from_camera, ours.world_from_camera, atol=1e-6, rtol=0)
    torch.testing.assert_close(back.focal, ours.focal)
    assert (back.height, back.width) == (12, 16)
    theirs.fx, theirs.cx = theirs.fx.double(), theirs.cx.double()
    assert method.our_cameras(theirs).focal.dtype == torch.float32, "a path's cameras mix precisions"


def test_the_trainer_turns_the_scene_towards_the_oracle_and_goes_on_from_its_checkpoint(
    method: ModuleType, config: Any, here: Path
) -> None:
    config.max_num_iterations, config.steps_per_save = 40, 20
    trainer = trained(config)
    pipeline = trainer.pipeline
    scores = pipeline.get_average_eval_image_metrics()
    before = method.start(pipeline.model._run_config(40).scene, 0)
    fresh = method.compare_views(before, pipeline.model.source.truth, method.held_out_views(64))
    assert scores["psnr"] > fresh.psnr + 1

    camera = method.their_cameras(Cameras.orbit(20.0, 15.0, size=16))
    seen = pipeline.model.get_outputs_for_camera(camera)
    ours = render(pipeline.model.scene, Cameras.orbit(20.0, 15.0, size=16))
    torch.testing.assert_close(seen["rgb"], ours.rgb[0], atol=1e-5, rtol=0)
    assert {name: tuple(image.shape) for name, image in seen.items()} == {
        "rgb": (16, 16, 3), "accumulation": (16, 16, 1), "depth": (16, 16, 1), "normals": (16, 16, 3),
    }  # fmt: skip

    rates = sorted(group["lr"] for adam in trainer.optimizers.optimizers.values() for group in adam.param_groups)
    assert rates == pytest.approx([0.02, 0.05]), "a tenth of the rates must be left"

    config.load_dir, config.timestamp, config.max_num_iterations = trainer.checkpoint_dir, "later", 1
    again = config.setup(local_rank=0, world_size=1)
    again.setup()
    for name, value in pipeline.model.scene.state_dict().items():
        torch.testing.assert_close(again.pipeline.model.scene.state_dict()[name], value)
    assert again.pipeline.run.scene is again.pipeline.model.scene, "the run must teach what was loaded"
    again.train()
    assert again.step == 40


def test_what_was_trained_is_opened_by_nerfstudio_and_rendered(config: Any, here: Path) -> None:
    from nerfstudio.utils.eval_utils import eval_setup  # pyright: ignore[reportMissingImports]

    # With its viewer, which reads every attribute of the pipeline before the first step.
    with socket.socket() as free:
        free.bind(("localhost", 0))
        config.viewer.websocket_port = free.getsockname()[1]
    config.vis = "viewer"
    config.save_config()
    trainer = trained(config)
    trainer.shutdown()
    loaded, pipeline, _, step = eval_setup(trainer.base_dir / "config.yml", test_mode="inference")
    assert step == 5
    assert loaded.pipeline.model.prompt == "box"
    torch.testing.assert_close(pipeline.model.scene.state_dict(), trainer.pipeline.model.scene.state_dict())
    assert pipeline.get_average_eval_image_metrics()["psnr"] > 0


def test_a_word_that_the_prior_does_not_know_is_refused(config: Any) -> None:
    from degauss.core.errors import InputError

    config.pipeline.model.prompt = "cat"
    with pytest.raises(InputError, match="'cat'"):
        config.setup(local_rank=0, world_size=1).setup()
