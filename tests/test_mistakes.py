"""Mistakes of users: one message with the full key or file and what would be right, exit code 2, nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Answer, write_idx, write_images

# (command line, what the one message must contain)
MISTAKES = [
    # a misspelled group, option or key
    ("modl=dcgan", "modl: there is no such key; did you mean model?"),
    ("model=dcgann", "model=dcgann: there is no such option; did you mean dcgan?"),
    ("model/generater=mlp", "model/generater: there is no such group; did you mean model/generator?"),
    ("model/generator=mpl", "model/generator=mpl: there is no such option; did you mean mlp?"),
    ("loss=bcee", "loss=bcee: there is no such option; did you mean bce?"),
    ("regularizer=[r1,wgan_pg]", "regularizer=wgan_pg: there is no such option; did you mean wgan_gp?"),
    ("callbacks=[smaples]", "callbacks=smaples: there is no such option; did you mean samples?"),
    ("hydra/launcher=jobblib", "hydra/launcher=jobblib: there is no such option; did you mean joblib?"),
    ("task=trian", "task=trian: there is no such option; did you mean train?"),
    ("sead=3", "sead: there is no such key; did you mean seed?"),
    ("+sead=3", "sead: there is no such key; did you mean seed?"),
    ("trainer.maxsteps=3", "trainer.maxsteps: there is no such key; did you mean trainer.max_steps?"),
    ("+trainer.maxsteps=3", "trainer.maxsteps: there is no such key; did you mean trainer.max_steps?"),
    ("model.d_stepz=2", "model.d_stepz: there is no such key; did you mean model.d_steps?"),
    ("model.generator.widht=3", "model.generator.widht: there is no such key; did you mean model.generator.width?"),
    ("+model.generator.widht=3", "model.generator.widht: ganexp.networks.dcgan.Generator has no such argument; did you mean width?"),
    ("+optimizer.generator.bata=1", "optimizer.generator.bata: torch.optim.Adam has no such argument"),
    ("+optimizer.generators.lr=1", "optimizer.generators: there is no such key; did you mean optimizer.generator?"),
    ("regularizer=[wgan_gp] regularizer.r1.weight=1", "regularizer.r1: there is no such key"),
    ("loss=hinge loss.real=0.9", "loss.real: there is no such key"),
    ("model.generator._target_=ganexp.networks.dcgan.Generater", "model.generator._target_: ganexp.networks.dcgan.Generater cannot be"),
    # a wrong type
    ("trainer.max_steps=many", "trainer.max_steps: Value 'many' of type 'str' could not be converted to Integer"),
    ("trainer.max_steps=2.5", "trainer.max_steps: Value '2.5'"),
    ("seed=a", "seed: Value 'a'"),
    ("data=folder data.root=~nobody-of-this-name/x", "data.root: there is no user nobody-of-this-name"),
    ("optimizer.generator.lr=fast", "optimizer.generator.lr: 'fast' is not of type "),
    ("optimizer.generator.betas=[0.5]", "optimizer.generator.betas: [0.5] is not of type tuple"),
    ("model.d_steps=two", "model.d_steps: 'two' is not of type int"),
    ("regularizer=[r1] regularizer.r1.weight=heavy", "regularizer.r1.weight: 'heavy' is not of type float"),
    ("model.loss=3", "model.loss: 3 is not of type Loss"),
    ("data.shape=8", "data.shape: 8 is not of type Sequence[int]"),
    ("model=[mlp,dcgan]", "model: takes one option, not a list"),
    ("loss=null", "loss: must not be null"),
    ("regularizer=null", "regularizer: must not be null; for none set regularizer=[]"),
    # an impossible value or shape
    ("trainer.max_steps=0", "trainer.max_steps: must be at least 1, got 0"),
    ("seed=-1", "seed: must be from 0 to"),
    ("optimizer.generator.lr=-1", "optimizer.generator: Invalid learning rate: -1"),
    ("loss.real=2", "loss.real: must be a number in [0, 1]"),
    ("loss.real=[0.9,0.1]", "loss.real: must be a number in [0, 1]"),
    ("regularizer=[r1] regularizer.r1.every=0", "regularizer.r1.every: must be at least 1, got 0"),
    ("model.d_steps=0", "model.d_steps: must be at least 1, got 0"),
    ("model.latent.dim=0", "model.latent.dim: must be at least 1, got 0"),
    ("model.ema_half_life=-3", "model.ema_half_life: must be above 0, got -3"),
    ("model=dcgan data=sine", "model.generator: DCGAN needs images [channels, 8-256 px, 8-256 px], got shape [2]"),
    ("data.shape=[1,4,4]", "got shape [1, 4, 4]"),
    ("data.shape=[2,8,8]", "data.shape: must be [1 or 3 channels, height, width], got [2, 8, 8]"),
    ("model=mlp data.shape=[64]", "data.shape: must be [1 or 3 channels, height, width], got [64]"),
    ("data.batch_size=5000", "data.batch_size: 5000, but the data has only 1797 samples"),
    ("hardware=ddp_cpu data.batch_size=7", "data.batch_size: 7 cannot be split over 2 devices"),
    ("model=mlp data=sine augment=[flip]", "flip needs images [C, H, W], not points of shape [2]"),
    ("model=mlp data=sine metrics=[fid] extractor=random", "metrics: random needs images"),
    ("model=mlp data=sine metrics=[fid] extractor=classifier", "metrics: classifier needs images"),
    ("model=dcgan metrics=[accuracy]", "metrics.accuracy: requires a conditional model: model=cdcgan"),
    ("metrics=[modes]", "metrics.modes: needs data=ring or data=grid"),
    ("model=dcgan data=folder data.root=pictures data.batch_size=8 extractor=classifier", "metrics: classifier needs data with labels; choose extractor=auto"),
    ("model=dcgan data=folder data.root=pictures data.batch_size=8 metrics=[class_modes]", "metrics.class_modes: needs data with labels; for data=ring"),
    ("metrics=[is] extractor=random", "metrics.is: random has no logits; choose extractor=classifier"),
    ("metrics=[fid] extractor=inception extractor.weights=none.pth", "extractor.weights: there is no file none.pth"),
    ("metrics=[kid] extractor=random metrics.kid.subset_size=1798", "requires at least 1,798 real samples, got 1,797"),
    ("metrics=[kid] metrics.kid.subsets=0", "metrics.kid.subsets: must be at least 1, got 0"),
    ("metrics=[prdc] metrics.prdc.k=0", "metrics.prdc.k: must be at least 1, got 0"),
    ("extractor=inceptoin", "extractor=inceptoin: there is no such option; did you mean inception?"),
    ("model=mlp data=ring data.sigma=0", "data.sigma: must be above 0 and finite, got 0"),
    ("model=mlp data=grid data.classes=3", "data.centres: must be one of shape [2] for each of the 3 classes"),
    ("task=evaluate", "run: required by task=evaluate: run=outputs/NAME/TIME, run=latest, or run=FILE.ckpt; or two folders"),
    ("task=evaluate task.real=a", "task.real: two folders are required: task.real=FOLDER task.fake=FOLDER"),
    ("task=evaluate task.real=a task.fake=b", "task.real: there is no folder or zip archive a"),
    ("task=evaluate task.real=a task.fake=b run=c", "task.real: cannot be combined with run=…"),
    ("task=evaluate task.real=a task.fake=b data=digits", "data: cannot be combined with task.real"),
    ("task=evaluate run=text.ckpt task.num_images=1", "task.num_images: must be at least 2, got 1"),
    ("task=compare task.runs=[pictures,pictures/]", "task.runs: pictures is named more than once"),
    ("task=compare", "task.runs: at least two are required: task.runs=["),
    ("callbacks.checkpoint.monitor=kid/x", "callbacks.checkpoint.monitor: kid/x is not one of the run's metrics: fid/classifier, swd/pixels"),
    ("model.g_steps=0", "model.g_steps: must be at least 1, got 0"),
    ("model.width_multiplier=0", "model.width_multiplier: must be a factor above 0"),
    ("loss=relativistic model.separate=true", "model.separate: Relativistic compares real and fake logits"),
    ("model=vae loss=hinge", "loss: not used by model=vae; its loss is model.loss"),
    ("model=vae optimizer.discriminator.lr=1e-3", "optimizer.discriminator.lr: not used by model=vae"),
    ("model=gmmn regularizer=[r1]", "regularizer: not used by model=gmmn"),
    ("model=gmmn augment=[flip]", "augment: not used by model=gmmn"),
    ("model=gmmn model.classes=10", "model.classes: must be null, got 10; moment matching is unconditional"),
    ("model=vae model/latent=uniform", "model.latent: must be normal for a VAE"),
    ("model=vae model.loss.sigma=0", "model.loss.sigma: must be above 0, got 0"),
    ("model=acgan data=folder data.root=pictures", "classes: an auxiliary classifier needs data with classes"),
    ("model=acgan model.discriminator.auxiliary=15", "the discriminator has 15 class logits; set model.discriminator.auxiliary to 10, or to 11 to add"),
    ("model=dcgan model.discriminator.outputs=0", "the discriminator must return logits [N, K], got [2, 0]"),
    ("model=dcgan_anime", "model.generator: this network needs images [channels, height, width] with sides of at least 16 px"),
    ("model=dcgan data=cats data.root=nowhere", "nowhere/cats or cats.zip; put cropped cat faces"),
    ("trainer.log_window=0", "trainer.log_window: must be at least 1, got 0"),
    ("trainer.num_samples=0", "trainer.num_samples: must be at least 1, got 0"),
    ("model.width_multiplier=abc", "model.width_multiplier: must be a factor above 0, got abc"),
    ("metrics=[sharpness,swd] callbacks.checkpoint.monitor=sharpness/laplacian", "monitor: sharpness/laplacian cannot rank checkpoints: it is best near 1"),
    ("-m task=resume run=a,b", "-m: starts new runs, but this task works in the folder of run=…"),
    ("task=resume run=pictures hydra.run.dir=x", "hydra.run.dir: cannot be set: this task works in the folder of run=…"),
    ("experiment=sine_mpl", "experiment=sine_mpl: there is no such option; did you mean sine_mlp?"),
    ("model=gan", "model.discriminator: ganexp.systems.gan.GAN requires this argument"),
    ("model=cdcgan data=folder data.root=pictures", "this model is conditional, but the data has no classes"),
    # hardware that is not there
    ("hardware=tpu", "hardware=tpu: there is no such option; did you mean gpu?"),
    ("hardware.accelerator=quantum", "hardware: You selected an invalid accelerator name"),
    ("hardware.precision=17", "hardware.precision: must be one of auto, 32-true, bf16-mixed, 16-mixed, got 17"),
    ("hardware=multinode", "torchrun --nnodes=2"),
    ("hardware=ddp_cpu +hardware.num_nodes=2", "hardware.num_nodes: training on several machines requires torchrun or srun"),
    # data and files that are not there, or not what they should be
    ("model=dcgan data=folder", "data.root: is required"),
    ("model=dcgan data=folder data.root=nowhere", "/nowhere"),
    ("model=dcgan data=folder data.root=empty", "/empty contains no image"),
    ("model=dcgan data=folder data.root=broken data.batch_size=2", "/broken/a.png"),
    ("data=mnist data.root=damaged", "damaged/MNIST/raw contains a damaged file"),
    # a run or a checkpoint
    ("task=sample", "run: required by task=sample: run=outputs/NAME/TIME, run=latest, or run=FILE.ckpt"),
    ("-m task=sample seed=1,2", "run: required by task=sample: run=outputs/NAME/TIME, run=latest, or run=FILE.ckpt"),
    ("task=sample checkpoint=text.ckpt", "checkpoint: there is no such key; did you mean run?"),
    ("+checkpoint=text.ckpt", "checkpoint: there is no such key; did you mean run?"),
    ("task=sample run=latest", "run: there is no run with a checkpoint below outputs/"),
    ("task=resume run=latest", "run: there is no run below outputs/"),
    ("task=resume", "run: required by task=resume: run=outputs/NAME/TIME, or run=latest\n"),
    ("task=resume run=text.ckpt", "run: text.ckpt is a file; a run continues in its folder: run=outputs/NAME/TIME"),
    ("task=sample run=pictures", "run: pictures has no checkpoint, neither checkpoints/best.ckpt nor checkpoints/last.ckpt"),
    ("task=sample run=nowhere", "run: there is no file or folder nowhere"),
    ("task=sample run=older.ckpt", "run: older.ckpt has an older format (without a number) than this version of ganexp reads (3): use the"),
    ("task=sample run=first.ckpt", "run: first.ckpt has an older format (1) than this version of ganexp reads (3)"),
    ("task=sample run=newer.ckpt", "run: newer.ckpt has a newer format (4) than this version of ganexp reads (3): update ganexp"),
    ("task=sample run=text.ckpt", "run: text.ckpt is not a checkpoint, or is truncated"),
    ("task=sample run=cut.ckpt", "run: cut.ckpt is not a checkpoint, or is truncated"),
    ("task=sample run=other.ckpt", "run: other.ckpt is not a checkpoint of ganexp"),
    ("task=sample run=code.ckpt", "code.ckpt contains more than tensors and plain values"),
    ("task=sample run=target.ckpt", "the file asks to run os.system"),
    ("task=sample run=bomb.ckpt", "bomb.ckpt is not a checkpoint, or is damaged: torch does not write entries like archive/data.pkl"),
    ("task=sample run=climbs.ckpt", "climbs.ckpt is not a checkpoint, or is damaged: torch does not write entries like ../../hacked"),
    ("task=sample run=flipped.ckpt", "flipped.ckpt is damaged: its entry flipped/data/0 does not match its checksum"),
    ("task=sample run=indirect.ckpt", "the file asks to run ganexp.data.module.torch.os.system"),
    ("task=sample run=environment.ckpt", "model.dim: '${oc.env:HOME}' is not of type int"),
    ("hydra.run.dir=text.ckpt/run", "text.ckpt is a file, not a folder"),
    ("data=folder data.root=${x}", r"data.root: ${x} stands for a key, and there is no such key; in a path or a text, ${ is written \${"),
    (r"hydra.run.dir=\${x}/run", "/${x}/run: the folder of a run cannot have ${ in its path"),
    (r"-m seed=1,2 hydra.sweep.dir=\${x}/sweep", "/${x}/sweep: the folder of a run cannot have ${ in its path"),
    ("callbacks.checkpoint.folder=pictures", "/pictures: exists, and would be overwritten; choose a new place, or one in {run_dir}"),
    ("callbacks.samples.gif=text.ckpt", "callbacks.samples.gif: "),
    ("logger.csv.save_dir=text.ckpt/log", "/text.ckpt is a file, not a folder; choose a new place, or one in {run_dir}"),
    ("task=check task.json=report.json", "task.json: report.json exists and is not a report of task=check"),
    ("model=dcgan data=folder data.root=pictures hydra.run.dir=pictures/run", "/pictures/run is inside of data.root"),
    ("model=dcgan data=anime data.root=pictures hydra.run.dir=pictures/run", "/pictures/run is inside of data.root"),
    ("task=check model=dcgan data=folder data.root=pictures data.batch_size=2 hydra.run.dir=pictures/run", "/pictures/run is inside of data.root"),
    ("task=explore run=text.ckpt task.host=no.host.invalid", "task.host: 'no.host.invalid' is not a name or an address"),
    ("task=evaluate seed=1", "seed: not used by task=evaluate"),
    ("start_from=nowhere", "start_from: there is no file or folder nowhere"),
    ("task=study study.axes={loss:[bce]} start_from=nowhere", "start_from: there is no file or folder nowhere"),
    ("task=study study.axes={hydra.run.dir:[a,b]}", "study.axes.hydra.run.dir: cannot be an axis"),
    ("task=study study.axes={name:[a,b]}", "study.axes.name: cannot be an axis"),
    ("-m seed=1,2 hydra.sweep.subdir=same", "hydra.sweep.subdir: all jobs would have this folder; its name needs ${hydra.job.num}"),
    ("hardware.devices=0", "hardware.devices: must be at least 1, or -1 for all, got 0"),
    ("hydra.run.dir=pictures", "is not empty; every run needs a new folder"),
    ("-m seed=1,2 hydra.sweep.dir=pictures", "is not empty; every sweep needs a new folder"),
    ("-m seed=1,2 hydra.sweep.dir=text.ckpt/sweep", "text.ckpt is a file, not a folder"),
    ("task=sample run=words.ckpt", "model: must be a mapping with a _target_"),
    ("task=sample run=part.ckpt", "is not a System"),
    ("task=sample run=step.ckpt", "the step is not a number or the config is not a mapping"),
    # values that only the libraries below would have refused, in the middle of a run
    ("model.classes=5", "model.classes: 5, but the data has 10"),
    ("model.classes=20", "model.classes: 20, but the data has 10"),
    ("model.generator=null", "model.generator: None is not of type Module"),
    ("model.loss=null", "model.loss: None is not of type Loss"),
    ("data.seed=-1", "data.seed: must be at least 0, got -1"),
    ("metrics.swd.directions=0", "directions: must be at least 1, got 0"),
    ("callbacks.samples.num=0", "callbacks.samples.num: must be at least 1, got 0"),
    ("+hardware.gradient_clip_val=1", "hardware.gradient_clip_val: gradients are clipped per network: set model.clip_g, model.clip_d"),
    ("+hardware.accumulate_grad_batches=2", "set model.accumulate, which splits the batch for both networks"),
    ("+hardware.strategy=fsdp hardware.accelerator=cpu hardware.devices=2", "hardware"),
    ("model.accumulate=0", "model.accumulate: must be at least 1, got 0"),
    ("model.accumulate=7", "model.accumulate: 7 does not divide the batch of 64 on each device"),
    ("model=gmmn data=sine model.accumulate=2", "model.accumulate: there is no such key"),
    ("model.clip_d=0", "model.clip_d: must be above 0, got 0; null disables clipping"),
    ("model=vae model.clip=-1", "model.clip: must be above 0, got -1; null disables clipping"),
    ("+hardware.max_steps=1", "hardware.max_steps: is set by ganexp itself"),
    ("+callbacks.x._target_=builtins.dict", "callbacks.x: dict is not a Lightning callback"),
    # found by tests/test_fuzz.py
    ("schedule._partial_=x", "schedule: Instantiation: _partial_ flag must be a bool"),
    ("model=mlp data=sine ~model/latent", "model.generator.latent_dim: ${model.latent.dim} stands for a key, and there is no such key"),
    ("model=mlp data=sine model.latent._target_=builtins.dict", "model"),
    ("task=sample task.needs=[]", "task.needs: cannot be set; it is part of the option task=sample"),
    ("trainer.log_window=9223372036854775808", "trainer.log_window: must be below 2**31, got 9223372036854775808"),
    ("~data.shape.0", "the config cannot be composed: list indices must be integers"),
    ("model.optimizer={generator:{a:1},discriminator:{a:1}}", "'dict' object is not callable"),
    ("model.schedule={a:1}", "model.schedule: 'dict' object is not callable"),
    ("logger.csv._target_=builtins.dict", "logger.csv: dict is not a Lightning logger"),
    ("logger.csv.flush_logs_every_n_steps=0", "logger.csv.flush_logs_every_n_steps: must be an integer of at least 1, got 0"),
    ("+hardware.limit_train_batches=0", "hardware.limit_train_batches: for a short run set trainer.max_steps"),
    ("~name", "name: is required"),
    ("name=" + 300 * "x", "name: must have at most 200 bytes, got 300"),
    ("--nothing", "unrecognized arguments: --nothing"),
    ("name=", "name: must be a folder below outputs/"),
    ("name=a/../../x", "name: must be a folder below outputs/"),
    ("experiment=foo", "experiment=foo: there is no such option"),
    ("experiment=null", "experiment: must not be null"),
    # a key that the task would ignore
    ("num=5", "num: there is no such key (there are: anneal, augment, callbacks,"),
    ("task.num=5", "task.num: there is no such key; this task has no options"),
    ("+task.checkpoint=x", "task.checkpoint: there is no such key"),
    ("run=x", "run: not used by task=train (it uses: name, seed, model,"),
    ("task=sample num=5", "num: there is no such key; did you mean task.num?"),
    ("task=sample task.nmu=5", "task.nmu: there is no such key; did you mean task.num? (there are: task.grid, task.label, task.npz, task.num)"),
    ("task=sample run=text.ckpt model=mlp", "model: not used by task=sample (it uses: task.num, task.label, task.grid, task.npz, name, run,"),
    ("task=sample run=text.ckpt task.num=0", "task.num: must be at least 1, got 0"),
    ("task=sample run=text.ckpt task.num=many", "task.num: 'many' is not of type int"),
    ("task=prepare task.source=pictures", "task.target: is required: task.target=…"),
    ("task=evaluate run=text.ckpt metrics=[]", "metrics: at least one is required"),
    ("task=evaluate run=text.ckpt data.batch_size=2", "data: task=evaluate uses the run's data; to set data.batch_size, choose data too: data=… data.batch_size=…"),
    # a mistake in a file, or around it
    ("--config-dir=nowhere", "--config-dir: there is no folder nowhere"),
    ("--config-dir=mine experiment=option", "experiment/option.yaml: loss=hinges: there is no such option; did you mean hinge?"),
    ("--config-dir=mine experiment=key", "experiment/key.yaml: sead: there is no such key; did you mean seed?"),
    ("--config-dir=mine experiment=typed", "experiment/typed.yaml: trainer.max_step: there is no such key; did you mean trainer.max_steps?"),
    ("--config-dir=mine experiment=nested", "model.d_stepz: ganexp.systems.gan.GAN has no such argument; did you mean d_steps?"),
    ("--config-dir=mine experiment=kind", "trainer.max_steps: Value 'many'"),
    ("--config-dir=mine experiment=syntax", "a config file is not YAML"),
    ("--config-dir=mine experiment=lost", "name: ${data.nmae} stands for a key, and there is no such key"),
    ("--config-dir=nulls experiment=key", "nulls/experiment/key.yaml: has null as a key, in line 2; write it in quotes"),
    ("--config-dir=mine experiment=options", "experiment=options: there is no such option; did you mean option?"),
    ("--config-path=mine", "--config-path: is not supported"),
    ("trainer.max_steps", "the command line cannot be parsed"),
    ("-m loss=bce,hing", "loss=hing: there is no such option; did you mean hinge?"),
    ("-m seed=1,b", "seed: Value 'b'"),
    ("-m seed=interval(0,1)", "seed: seed=interval(0,1) is not a list of values"),
    ("-m seed=1,2 --cfg job", "-m: starts a sweep"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that can be wrong with a file."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_images(folder / "pictures")
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    for name in ("a.png", "b.png"):
        (folder / "broken" / name).write_bytes(b"no picture")
    write_idx(folder / "damaged" / "MNIST" / "raw")
    labels = folder / "damaged" / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-3])

    (folder / "text.ckpt").write_text("no checkpoint")
    (folder / "report.json").write_text('{"status": "finished"}')
    torch.save({"weights": torch.zeros(2)}, folder / "other.ckpt")
    (folder / "cut.ckpt").write_bytes((folder / "other.ckpt").read_bytes()[:300])
    torch.save({"code": os.system}, folder / "code.ckpt")
    for name, node in {
        "target": {"_target_": "os.system", "command": "touch hacked"},
        "indirect": {"_target_": "ganexp.data.module.torch.os.system", "command": "touch hacked"},
        "environment": {"_target_": "ganexp.latents.Normal", "dim": "${oc.env:HOME}"},
    }.items():
        torch.save({"config": {"model": node}, "state_dict": {}, "global_step": 1, "format": 3}, folder / f"{name}.ckpt")
    with zipfile.ZipFile(folder / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))
    with zipfile.ZipFile(folder / "climbs.ckpt", "w") as archive:
        archive.writestr("../../hacked", "")
    torch.save({"config": {}, "state_dict": {"w": torch.zeros(1000)}, "global_step": 1}, folder / "flipped.ckpt")
    content = bytearray((folder / "flipped.ckpt").read_bytes())
    content[content.index(bytes(2000)) + 1000] ^= 1
    (folder / "flipped.ckpt").write_bytes(content)
    whole = {"config": {}, "state_dict": {}, "global_step": 1}
    for name, number in {"older": {}, "first": {"format": 1}, "newer": {"format": 4}}.items():
        torch.save(whole | number, folder / f"{name}.ckpt")
    normal = {"_target_": "ganexp.latents.Normal", "dim": 2}
    torch.save({"config": {"model": "abc"}, "state_dict": {}, "global_step": 1, "format": 3}, folder / "words.ckpt")
    torch.save({"config": {"model": normal}, "state_dict": {}, "global_step": 1, "format": 3}, folder / "part.ckpt")
    torch.save({"config": {"model": normal}, "state_dict": {}, "global_step": "1", "format": 3}, folder / "step.ckpt")

    experiments = folder / "mine" / "experiment"
    experiments.mkdir(parents=True)
    for name, text in {
        "option": "defaults:\n  - override /loss: hinges\n",
        "key": "sead: 3\n",
        "typed": "trainer: {max_step: 3}\n",
        "nested": "model: {d_stepz: 3}\n",
        "kind": "trainer: {max_steps: many}\n",
        "syntax": "trainer: {max_steps: [1\n",
        "lost": "name: ${data.nmae}\n",
    }.items():
        (experiments / f"{name}.yaml").write_text(f"# @package _global_\n{text}")
    (folder / "nulls" / "experiment").mkdir(parents=True)
    (folder / "nulls" / "experiment" / "key.yaml").write_text("name: x\nnull: 3\n")
    return folder


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "line, expected",
    [pytest.param(*each, marks=() if i % 4 == 0 else pytest.mark.slow) for i, each in enumerate(MISTAKES)],
    ids=[line for line, _ in MISTAKES],
)
def test_mistake_gives_one_message_and_writes_nothing(
    line: str, expected: str, place: Path, cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    before = contents(place)
    words = line.split()
    answer = cli(*words)
    assert answer.code == 2, (answer.code, answer.out, answer.err)
    assert expected in answer.err
    said = [text for text in answer.err.splitlines() if text.strip()]
    assert len(said) == 1 and said[0].startswith("ganexp: "), answer.err
    assert contents(place) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
@pytest.mark.parametrize("line", ["hardware=gpu", "hardware=ddp", "hardware.precision=16-mixed"])
def test_missing_gpu_is_named_in_one_message(line: str, cli: Callable[..., Answer]) -> None:
    answer = cli(line)
    assert answer.code == 2 and "GPU" in answer.err and "cpu" in answer.err.lower()


def test_mnist_offline_names_the_files(cli: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ganexp.data.mnist import FILES, MNIST

    monkeypatch.setattr(MNIST.dataset, "mirrors", [f"file://{tmp_path}/nothing/"])
    answer = cli("data=mnist", "data.root=here/data")
    assert answer.code == 2
    assert all(name in answer.err for name in FILES) and "here/data/MNIST/raw" in answer.err
    assert contents(tmp_path) == []


QUICK = """
import sys
from ganexp.cli.main import main
for line in sys.argv[1:]:
    sys.argv = ["ganexp", *line.split()]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == (0 if line.startswith("--") else 2), (line, ended.code)
    assert "torch" not in sys.modules, line
"""
LINES = [
    "--help", "--cfg job", "--cfg job --resolve", "--cfg job task=sample", "--help data=folder", "model=dcgann",
    "trainer.max_steps=x", "+sead=1", "-m loss=bce,hing",
]  # fmt: skip


@pytest.mark.slow
def test_composing_does_not_import_torch(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", QUICK, *LINES], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == []
