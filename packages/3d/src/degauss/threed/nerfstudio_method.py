# pyright: basic
# ruff: noqa: TID253
"""A method of nerfstudio: distillation from a prior, by its trainer, its viewer and its `ns-render`.

    ns-train degauss --pipeline.model.prompt spot --pipeline.model.prior oracle:spot
    ns-render camera-path --load-config outputs/.../config.yml --camera-path-filename path.json

nerfstudio finds `METHOD` by the entry point ``nerfstudio.method_configs``; nothing else imports this module, as
nerfstudio (extra ``nerfstudio``) pins old releases of much of its field and wants an environment of its own.

What is learned and by what is the package's: a step is `degauss.threed.run.Run.forward`, of views that it draws itself,
so there is no data to name. The optimisers, the schedule of their rates, checkpoints and their resumption are
nerfstudio's; the result is therefore near that of `degauss-3d generate`, but not the same bits. Its checkpoints have a
fixed number of parameters, and nothing beside them: Gaussians that become more, and VSD, stay with `generate`.

nerfstudio's own models fetch the weights of a perceptual metric when they are made, and fail without a network. This
one makes none: it is measured against the true mesh where that is known.

nerfstudio's world has z up, ours y: (x, y, z) there is (x, z, -y) here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras as TheirCameras  # pyright: ignore[reportMissingImports]
from nerfstudio.cameras.cameras import CameraType  # pyright: ignore[reportMissingImports]
from nerfstudio.configs.base_config import ViewerConfig  # pyright: ignore[reportMissingImports]
from nerfstudio.data.datamanagers.base_datamanager import (  # pyright: ignore[reportMissingImports]
    DataManager,
    DataManagerConfig,
)
from nerfstudio.data.datasets.base_dataset import InputDataset  # pyright: ignore[reportMissingImports]
from nerfstudio.data.scene_box import SceneBox  # pyright: ignore[reportMissingImports]
from nerfstudio.engine.callbacks import (  # pyright: ignore[reportMissingImports]
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.engine.optimizers import AdamOptimizerConfig  # pyright: ignore[reportMissingImports]
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig  # pyright: ignore[reportMissingImports]
from nerfstudio.engine.trainer import TrainerConfig  # pyright: ignore[reportMissingImports]
from nerfstudio.models.base_model import Model, ModelConfig  # pyright: ignore[reportMissingImports]
from nerfstudio.pipelines.base_pipeline import (  # pyright: ignore[reportMissingImports]
    VanillaPipeline,
    VanillaPipelineConfig,
)
from nerfstudio.plugins.types import MethodSpecification  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.nn import Parameter

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.commands.run_options import RunOptions
from degauss.threed.prior_sources import open_prior
from degauss.threed.quality import compare_views, held_out_views
from degauss.threed.rendering import render
from degauss.threed.run import Rates, Run
from degauss.threed.scenes import start

STEPS = 400
TURN = torch.tensor(((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, -1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)))
"""nerfstudio's world to ours."""
_SHOWN = 12
"""Cameras that the viewer draws."""


# --- cameras ------------------------------------------------------------------------------------------------


def our_cameras(cameras: TheirCameras) -> Cameras:
    """nerfstudio's pinhole cameras ``[n]`` as ours."""
    pose = torch.eye(4, device=cameras.device).repeat(len(cameras), 1, 1)
    pose[:, :3] = cameras.camera_to_worlds
    # Cameras of a path come with focal lengths in float64.
    focal = torch.cat((cameras.fx, cameras.fy), -1).to(pose)
    centre = torch.cat((cameras.cx, cameras.cy), -1).to(pose)
    return Cameras(TURN.to(pose) @ pose, focal, centre, int(cameras.height[0]), int(cameras.width[0]))


def their_cameras(cameras: Cameras) -> TheirCameras:
    """Our cameras as nerfstudio's."""
    pose = TURN.to(cameras.world_from_camera).mT @ cameras.world_from_camera
    (fx, fy), (cx, cy) = cameras.focal.unbind(-1), cameras.centre.unbind(-1)
    return TheirCameras(pose[:, :3], fx, fy, cx, cy, cameras.width, cameras.height, camera_type=CameraType.PERSPECTIVE)


# --- no data --------------------------------------------------------------------------------------------------


class BlankViews(InputDataset):
    """Cameras around the object and white images, for the viewer to draw: there is nothing to learn from."""

    def __init__(self) -> None:
        around = torch.arange(_SHOWN, dtype=torch.float64) * (360 / _SHOWN)
        self.cameras = their_cameras(Cameras.orbit(around, 15.0, size=64))
        self.scene_box = SceneBox(torch.tensor(((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))))
        self.metadata: dict[str, Any] = {}
        self.mask_color = None

    def __len__(self) -> int:
        return _SHOWN

    def __getitem__(self, image_idx: int) -> dict[str, Any]:
        return {"image": torch.ones(64, 64, 3), "image_idx": image_idx}


@dataclass
class NoDataConfig(DataManagerConfig):
    """There is no data: --data is not read."""

    _target: type = field(default_factory=lambda: NoData)


class NoData(DataManager):
    """What nerfstudio asks of a method's data, where a method draws its own views."""

    def __init__(
        self,
        config: NoDataConfig,
        device: torch.device | str = "cpu",
        test_mode: str = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **_: Any,
    ) -> None:
        del local_rank
        if world_size > 1:
            raise InputError("degauss learns one scene in one process: leave --machine.num-devices at 1.")
        self.config, self.device, self.test_mode = config, device, test_mode
        self.train_dataset = BlankViews()
        super().__init__()

    def setup_train(self) -> None:
        """Nothing to set up."""

    def setup_eval(self) -> None:
        """Nothing to set up."""

    def get_train_rays_per_batch(self) -> int:
        """For the speed that is shown: of a step with the default views."""
        return RunOptions().views * RunOptions().size ** 2

    def get_eval_rays_per_batch(self) -> int:
        return self.get_train_rays_per_batch()

    def get_datapath(self) -> Path:
        """Where camera paths are kept."""
        return Path()

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return {}


# --- what is learned ------------------------------------------------------------------------------------------


@dataclass
class DistilledConfig(ModelConfig):
    """What is distilled from what: the options of 'degauss-3d generate', where those say more."""

    _target: type = field(default_factory=lambda: Distilled)
    enable_collider: bool = False
    prompt: str = "spot"
    """A word that the prior knows."""
    prior: str = "embedded"
    """embedded: the one that ships; a folder: of one that 'degauss-3d train-prior' wrote; oracle:MESH."""
    method: Literal["sds", "asd", "ism", "tsm", "stable-dreamer"] = "sds"
    """How the prior's opinion becomes a gradient."""
    representation: Literal["volume", "hashgrid"] = "volume"
    """What is learned: voxels, or a hash grid."""
    resolution: int = 48
    """Voxels a side."""
    views: int = 4
    """Views rendered at each step."""
    size: int = 32
    """Pixels a side of the renders during training, and of an oracle's images."""
    guidance: float | None = None
    """Classifier-free guidance; the default is 1 for an oracle and else 3."""
    annealing: Literal["paper", "mvdream", "falling", "none"] = "mvdream"
    """How the noise at which the prior is asked falls over the run."""
    opacity: float = 0.0
    """Weight for surfaces that are there or not."""
    seed: int = 0
    """Everything random follows from it."""

    def options(self, steps: int) -> RunOptions:
        """The same, as the package's own commands have it."""
        names = ("representation", "prior", "resolution", "views", "size", "guidance", "annealing", "opacity", "seed")
        return RunOptions(steps=steps, **{name: getattr(self, name) for name in names})


class Distilled(Model):
    """A scene of the package as a model of nerfstudio."""

    config: DistilledConfig

    def populate_modules(self) -> None:
        super().populate_modules()
        device = self.kwargs["device"]
        self.source = open_prior(self.config.prior, self.config.size, device)
        self.source.prior.check(self.config.prompt)
        self.source = self.source.about(self.config.prompt, device)
        self.scene = start(self._run_config(STEPS).scene, self.config.seed)

    def begin(self, steps: int) -> Run:
        """The run that teaches this scene, as it is now, over so many steps."""
        run = Run(self._run_config(steps), self.source.prior, self.device)
        run.take(self.scene)
        return run

    def _run_config(self, steps: int) -> Any:
        return self.config.options(steps).run_config(self.config.prompt, self.config.method, self.source)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups: dict[str, list[Parameter]] = {}
        for name, value in self.scene.named_parameters():
            groups.setdefault(name.split(".")[0], []).append(value)
        return groups

    def get_outputs(self, ray_bundle: Any) -> dict[str, Tensor]:
        """What cameras see; single rays are not asked of a scene."""
        if not isinstance(ray_bundle, TheirCameras):
            raise NotImplementedError("a scene of degauss is rendered by cameras, not by rays")
        return self.get_outputs_for_camera(ray_bundle)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: TheirCameras, obb_box: Any = None) -> dict[str, Tensor]:
        """Colour over white, alpha, depth and normals (as colours) of a camera, ``[h, w, ...]``; crops are not made."""
        del obb_box
        seen = render(self.scene, our_cameras(camera.to(self.device)))
        normals = 0.5 + 0.5 * (seen.normal @ TURN[:3, :3].to(seen.normal))
        return {
            "rgb": seen.rgb[0].clamp(0, 1),
            "accumulation": seen.alpha[0, ..., None],
            "depth": seen.depth[0, ..., None],
            "normals": normals[0].clamp(0, 1),
        }

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        return torch.cat((outputs[output_name], outputs["accumulation"]), -1)

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Tensor]:
        """None: the pipeline has it from the run."""
        return {}

    def scores(self) -> dict[str, float]:
        """Against the true mesh, where it is known."""
        if self.source.truth is None:
            return {}
        return compare_views(self.scene, self.source.truth, held_out_views(64, device=self.device))._asdict()


# --- how it learns --------------------------------------------------------------------------------------------


@dataclass
class DistillationConfig(VanillaPipelineConfig):
    """Distillation in nerfstudio's loop."""

    _target: type = field(default_factory=lambda: Distillation)
    datamanager: NoDataConfig = field(default_factory=NoDataConfig)
    model: DistilledConfig = field(default_factory=DistilledConfig)


class Distillation(VanillaPipeline):
    """A step of the package's run for each step of nerfstudio's trainer."""

    run: Run | None = None

    def get_training_callbacks(self, training_callback_attributes: TrainingCallbackAttributes) -> list[Any]:
        """The trainer tells how long it goes on, and calls after each step."""
        trainer, optimisers = training_callback_attributes.trainer, training_callback_attributes.optimizers
        steps = STEPS if trainer is None else trainer.config.max_num_iterations
        for scheduler in () if optimisers is None else optimisers.schedulers.values():
            for share in scheduler.lr_lambdas:
                share.steps = steps
        self.run = self.model.begin(steps)
        after = [TrainingCallbackLocation.AFTER_TRAIN_ITERATION]
        return [TrainingCallback(after, lambda step: self._running().upkeep(), update_every_num_iters=1)]

    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        run = self._running()
        run.step = step
        seen = run.forward()
        run.evaluations += seen.residual.evaluations
        outputs = {"rgb": seen.rendered.rgb, "accumulation": seen.rendered.alpha[..., None]}
        alpha = seen.rendered.alpha.detach().mean()
        return outputs, {"distillation": seen.loss, "regularisers": seen.extra}, {"alpha": alpha}

    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        outputs = self.model.get_outputs_for_camera(self.datamanager.train_dataset.cameras[0:1])
        return {**self.model.scores(), "num_rays": outputs["rgb"][..., 0].numel()}, {"img": outputs["rgb"]}

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Scores on views that training has not seen; none where the truth is not known."""
        return self.model.scores()

    def _running(self) -> Run:
        # No property: nerfstudio's viewer reads all of those before there is a run.
        if self.run is None:
            raise RuntimeError("the trainer asks for callbacks before its first step")
        return self.run


@dataclass
class Falling:
    """The share of a rate that is left at a step: last^(step / steps).

    A float of Python: nerfstudio's own schedulers leave numbers of numpy in its checkpoints, which torch from 2.6 on
    refuses to load.
    """

    last: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.last ** min(step / self.steps, 1.0)


@dataclass
class FallingConfig(SchedulerConfig):
    """Rates that fall geometrically over the whole of a training."""

    _target: type = field(default_factory=lambda: FallingScheduler)
    last: float = 0.1
    """The share that is left at the end."""


class FallingScheduler(Scheduler):
    """Makes nerfstudio's scheduler of `Falling`; the trainer's length comes with its callbacks."""

    config: FallingConfig

    def get_scheduler(self, optimizer: torch.optim.Optimizer, lr_init: float) -> torch.optim.lr_scheduler.LambdaLR:
        del lr_init
        return torch.optim.lr_scheduler.LambdaLR(optimizer, Falling(self.config.last, STEPS))


def _optimisers() -> dict[str, Any]:
    """Adam for each kind of parameter, at the rates of the package."""
    rates = asdict(Rates())
    last = rates.pop("last")
    return {
        name: {
            "optimizer": AdamOptimizerConfig(lr=rates[name], eps=1e-15),
            "scheduler": FallingConfig(last=last),
        }
        for name in ("raw", "colour", "tables", "network")
    }


METHOD = MethodSpecification(
    TrainerConfig(
        method_name="degauss",
        pipeline=DistillationConfig(),
        optimizers=_optimisers(),
        max_num_iterations=STEPS,
        steps_per_save=100,
        viewer=ViewerConfig(quit_on_train_completion=True),
        vis="viewer",
    ),
    description="Score distillation from a prior of known words, an oracle or your own meshes (degauss-3d).",
)
"""What nerfstudio finds by its entry point."""
