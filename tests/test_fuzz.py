"""Random command lines and damaged files: the result is a run, or one message.

The contract of every case: it ends within a minute, with
- exit code 0: it ran; or
- exit code 2: exactly one line on stderr, which begins with `ganexp: `, no traceback, no other warning, and every file and folder
  is unchanged; or
- exit code 1, for errors that could not be found before the first step (UNFORESEEN): one `ganexp: ` line that names the error.
Functions that read a file directly return its content, or raise a documented exception with a one-line message.
"""

from __future__ import annotations

import atexit
import gzip
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from conftest import NARROW_ALL, Answer, write_idx, write_images
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import CSVLogger

from ganexp import sampling
from ganexp.callbacks.record import Record
from ganexp.cli.build import one_line
from ganexp.cli.config import compose_config, config_tree, resolved
from ganexp.cli.messages import ConfigError, options
from ganexp.cli.overrides import parse, with_paths
from ganexp.data.folder import Folder
from ganexp.data.mnist import MNIST, FashionMNIST
from ganexp.runtime.continuing import Past, truncate_metrics
from ganexp.runtime.places import is_inside
from ganexp.runtime.restoring import restore
from ganexp.tasks.resume import newest, read_config

HOME = tempfile.mkdtemp(prefix="hypothesis-")
set_hypothesis_home_dir(HOME)  # nothing of it stays in the working tree
atexit.register(shutil.rmtree, HOME, True)
# The timeout's thread leaves SIGALRM to `within`.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600, method="thread")]

SECONDS = 60  # more is a hang
ROOM = 6 << 30  # bytes of address space beyond what the process has: a huge size is refused by the system, at once
GUARD = [
    "hardware=cpu", "data.batch_size=8", "trainer.max_steps=3", "trainer.log_every=1", "trainer.samples_every=2",
    "trainer.metrics_every=2", "trainer.checkpoint_every=2", "trainer.num_samples=4", "extractor=random",
]  # fmt: skip
UNFORESEEN = ["NaN or infinite", "diverged"]  # what exit code 1 may say
COUNTS: dict[str, Counter[str]] = {}  # by test: how many were runs, mistakes, failures


def fuzz(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


# -- judging a case ----------------------------------------------------------------------------------------------------


class Hang(BaseException):
    """Of no class that the package catches."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises Hang after so many seconds; huge allocations fail at once."""

    def hang(number: int, frame: Any) -> None:
        raise Hang(f"still running after {seconds} s")

    before, limits = signal.signal(signal.SIGALRM, hang), resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").is_file() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, limits[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def settle(case: str, call: Callable[[], str]) -> None:
    """Run a case and count what it came to: `run`, `mistake` or `failure`. Whatever it raises fails the test, with the case."""
    test = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0]
    try:
        with within(SECONDS):
            outcome = call()
    except (Hang, Exception) as error:
        raise AssertionError(f"{test} {case} {type(error).__name__}: {error}") from error
    COUNTS.setdefault(test, Counter())[outcome] += 1


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below, and a hash of each file."""
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def as_at_the_prompt() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings that Python would print there; pytest would keep them to itself."""
    with warnings.catch_warnings(record=True) as printed:
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        yield printed


def judge(answer: Answer, printed: list[warnings.WarningMessage], changed: set[str]) -> str:
    """What the answer is, if it is one that the contract knows."""
    lines = [line for line in answer.err.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("ganexp: ")]
    assert "Traceback" not in answer.err, answer.err
    if answer.code == 0:
        return "run"
    if answer.code == 2:
        assert len(lines) == 1 and ours == lines and answer.err.count("\n") == 1, f"not one line: {answer.err}"
        assert len(lines[0]) > len("ganexp: ") + 5, f"says nothing: {answer.err}"
        assert "frame #" not in answer.err, f"a stack trace of C++: {answer.err[:500]}"
        assert not printed, f"beside the message: {[str(w.message)[:300] for w in printed]}; {answer.err}"
        assert not changed, f"left behind: {sorted(changed)}; {answer.err}"
        return "mistake"
    assert answer.code == 1, f"exit code {answer.code}: {answer.err}"
    assert len(ours) == 1 and len(ours[0]) > len("ganexp: Error: ") + 5, f"not one clear message: {answer.err}"
    assert any(text in ours[0] for text in UNFORESEEN), f"could have been seen before the first step: {answer.err}"
    return "failure"


Attempt = Callable[..., None]


@pytest.fixture
def attempt(cli: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """A command line in a fresh folder, which `fill` may put something into, judged.

    `about`: what there is to know about the case beside the words. `trains`: a run leaves a run.json that says so.
    """
    for data in (MNIST, FashionMNIST):
        monkeypatch.setattr(data.dataset, "mirrors", [f"file://{tmp_path}/nothing/"])  # never the network
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    paths = list(sys.path)

    def call(*words: str, fill: Callable[[Path], object] = lambda folder: None, about: str = "", trains: bool = False) -> None:
        folder = tmp_path / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        fill(folder)
        os.chdir(folder)
        sys.path[:] = paths
        before = snapshot(folder)

        def run() -> str:
            with as_at_the_prompt() as printed:
                answer = cli(*words)
            after = snapshot(folder)
            if answer.code == 0 and trains:
                records = [json.loads(file.read_text()) for file in folder.rglob("run.json")]
                said = [f"{record['status']} at step {record['steps']}" for record in records]
                assert any(one.startswith("finished") and not one.endswith(" 0") for one in said), f"did not train: {said}"
            return judge(answer, printed, {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)})

        try:
            settle(f"python -m ganexp {' '.join(map(repr, words))} {about}", run)
        finally:
            os.chdir(tmp_path)

    return call


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of points and one of images, in three steps each, and data."""
    from ganexp.cli.main import main

    folder = tmp_path_factory.mktemp("made")
    write_idx(folder / "MNIST" / "raw")
    write_images(folder / "pictures")
    here, argv = os.getcwd(), sys.argv
    os.chdir(folder)
    try:
        for name, choices in {
            "points": ["model=mlp", "data=sine", "schedule=linear", "callbacks.metrics.num=32"],
            "images": ["model=cdcgan", "data=digits", "callbacks.metrics.num=32"],
        }.items():
            sys.argv = ["ganexp", *choices, *GUARD, *NARROW_ALL, f"hydra.run.dir={name}"]
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code
    finally:
        os.chdir(here)
        sys.argv = argv
    return folder


# -- command lines -----------------------------------------------------------------------------------------------------

RECIPES: dict[str, list[list[str]]] = {
    "train": [
        ["model=mlp", "data=sine"],
        ["model=mlp_sine", "data=sine", "loss.real=[0.8,1.0]", "metrics=[swd,mmd]"],
        ["model=cdcgan", "regularizer=[r1,wgan_gp]", "augment=[flip]"],
        ["model=dcgan", "data=folder", "data.root={made}/pictures", "data.shape=[3,16,16]", "metrics=[fid,sharpness,diversity]"],
        ["model=acgan", "optimizer=rmsprop", "schedule=cosine"],
        ["model=dcgan", "constraint=[spectral_norm]", "regularizer=[r1]", "anneal=[r1]"],
        ["model=vae", "schedule=linear", "logger=[csv]"],
        ["model=gmmn", "data=sine", "metrics=[]", "callbacks=[checkpoint]", "logger=[]"],
        ["model=mlp", "data=mnist", "data.root={made}", "loss=hinge"],
        ["experiment=sine_mlp_plus"],
    ],
    "sample": [
        ["task=sample", "run={made}/points/checkpoints/last.ckpt"],
        ["task=sample", "run={made}/images/checkpoints/last.ckpt"],
    ],
    "evaluate": [
        ["task=evaluate", "run={made}/points/checkpoints/last.ckpt", "task.num_images=32"],
        ["task=evaluate", "run={made}/images/checkpoints/last.ckpt", "task.num_images=32", "metrics=[fid,swd,diversity]"],
        ["task=evaluate", "run={made}/images/checkpoints/last.ckpt", "task.num_images=32", "data=digits"],
        ["task=evaluate", "task.real={made}/pictures", "task.fake={made}/pictures", "metrics=[prdc,fid]"],
    ],
    "prepare": [["task=prepare", "task.source={made}/pictures", "task.target=set", "task.size=16", "task.workers=1"]],
    "inspect": [["task=inspect", "data=folder", "data.root={made}/pictures"], ["task=inspect", "data=digits"]],
    "compare": [["task=compare", "task.runs=[{made}/points,{made}/images]"]],
    "resume": [["task=resume", "run=run", "trainer.max_steps=5"], ["task=resume", "run=run"]],
}
GROUPS = [
    "model", "model/generator", "model/discriminator", "model/latent", "data", "loss", "regularizer", "augment",
    "constraint", "anneal",
    "optimizer", "schedule", "metrics", "extractor", "callbacks", "logger", "hardware", "task", "experiment", "hydra/launcher",
]  # fmt: skip
INTS = ["-1", "0", "1", "2", "3", "5", "7", "33", "-9", "+4", "1_0", "0x10", "007"]
HUGE = [str(n) for n in (2**31, 2**32, 2**63, 10**30, -(2**31), -(10**30))]
FLOATS = ["0.5", "-0.5", "1.0", "2.0", ".5", "1e-30", "1e30", "-1e30", "1e400", "nan", "inf", "-inf", "1e-3", "0.999"]
TEXTS = [
    "x", "''", '""', "none", "é", "日本", "😀", "\u202e", "a b", "'a,b'", "%s", "%(a)s", "{run_dir}", "'{run_dir}'", "???",
    "'???'", "a/b", "\udcff", "\\n", "'\n'", "a\tb", "C:\\x", "ganexp.losses.BCE", "_target_", "' '", ".", "..", "x" * 300,
]  # fmt: skip
BOOLS = ["true", "false", "on", "null", "~"]
LISTS = [
    "[]",
    "[1]",
    "[1,2]",
    "[3,16,16]",
    "[1,8,8]",
    "[0.5,0.9]",
    "[-1]",
    "[0]",
    "[[1]]",
    "[a,1.5,null]",
    "[nan,inf]",
    "[8,8,8,8]",
    "[true]",
]
DICTS = [
    "{}",
    "{a:1}",
    "{a:{b:[1]}}",
    "{_target_:ganexp.losses.BCE}",
    "{_target_:ganexp.nothing}",
    "{_target_:3}",
    "{1:2}",
    "{'a b':null}",
]
REFERENCES = [
    "${seed}", "${data.shape}", "${model}", "${name}", "${nothing}", "${now:%Y}", "${oc.env:NOTHING}", "${hydra:runtime.cwd}",
    "${hydra:nothing}", "${scaled:1,2}", "${scaled:a,b}", "${scaled:1}", "${plus:1,a}", "${plus:1}", "${", "${}", "${a", "$",
    "${.seed}", "${..seed}", "${oc.decode:'['}", "${oc.create:{a:1}}", "${oc.select:x}", "${trainer}", "x${seed}x", "\\${seed}",
    "${a:${b:${c}}}",
]  # fmt: skip
TARGETS = [
    "ganexp.losses.BCE",
    "ganexp.losses.Hinge",
    "ganexp",
    "ganexp.nothing.X",
    "math.pi",
    "torch.nn.Identity",
    "builtins.dict",
    "a..b",
    ".",
]
GRAMMAR = [
    "", "=", "seed", "=3", "seed==3", "seed= 3", "seed=3 ", "seed =3", "seed=[1,2", "seed={a:1", "seed='x", 'seed="x',
    "seed=1,2", "seed=choice(1,2)", "seed=range(1,3)", "seed=interval(0,1)", "seed=glob(*)", "seed=sort(3,2)", "seed=int(3.7)",
    "seed=float(1)", "seed=str(1)", "seed=int(x)", "seed=json_str({a:1})", "seed=extend_list(1)", "trust=extend_list(a)",
    "model.classes=extend_list(1)", "seed=tag(a,1)", "seed=shuffle(1,2)", "seed=nothing(1)", "@", "a@b=c", "model@seed=mlp",
    "model@x.y=mlp", "model@:x=mlp", "loss@=bce", "a:b=c", "~", "~~seed", "~seed=0", "~seed=1", "+", "++", "++seed=1",
    "+seed=1", "+~seed", ".", "seed.", ".seed=1", "a..b=1", "seed[0]=1", "seed.0=1", "data.shape.0=1", "data.shape[0]=3",
    "data.shape.9=3", "+data.shape.3=1", "~data.shape.0", "model.generator.hidden.0=1", "hydra=x", "hydra.run=x",
    "hydra.job.name=x", "+hydra.x=1", "hydra.verbose=x", "hydra.mode=x", "hydra.mode=MULTIRUN", "~hydra", "hydra.run.dir=",
    "hydra.run.dir=x", "hydra.run.dir=null", "hydra.run.dir=[1]", "hydra.run.dir='a\nb'", "hydra.job.chdir=true",
    "hydra.output_subdir=null", "hydra.output_subdir=x", "hydra.job_logging=null", "hydra/job_logging=none",
    "hydra/job_logging=x", "hydra.searchpath=[x]", "hydra.searchpath=[pkg://nothing]", "hydra.callbacks={a:{_target_:x}}",
    "hydra.job.env_set={A:b}", "hydra.job.config.override_dirname.item_sep=x", "hydra.runtime.output_dir=x",
    "hydra.hydra_logging=null", "hydra/help=x", "schema=3", "config=x", "_self_=x", "defaults=[]", "+defaults=[model]",
    "_target_=x", "+_target_=x", "package=x", "é=1", "日本=1", "\udcff=1", "data.shape=[1,8,8", "name='a'b", "name=a'b",
    "name=a\\,b", "name=a,b", "name=\\", "model={}", "model=[mlp]", "data=[]", "loss={}", "trainer={}", "trainer=null",
    "trainer=[]", "trainer=3", "optimizer={}", "optimizer.generator={}", "optimizer.generator=null", "schedule={}",
    "metrics={}", "task={}", "task.needs=[]", "task.needs=null", "task.optional=[x]",
    "task.in_run_folder=true", "task._target_=x", "task._target_=ganexp.losses.BCE", "~task",
    "~model", "~trainer", "~trainer.log_window", "~data", "~name", "~metrics", "~callbacks", "~logger", "~hardware", "~optimizer",
    "~loss", "~schedule", "~metrics.swd", "~callbacks.samples", "~logger.csv", "~optimizer.generator",
    "~optimizer.discriminator", "metrics=[swd,swd]", "metrics=[[swd]]", "metrics=[null]", "regularizer=[r1,r1]", "callbacks=[]",
    "callbacks=[progress]", "logger=[]", "+metrics=fid", "+metrics=[fid]", "+regularizer/r1=x", "run=x",
    "+model/discriminator@model.encoder=mlp",
    "run=latest", "checkpoint=x", "num=3", "task.num=3", "task.label=1", "task.grid=false", "task.num_images=8",
    "task.real=x", "trust=[x]", "trust=x", "trust=null", "trust=[null]",
    "trust=[3]", "trust=[[]]", "trust=[os]", "trust=[/]",
    "resume=auto", "resume=x", "data.root=a b", "data.root=it's", "data.root=(a",
    "hydra.launcher.n_jobs=0", "seed=range(1,5,0)", "run=a#b", "start_from=a&b",
]  # fmt: skip
HARDWARE = [
    "fast_dev_run=true", "fast_dev_run=1", "limit_train_batches=0", "limit_train_batches=2", "limit_train_batches=0.5",
    "overfit_batches=1", "max_time=x", "max_time=00:00:01:00", "min_steps=1", "min_epochs=1", "deterministic=true",
    "deterministic=warn", "detect_anomaly=true", "barebones=true", "benchmark=true", "inference_mode=false",
    "default_root_dir=x", "profiler=x", "profiler=simple", "plugins=x", "plugins=[]", "strategy=x", "strategy=auto",
    "num_nodes=2", "num_nodes=0", "num_sanity_val_steps=-7", "val_check_interval=0", "check_val_every_n_epoch=x",
    "reload_dataloaders_every_n_epochs=1", "reload_dataloaders_every_n_epochs=-1", "model_registry=x", "sync_batchnorm=true",
    "logger=false", "callbacks=x", "max_epochs=1", "enable_progress_bar=true", "enable_autolog_hparams=x",
    "gradient_clip_algorithm=x", "precision=64-true",
]  # fmt: skip
# A word that would make a run long or many processes: these take small numbers only, and no reference to others.
LONG = re.compile(r"max_steps|num|g_steps|devices|points|directions|keep|batch_size|trainer=|widths|layers")
WRITES = re.compile(
    r"(folder|gif|save_dir|dir|root|name|version|run|checkpoint)\b.*=.*(\.\.|=['\"]*/|~/)"
)  # outside of the case's folder


def harmless(word: str) -> bool:
    key, _, value = word.partition("=")
    if LONG.search(word) and (re.search(r"\d{3}|\de\d|0x", value) or ("${" in value and "nothing" not in value)):
        return False
    if "devices" in key and re.search(r"[2-9]|\d\d|-1|auto", value):
        return False
    return not (WRITES.search(word) or "strategy=ddp" in word or "ddp" in value or word.startswith("-"))


@lru_cache
def tree(recipe: tuple[str, ...]) -> list[tuple[str, Any]]:
    """Every full key of a recipe's config, branches too, with its value."""
    with config_tree():
        config = resolved(compose_config([word.replace("{made}", "x") for word in recipe], "config"))

    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            yield f"{path}{key}", value
            if isinstance(value, dict):
                yield from walk(value, f"{path}{key}.")

    return list(walk(config, ""))


ANYTHING = [*INTS, *HUGE, *FLOATS, *TEXTS, *BOOLS, *LISTS, *DICTS, *REFERENCES, *TARGETS]
PLAUSIBLE: dict[type, list[str]] = {
    bool: ["true", "false"],
    int: ["0", "1", "2", "3", "5", "8", "10", "null"],
    float: ["0", "0.5", "1.0", "2", "0.999", "1e-3", "1e-30", "null"],
    list: ["[1]", "[0.5,0.9]", "[0.5,0.5]", "[8]", "[8,8]", "[2]", "[1,8,8]", "[]"],
    str: ["x", "a/b", "null", "cpu", "auto", "pad", "32-true", "bf16-mixed", "swd/pixels", *TARGETS],
    dict: ["{}", "null", "{a:1}"],
    type(None): ["null", "0", "1", "10", "0.5", "x", "true", "[0.5]"],
}
ALIKE = {bool: BOOLS, int: [*INTS, *HUGE, *FLOATS], float: [*INTS, *HUGE, *FLOATS], list: LISTS, dict: DICTS}


def value(random: Random, current: Any) -> str:
    """What might stand where `current` does: mostly of its kind, often right."""
    likely = PLAUSIBLE[type(current)]
    return random.choice(random.choice([likely, likely, likely, ALIKE.get(type(current), TEXTS), ANYTHING]))


def misspelled(random: Random, word: str) -> str:
    i = random.randrange(len(word))
    slips = [word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:], word[:i] + word[i:].swapcase(), word[:i] + "x" + word[i:]]
    return random.choice([*slips, word + ".", word + "é", "." + word, word.replace(".", "..", 1), word.replace("_", "-")])


@lru_cache
def options_of(group: str) -> list[str]:
    with config_tree():
        return options(group)


def choice(random: Random) -> str:
    """GROUP=OPTION, right or wrong."""
    group = random.choice(GROUPS)
    right = random.choice(options_of(group))
    wrong = [misspelled(random, right), random.choice(options_of("model")), random.choice(ANYTHING)]
    option = random.choice([right] * 6 + wrong)
    odd = ["{}=[{}]", "{}=[{},{}]", "+{}={}", "~{}", "~{}={}", "++{}={}", "{}@x={}", "{}/x={}", "{}.{}=1"]
    return random.choice(["{}={}"] * 12 + odd).format(group, option, option)


def setting(random: Random, recipe: tuple[str, ...]) -> str:
    """KEY=VALUE, of a real key or one near it."""
    leaves = [pair for pair in tree(recipe) if not isinstance(pair[1], dict)]
    key, current = random.choice(random.choice([leaves] * 7 + [tree(recipe)]))
    kind = random.randrange(16)
    if kind == 0:
        key = misspelled(random, key)
    elif kind == 1:
        key += random.choice([".x", ".0", "[0]", ".x.y", "._target_", ".seed", "/x", "@x", ":x"])
    sign = random.choice([""] * 12 + ["+", "++", "++", "~"])
    return f"{sign}{key}" + ("" if sign == "~" and random.random() < 0.5 else f"={value(random, current)}")


def word(random: Random, recipe: tuple[str, ...]) -> str:
    noise = "".join(random.choices("=,:.[]{}()$~+@!'\"\\ #%&*;<>?|^`\tase1é", k=random.randint(1, 9)))
    others = [
        random.choice(GRAMMAR),
        random.choice(GRAMMAR),
        f"+hardware.{random.choice(HARDWARE)}",
        random.choice(["", "name="]) + noise,
    ]
    return random.choice([setting(random, recipe) for _ in range(8)] + [choice(random) for _ in range(3)] + others)


def command_line(task: str, random: Random) -> list[str]:
    """A recipe of the task, a fuzzed word or three, and the guard where no word speaks of the same."""
    recipe = random.choice(RECIPES[task])
    wanted = random.choice([1, 1, 2, 3])
    fuzzed: list[str] = []
    while len(fuzzed) < wanted:
        fuzzed += filter(harmless, [word(random, tuple(recipe))])
    guard = {
        "train": [*GUARD, *NARROW_ALL],
        "sample": ["hardware=cpu"],
        "evaluate": ["hardware=cpu", "extractor=random"],
        "compare": [],
        "prepare": [],
        "inspect": [],
        "resume": [],
    }[task]
    if task == "train" and not any("callbacks" in word for word in [*recipe, *fuzzed]):
        guard.append("callbacks.metrics.num=32")
        guard += ["callbacks=[metrics,checkpoint]"] if random.random() < 0.7 else []  # pictures take longer than the steps
    if task == "train" and not any(re.search("logger|experiment", word) for word in [*recipe, *fuzzed]):
        guard += ["logger=[csv]"] if random.random() < 0.7 else []
    named = {word.lstrip("+~").partition("=")[0] for word in fuzzed} if random.random() < 0.9 else set()
    line = [word for word in [*recipe, *guard] if word.partition("=")[0] not in named]
    for new in fuzzed:
        line.insert(random.choice([0, len(line), len(line)]), new)
    return line


def command_lines(task: str) -> st.SearchStrategy[list[str]]:
    """Each from a seed of its own: Hypothesis would vary one line a hundred times."""
    return st.randoms(use_true_random=True).map(lambda random: command_line(task, random))


def in_place(line: list[str], made: Path) -> list[str]:
    return [word.replace("{made}", str(made)) for word in line]


@fuzz(230)
@given(line=command_lines("train"))
def test_train_survives_random_command_lines(line: list[str], attempt: Attempt, made: Path) -> None:
    attempt(*in_place(line, made), trains=True)


@fuzz(60)
@given(line=command_lines("sample"))
def test_sample_survives_random_command_lines(line: list[str], attempt: Attempt, made: Path) -> None:
    attempt(*in_place(line, made))


@fuzz(60)
@given(line=command_lines("evaluate"))
def test_evaluate_survives_random_command_lines(line: list[str], attempt: Attempt, made: Path) -> None:
    attempt(*in_place(line, made))


@fuzz(20)
@given(line=command_lines("compare"))
def test_compare_survives_random_command_lines(line: list[str], attempt: Attempt, made: Path) -> None:
    attempt(*in_place(line, made))


@fuzz(60)
@given(line=command_lines("prepare"))
def test_prepare_survives_random_command_lines(line: list[str], attempt: Attempt, made: Path) -> None:
    attempt(*in_place(line, made))


@fuzz(30)
@given(line=command_lines("inspect"))
def test_inspect_survives_random_command_lines(line: list[str], attempt: Attempt, made: Path) -> None:
    attempt(*in_place(line, made))


@fuzz(60)
@given(line=command_lines("resume"))
def test_resume_survives_random_command_lines(line: list[str], attempt: Attempt, made: Path) -> None:
    attempt(*in_place(line, made), fill=lambda folder: shutil.copytree(made / "points", folder / "run"))


# -- damaged files -----------------------------------------------------------------------------------------------------


def zipped(content: dict[str, bytes], packed: bool) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file.getvalue()


def drawn(format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(file, format)
    return file.getvalue()


@lru_cache
def others() -> list[bytes]:
    """Files of other formats."""
    return [
        b"", b"\0", b"\0" * 5000, b"no such thing\n", "é日本\n".encode(), b"\xff\xfe\x00", "utf-16".encode("utf-16"),
        drawn("PNG"), drawn("GIF"), gzip.compress(b"text"), zipped({"a.txt": b"text"}, False), zipped({}, False),
        zipped({"archive/data.pkl": b"\0" * (200 << 20)}, True), zipped({"archive/data.pkl": b"\x80\x02}q\x00."}, False),
        zipped({"../x": b"text"}, False), b"PK\x05\x06" + b"\0" * 18, b"\x80\x02}q\x00.",
    ]  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """What happens to a file's bytes: cut, flipped, longer, shorter, blank in the middle, or something else altogether.

    `flips`: the file's size or how many bytes of one of its ends, where in it, and which bit.
    """

    kind: str
    part: float = 0
    size: int = 0
    noise: bytes = b""
    instead: int = 0
    flips: tuple[tuple[int, float, int], ...] = ()

    def __call__(self, content: bytes) -> bytes | None:
        """The damaged file; None for a folder in its place."""
        at = int(self.part * len(content))
        if self.kind == "flip":
            return self.flipped(content)
        return {
            "cut": content[:at],
            "insert": content[:at] + self.noise + content[at:],
            "remove": content[:at] + content[at + self.size :],
            "blank": content[:at] + bytes(min(self.size, len(content) - at)) + content[at + self.size :],
            "append": content + self.noise,
            "twice": content * 2,
            "pack": gzip.compress(content),
            "folder": None,
            "other": others()[self.instead % len(others())],
        }[self.kind]

    def flipped(self, content: bytes) -> bytes:
        data = bytearray(content)
        for side, part, bit in self.flips:
            length = min(len(data), abs(side) or len(data))
            at = min(int(part * length), length - 1)
            data[at if side >= 0 else len(data) - 1 - at] ^= 1 << bit
        return bytes(data)


def flips(most: int) -> st.SearchStrategy[Damage]:
    """Up to so many bits, anywhere or near an end, where the formats have their structure."""
    one = st.tuples(st.sampled_from([0, 0, 200, -200, -4096]), st.floats(0, 1), st.integers(0, 7))
    return st.lists(one, min_size=1, max_size=most).map(lambda f: Damage("flip", flips=tuple(f)))


def damages() -> st.SearchStrategy[Damage]:
    def one(kind: str, **what: st.SearchStrategy[Any]) -> st.SearchStrategy[Damage]:
        return st.builds(Damage, st.just(kind), **what)

    part, size, noise = st.floats(0, 1), st.integers(1, 600), st.binary(min_size=1, max_size=40)
    return st.one_of(
        flips(8), flips(8), one("cut", part=part), one("insert", part=part, noise=noise), one("remove", part=part, size=size),
        one("blank", part=part, size=size), one("append", noise=noise), one("twice"), one("pack"), one("folder"),
        one("other", instead=st.integers(0, 999)), one("other", instead=st.integers(0, 999)),
    )  # fmt: skip


def put(path: Path, content: bytes | None) -> None:
    """A file of this content in the place of whatever is there; None: a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def said(error: Exception) -> str:
    """The outcome of a function that refused: one line that says something."""
    text = str(error) if isinstance(error, ConfigError) else one_line(error)  # as ganexp.cli.build.to_config_error does
    assert len(text) > 10 and "\n" not in text and "Traceback" not in text, repr(text)
    return "mistake"


NODES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.sampled_from([
            -1, 0, 1, 7, 2**63, -(10**30),
        ]), st.sampled_from([0.5, float("nan"), float("inf")]),
        st.sampled_from(["", "x", "é", "3", "${seed}", "ganexp.losses.BCE", "os.system", "null", "a b", "{run_dir}/x"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([
            "_target_", "_partial_", "_args_", "a", "seed", "model", "defaults", "name", "",
        ]), inner, max_size=3),
    ),
    max_leaves=6,
)  # fmt: skip
PLACES = st.tuples(st.floats(0, 0.999), st.sampled_from(["set", "set", "set", "remove", "rename"]), NODES)


def changed(tree: Any, change: tuple[float, str, Any], top: bool = False) -> Any:
    """The tree with one of its nodes replaced, removed or renamed. `top`: one of the first level."""
    part, kind, new = change
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []):
            places.append((node, key))
            if not top:
                walk(node[key])

    walk(tree)
    node, key = places[int(part * len(places))]
    if kind == "set":
        node[key] = new
    elif kind == "remove" or isinstance(node, list):
        del node[key]
    else:
        node[f"{key}x"] = node.pop(key)
    return tree


@lru_cache
def checkpoint(made: Path, name: str = "points") -> bytes:
    return (made / name / "checkpoints" / "last.ckpt").read_bytes()


@lru_cache
def samples(made: Path, name: str) -> torch.Tensor:
    return sampling.sample(restore(made / name / "checkpoints" / "last.ckpt", [])[0], 8, seed=0)


def restored(file: Path, whole: torch.Tensor | None = None) -> str:
    """Whether a checkpoint is refused; else it can be drawn from, and if `whole` is given gives that."""
    try:
        system, _, _ = restore(file, [])
    except ConfigError as mistake:
        return said(mistake)
    again = sampling.sample(system, 8, seed=0)
    assert whole is None or torch.equal(again, whole), "a damaged checkpoint draws something else"
    return "run"


@fuzz(220)
@given(name=st.sampled_from(["points", "images"]), damage=flips(3))
def test_checkpoint_with_flipped_bits_is_refused_or_samples_the_same(
    name: str, damage: Damage, made: Path, tmp_path: Path
) -> None:
    """Refused, or draws exactly what the whole one draws."""
    put(tmp_path / "x.ckpt", damage(checkpoint(made, name)))
    settle(f"{name} {damage}", lambda: restored(tmp_path / "x.ckpt", samples(made, name)))


@fuzz(200)
@given(damage=damages())
def test_damaged_checkpoint_is_refused_or_samples_the_same(damage: Damage, made: Path, tmp_path: Path) -> None:
    put(tmp_path / "x.ckpt", damage(checkpoint(made)))
    settle(str(damage), lambda: restored(tmp_path / "x.ckpt", samples(made, "points")))


def other_checkpoint(made: Path, change: Any, top: bool, file: Path) -> None:
    """A whole file, whose content is not what ganexp wrote."""
    file.unlink(missing_ok=True)
    content = torch.load(io.BytesIO(checkpoint(made)), weights_only=True)
    content["state_dict"] = dict(content["state_dict"])
    torch.save(changed(content, change, top), file)


@fuzz(200)
@given(change=PLACES, top=st.sampled_from([False, False, True]))
def test_checkpoint_of_other_content_is_refused_or_samples(change: Any, top: bool, made: Path, tmp_path: Path) -> None:
    other_checkpoint(made, change, top, tmp_path / "x.ckpt")
    settle(f"{change} {top}", lambda: restored(tmp_path / "x.ckpt"))


@fuzz(15)
@given(damage=damages())
def test_sample_refuses_a_damaged_checkpoint(damage: Damage, attempt: Attempt, made: Path) -> None:
    attempt("task=sample", "hardware=cpu", "run=x.ckpt", fill=lambda folder: put(folder / "x.ckpt", damage(checkpoint(made))))


@fuzz(180)
@given(damage=st.lists(damages(), min_size=3, max_size=3), whole=st.integers(0, 3))
def test_newest_whole_checkpoint_is_found(damage: list[Damage], whole: int, made: Path, tmp_path: Path) -> None:
    """Wherever the damaged ones are."""
    names = ["last.ckpt", "step-00000003.ckpt", "step-00000002.ckpt"]
    for i, name in enumerate(names):
        put(tmp_path / "checkpoints" / name, checkpoint(made) if i == whole else damage[i](checkpoint(made)))

    def find() -> str:
        try:
            file, content, notes = newest(tmp_path / "checkpoints")
        except ConfigError as mistake:
            assert whole == 3
            return said(mistake)
        if file is None:
            assert all((tmp_path / "checkpoints" / name).is_dir() for name in names)
            return "run"
        assert names.index(file.name) <= whole and content["global_step"] == 3 and not any("\n" in note for note in notes)
        return "run"

    settle(f"{damage} {whole}", find)


def a_run(made: Path, folder: Path, step: int = 2) -> Path:
    """The run of points in `folder`, as if killed after a step: there is something left to do."""
    shutil.copytree(made / "points", folder / "run")
    for name in ("last.ckpt", "best.ckpt", "step-00000003.ckpt"):
        (folder / "run" / "checkpoints" / name).unlink(missing_ok=True)
    return folder / "run"


@fuzz(20)
@given(change=PLACES, top=st.booleans())
def test_resume_survives_a_checkpoint_of_other_content(change: Any, top: bool, attempt: Attempt, made: Path) -> None:
    def fill(folder: Path) -> None:
        other_checkpoint(made, change, top, a_run(made, folder) / "checkpoints" / "last.ckpt")

    attempt("task=resume", "run=run", "trainer.max_steps=5", fill=fill, about=f"{change} {top}")


@fuzz(180)
@given(damage=damages())
def test_damaged_config_is_refused_or_read(damage: Damage, made: Path, tmp_path: Path) -> None:
    put(tmp_path / "config.yaml", damage((made / "points" / "config.yaml").read_bytes()))

    def read() -> str:
        try:
            with config_tree():
                read_config(tmp_path / "config.yaml")
        except ConfigError as mistake:
            return said(mistake)
        return "run"

    settle(str(damage), read)


@fuzz(40)
@given(change=PLACES, alone=st.booleans())
def test_resume_survives_a_config_of_other_content(change: Any, alone: bool, attempt: Attempt, made: Path) -> None:
    """`alone`: there is no checkpoint yet, which would know better."""

    def fill(folder: Path) -> None:
        file = a_run(made, folder) / "config.yaml"
        if alone:
            shutil.rmtree(folder / "run" / "checkpoints")
        file.write_text(yaml.safe_dump(changed(yaml.safe_load(file.read_text()), change)))

    guard = ["trainer.max_steps=3", "trainer.num_samples=4", "hardware=cpu"]
    attempt("task=resume", "run=run", *guard, fill=fill, about=f"{change} {alone}")


@fuzz(15)
@given(content=NODES)
def test_resume_survives_a_config_of_any_content(content: Any, attempt: Attempt, made: Path) -> None:
    attempt(
        "task=resume", "run=run", fill=lambda folder: (a_run(made, folder) / "config.yaml").write_text(yaml.safe_dump(content))
    )


@fuzz(24)
@given(
    damage=damages(),
    file=st.sampled_from(["metrics.csv", "run.json", "hparams.yaml", "training.gif", "samples/step-00000000.png", "samples"]),
)
def test_resume_survives_damaged_files_of_the_run(damage: Damage, file: str, attempt: Attempt, made: Path) -> None:
    def fill(folder: Path) -> None:
        path = a_run(made, folder) / file
        put(path, damage(path.read_bytes() if path.is_file() else b"x" * 100))

    attempt("task=resume", "run=run", "trainer.max_steps=3", fill=fill, about=f"{file} {damage}")


@fuzz(120)
@given(damage=damages())
def test_damaged_log_keeps_its_whole_rows(damage: Damage, made: Path, tmp_path: Path) -> None:
    put(tmp_path / "metrics.csv", damage((made / "points" / "metrics.csv").read_bytes()))
    (tmp_path / "metrics.before").unlink(missing_ok=True)

    def keep() -> str:
        try:
            truncate_metrics(CSVLogger(tmp_path, name="", version=""), Past(2))
        except ConfigError as mistake:
            return said(mistake)
        return "run"

    settle(str(damage), keep)


@fuzz(120)
@given(damage=damages())
def test_damaged_run_json_is_refused_or_read(damage: Damage, made: Path, tmp_path: Path) -> None:
    put(tmp_path / "run.json", damage((made / "points" / "run.json").read_bytes()))

    def read() -> str:
        try:
            Record(tmp_path, {}, {})
        except ConfigError as mistake:
            return said(mistake)
        return "run"

    settle(str(damage), read)


@fuzz(170)
@given(damage=damages(), file=st.sampled_from(["train-images", "train-images", "train-labels", "t10k-images", "t10k-labels"]))
def test_damaged_mnist_files_are_refused_or_read(
    damage: Damage, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ValueError or FileNotFoundError, as the class says, and the folder is unchanged."""
    monkeypatch.setattr(MNIST.dataset, "mirrors", [f"file://{tmp_path}/nothing/"])
    raw = tmp_path / "MNIST" / "raw"
    if not raw.is_dir():
        write_idx(raw)
    path = next(raw.glob(f"{file}-*"))
    content = path.read_bytes()
    put(path, damage(content))
    before = snapshot(tmp_path)

    def load() -> str:
        data = MNIST(str(tmp_path), [1, 28, 28], 10, 8, 0)
        try:
            data.prepare()
        except (ValueError, FileNotFoundError) as error:
            assert snapshot(tmp_path) == before
            return said(error)
        assert len(data.x) == len(data.y) == 64
        return "run"

    try:
        settle(f"{file} {damage}", load)
    finally:
        put(path, content)


@fuzz(220)
@given(
    damage=damages(),
    kind=st.sampled_from(["png", "jpg", "gif", "bmp", "webp", "png"]),
    few=st.booleans(),
    channels=st.integers(1, 4),
)
def test_damaged_pictures_are_left_out_or_refused(damage: Damage, kind: str, few: bool, channels: int, tmp_path: Path) -> None:
    """One in a hundred is left out and noted; one of few is refused."""
    folder = tmp_path / "pictures"
    if not folder.is_dir():
        write_images(folder, 100, (12, 10))
    shutil.rmtree(tmp_path / "few", ignore_errors=True)
    root = tmp_path / "few" if few else folder
    put(root / f"bad.{kind}", damage(drawn("JPEG" if kind == "jpg" else kind.upper())))

    def load() -> str:
        data = Folder(str(root), [channels, 8, 8], 0, 2, 0)
        try:
            data.prepare()
        except (ValueError, FileNotFoundError) as error:
            assert few
            return said(error)
        return "run"

    try:
        settle(f"{kind} {few} {damage}", load)
    finally:
        put(folder / f"bad.{kind}", b"")
        (folder / f"bad.{kind}").unlink()


OPTION = b"""# @package _global_
defaults:
  - override /model: mlp
  - override /data: sine
  - override /loss: hinge
name: mine
model: {generator: {hidden: [8]}, discriminator: {hidden: [8]}, d_steps: 2}
trainer: {max_steps: 2}
"""
DEFAULTS = st.one_of(
    NODES,
    st.lists(
        st.one_of(
            NODES,
            st.sampled_from([
                "gan", "_self_", "/model", "mine", "/experiment/mine", {"override /loss": "hinge"}, {"override /loss": "hing"},
                {"/loss": "bce"}, {"override /nothing": "x"}, {"override loss": None}, {"override /metrics": ["fid"]},
                {"optional /loss": "x"}, {"loss@x": "bce"}, {"override /loss": ["bce"]}, {"override /metrics": "fid"},
                {"override /model": None}, {"/model/latent@x": "normal"},
            ]),
        ),
        max_size=3,
    ),
)  # fmt: skip


@fuzz(20)
@given(damage=damages())
def test_damaged_own_option_is_refused_or_trains(damage: Damage, attempt: Attempt, made: Path) -> None:
    words = ["--config-dir=mine", "experiment=mine", *GUARD]
    attempt(*words, fill=lambda folder: put(folder / "mine" / "experiment" / "mine.yaml", damage(OPTION)), about=str(damage))


CONTENTS = st.one_of(
    st.dictionaries(
        st.sampled_from(
            [
                "_target_",
                "name",
                "seed",
                "trainer",
                "model",
                "loss",
                "data",
                "a",
                "${a}",
                "é",
                "x.y",
                "real",
                "hydra",
            ]
        ),
        NODES,
        max_size=3,
    ),
    PLACES.map(lambda change: changed(yaml.safe_load(OPTION), change)),
)


@fuzz(60)
@given(
    group=st.sampled_from(
        ["experiment"] * 5
        + [
            "loss",
            "model",
            "data",
            "metrics",
            "callbacks",
            "optimizer",
            "task",
            "hardware",
        ]
    ),
    header=st.sampled_from(["# @package _global_\n"] * 3 + ["", "# @package loss\n", "# @package\n", "# @package a b\n"]),
    content=CONTENTS,
    defaults=st.one_of(st.none(), st.none(), DEFAULTS),
)
def test_own_option_of_any_content_is_refused_or_trains(
    group: str, header: str, content: Any, defaults: Any, attempt: Attempt
) -> None:
    content = content | ({"defaults": defaults} if defaults is not None else {})
    text = header + yaml.safe_dump(content, allow_unicode=True)
    option = f"{group}=[mine]" if group in ("metrics", "callbacks") else f"{group}=mine"
    guard = [word for word in [*GUARD, *NARROW_ALL] if not word.startswith(f"{group}=")]
    attempt(
        "--config-dir=mine", option, *guard, fill=lambda f: put(f / "mine" / group / "mine.yaml", text.encode()), about=repr(text)
    )


# -- folders of strangers, caches, paths -------------------------------------------------------------------------------


@fuzz(320)
@given(damage=damages(), name=st.sampled_from(["pixels.npy", "pixels.npy", "about.json", "pointer"]))
def test_damaged_cache_gives_the_right_pictures(
    damage: Damage, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "eight"
    if not root.is_dir():
        write_images(root, 8, (12, 10))

    def load() -> torch.Tensor:
        data = Folder(str(root), [3, 8, 8], 0, 2, 0)
        data.prepare()
        return data.take(torch.arange(len(data.x))).clone()

    right, images = load(), tmp_path / "cache" / "ganexp" / "images"
    found = [file for file in images.rglob("*") if file.is_file() and file.suffix != ".lock"]
    (file,) = [file for file in found if (file.parent.name == "stamps" if name == "pointer" else file.name == name)]
    put(file, damage(file.read_bytes()))

    def again() -> str:
        assert load().equal(right)
        return "run"

    try:
        settle(f"{name} {damage}", again)
    finally:
        shutil.rmtree(tmp_path / "cache")


PLACES_TRIED = ["{run_dir}", "/", "..", ".", "~", "a", "\\\\", "é", " ", "", "\x00", "\x1b[2J", "//", "{run_dir}x", "C:"]


@fuzz(300)
@given(parts=st.lists(st.sampled_from(PLACES_TRIED), min_size=1, max_size=5), is_place=st.booleans())
def test_place_of_a_config_is_in_the_run_folder_or_refused(parts: list[str], is_place: bool, tmp_path: Path) -> None:
    place = "/".join(parts)

    def judge_place() -> str:
        if not is_inside(place, is_place):
            return "mistake"
        if is_place or "{run_dir}" in place:
            assert Path(os.path.normpath(place.replace("{run_dir}", str(tmp_path)))).is_relative_to(tmp_path)
        else:
            assert os.path.basename(place) == place
        return "run"

    settle(repr(place), judge_place)


@fuzz(120)
@given(name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_path_that_exists_needs_no_quotes(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir(exist_ok=True)

    def parse_path() -> str:
        with config_tree():
            (override,) = parse(with_paths([f"data.root={path}"]))
        assert OmegaConf.create({"root": str(override.value())}).root == str(path), override.value()
        return "run"

    settle(repr(name), parse_path)


def test_at_least_3000_cases_ran(capsys: pytest.CaptureFixture[str]) -> None:
    """If the whole file has run."""
    tests = {name for name, test in globals().items() if name.startswith("test_") and hasattr(test, "hypothesis")}
    if not tests <= COUNTS.keys():
        pytest.skip("counts the cases of the whole file")
    whole = sum(COUNTS.values(), Counter())
    with capsys.disabled():
        for name, counts in COUNTS.items():
            print(f"\n  {name}: {dict(counts)}", end="")
        print(f"\n  {sum(whole.values()):,} cases: {whole['run']} runs, {whole['mistake']} mistakes, {whole['failure']} failures")
    assert sum(whole.values()) >= 3000
