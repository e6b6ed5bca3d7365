"""Bad flags give one line and an exit code; good ones reach the config."""

import json
import subprocess
import sys

import pytest

from xpo_jax import cli, flags
from xpo_jax.errors import Exit, XpoError, numeric_error

TYPO = """from xpo_jax import config
def get_config():
  c = config.base()
  c.train.stps = 3
  return c
"""
START = ("train", "--config=configs/dpo.py:tiny", "--workdir=runs/never")


@pytest.mark.parametrize(
  "flag, words",
  [
    # C1: an unknown key names the nearest.
    ("--config.method.bta=0.2", "did you mean 'method.beta'?"),
    ("--config.trian.steps=3", "did you mean 'train.steps'?"),
    ("--config.learning_rate=1", "did you mean 'optimizer.learning_rate'?"),
    ("--config.zzz=1", "choose among aux, batch, data"),
    ("--confg.seed=1", "did you mean --config?"),
    ("--wrkdir=x", "did you mean --workdir?"),
    ("steps=3", "unexpected argument 'steps=3'"),
    # C2, C3: a learning rate that is no rate.
    ("--config.optimizer.learning_rate=nan", "learning_rate=nan must be"),
    ("--config.optimizer.learning_rate=-1", "learning_rate=-1.0 must be > 0"),
    ("--config.optimizer.learning_rate=inf", "learning_rate=inf must be"),
    ("--config.optimizer.learning_rate=fast", "learning_rate=fast must be"),
    # C4, C5: integers.
    ("--config.train.steps=1.5", "train.steps=1.5 must be an integer"),
    ("--config.train.steps=1e3", "train.steps=1e3 must be an integer"),
    # C6: no such method.
    ("--config.method.name=kt0", "did you mean 'kto'? known: "),
    # C7: types.
    ("--config.seed=(1,'a')", "seed=(1,'a') must be an integer"),
    ("--config.method.reference_free=maybe", "must be true or false"),
    ("--config.method.beta=abc", "method.beta=abc must be a number"),
    ("--config.batch=3", "'batch' is unknown"),
    # C8, C9: ranges of the loss.
    ("--config.method.beta=0", "method.beta=0.0 of dpo must be > 0"),
    ("--config.method.label_smoothing=0.5", "must be in [0, 0.5)"),
    ("--config.method.beta=nan", "method.beta=nan"),
    # C10: a required key.
    ("--config.data.source=", "data.source is required"),
    # C14: lengths.
    ("--config.data.max_prompt_length=300", "348 do not fit batch.row_length"),
    ("--config.model.max_length=64", "96 > model.max_length=64"),
    # C15, C16, C17.
    ("--config.train.save_every=0", "train.save_every=0 must be >= 1"),
    ("--config.optimizer.warmup_steps=131", "longer than the run of 130 steps"),
    ("--config.train.epochs=2", "both set"),
    ("--config.train.steps=0", "both 0"),
    # Choices.
    ("--config.optimizer.name=adam", "did you mean 'adamw'?"),
    ("--config.data.template=jinja", "choose one of plain, chat"),
    ("--config.mesh.fsdp=0", "mesh.fsdp=0 must be -1 or >= 1"),
    ("--config.mesh.fsdp=-1", "more than one axis is -1"),
    ("--config.batch.microbatches=5", "batch.prompts=32 is no multiple of 5"),
    # C28: twice with different values.
    ("--workdir=elsewhere", "given twice: runs/never and elsewhere"),
  ],
)
def test_bad_flag(xpo, flag, words):
  code, out, err = xpo(*START, flag)
  assert (code, out, len(err)) == (64, "", 1)
  assert err[0].startswith("error: ") and words in err[0]
  assert "Traceback" not in err[0]


@pytest.mark.parametrize(
  "args, words",
  [
    ((), None),
    (("trian",), "did you mean 'train'?"),
    (("fly",), "see xpo --help"),
    (("train",), "--config is required"),
    (("train", "--config=configs/dpo.py"), "--workdir is required"),
    (("run", *START[1:]), "no stages; use `xpo train`"),
    (("sample",), "--checkpoint --model is required"),
    (("sample", "--model=tiny", "--prmpt=x"), "did you mean --prompt?"),
    (("sample", "--model=tiny", "--top-p=0"), "--top-p=0.0 must be in (0, 1]"),
    (("sample", "--model=tiny", "--temperature=nan"), "must be >= 0"),
    (("sample", "--model=tiny", "--top-k=-1"), "--top-k=-1 must be >= 0"),
    (("sample", "--model=tiny", "--stop=a", "--stop="), "--stop= is empty"),
    (("sample", "--model=tiny", "--seed=x"), "invalid int value"),
    (("sample", "--model=a", "--checkpoint=b"), "not allowed with"),
    (("export", "--run=no/such", "--output=x"), "--run=no/such is no folder"),
    (("evaluate", "--run=no/such"), "--run=no/such is no folder"),
    (("data", "inspct", "x"), "invalid choice: 'inspct'"),
  ],
)
def test_bad_command(xpo, args, words):
  code, out, err = xpo(*args)
  assert code == 64
  if words is None:
    assert "usage: xpo SUBCOMMAND" in out and not err
  else:
    assert len(err) == 1 and words in err[0]


@pytest.mark.parametrize(
  "path, words",
  [
    # C24: nothing but a local config file.
    ("https://x.org/dpo.py", "is a URL"),
    ("/etc/passwd", "a .py or .json file"),
    ("configs", "a .py or .json file"),
    ("configs/dpo.yaml", "a .py or .json file"),
    ("configs/dp.py", "did you mean configs/dpo.py?"),
    ("configs/dpo.py:huge", "choose one of smollm, tiny"),
  ],
)
def test_bad_config_path(xpo, path, words):
  code, _, err = xpo("train", f"--config={path}", "--workdir=runs/never")
  assert (code, len(err)) == (64, 1) and words in err[0]


@pytest.mark.parametrize(
  "beside",
  ["config.json", "model-00001.safetensors", "w.gguf", "manifest.json"],
)
def test_code_beside_weights_is_not_run(xpo, tmp_path, beside):  # C25
  (tmp_path / beside).write_text("{}")
  canary = tmp_path / "ran"
  file = tmp_path / "config.py"
  file.write_text(f"open({str(canary)!r}, 'w')\ndef get_config(): pass\n")
  code, _, err = xpo("train", f"--config={file}", "--workdir=w")
  assert (code, len(err)) == (64, 1) and "JSON only" in err[0]
  assert not canary.exists()


@pytest.mark.parametrize(
  "source, words",
  [
    ("x = 1\ny = z\n", ":2: NameError"),
    ("def get_config(:\n", ":1: SyntaxError"),
    ("x = 1\n", "defines no get_config()"),
    ("def get_config():\n  return {}\n", "must return a ConfigDict"),
    (TYPO, ':4: AttributeError: Did you mean "steps"'),
  ],
)
def test_broken_config_file_names_its_line(xpo, tmp_path, source, words):
  file = tmp_path / "mine.py"
  file.write_text(source)
  code, _, err = xpo("train", f"--config={file}", "--workdir=w")
  assert (code, len(err)) == (64, 1)
  assert words in err[0]


def test_good_flags_reach_the_config(root, monkeypatch):
  monkeypatch.chdir(root)
  chosen, options = flags.parse(
    [
      "--config=configs/dpo.py:tiny",
      "--workdir",
      "runs/x",
      "--config.method.beta=0.25",
      "--config.method.reference_free",
      "--config.train.steps",
      "7",
      "--config.data.source=a b.jsonl",
      "--config.optimizer.learning_rate=3",
      "--workdir=runs/x",
    ]
  )
  assert options == {"workdir": "runs/x"}
  assert chosen.method.beta == 0.25 and chosen.method.reference_free is True
  assert chosen.train.steps == 7 and chosen.data.source == "a b.jsonl"
  assert chosen.optimizer.learning_rate == 3.0
  assert isinstance(chosen.optimizer.learning_rate, float)


def test_another_method_brings_its_own_keywords(root, monkeypatch):
  monkeypatch.chdir(root)
  start = ["--config=configs/dpo.py:tiny", "--workdir=w"]
  chosen, _ = flags.parse(
    [*start, "--config.method.z0_mode=zero", "--config.method.name=kto"]
  )
  assert chosen.method.z0_mode == "zero" and "ld_alpha" not in chosen.method
  with pytest.raises(XpoError, match="'method.ld_alpha' is unknown"):
    flags.parse(
      [*start, "--config.method.ld_alpha=1", "--config.method.name=kto"]
    )


def test_a_saved_config_is_a_config(root, monkeypatch, tmp_path):
  monkeypatch.chdir(root)
  from xpo_jax import config

  first = flags.load_config_file("configs/kto.py:tiny")
  saved = tmp_path / "config.json"
  saved.write_text(config.to_json(first))
  again, _ = flags.parse([f"--config={saved}", "--workdir=w"])
  assert again.to_dict() == first.to_dict()


def test_methods_come_from_the_registry(xpo):
  from xpo_jax import methods

  code, out, _ = xpo("methods", "--markdown")
  rows = [line for line in out.splitlines() if line.startswith("| ")]
  assert code == 0 and len(rows) == 2 * (2 + len(methods.names()))
  dpo, place = [row for row in rows if row.startswith("| dpo |")]
  assert "implicit" in place
  assert "2305.18290" in dpo and "reference_logps" in dpo
  assert "beta=0.1" in dpo and "K = 2" in dpo
  code, out, _ = xpo("methods", "--survey")
  assert code == 0 and "length control" in out
  code, out, _ = xpo("methods")
  assert code == 0 and "label_smoothing=0.0" in out


def test_data_inspect_accounts_and_shows(xpo, tmp_path, monkeypatch):
  monkeypatch.setenv("COLUMNS", "100")
  row = {"prompt": "Say hi.", "chosen": " Hi!", "rejected": " No."}
  file = tmp_path / "pairs.jsonl"
  file.write_text(json.dumps(row) + "\n" + json.dumps(row)[:-4] + "\n")
  code, out, err = xpo("data", "inspect", str(file))
  assert (code, len(err)) == (65, 1) and "pairs.jsonl:2" in err[0]
  code, out, err = xpo("data", "inspect", str(file), "--on-bad-row=skip")
  assert code == 0 and not err
  flat = " ".join(out.split())  # a long path wraps the lines
  assert "ORDER feedback, K = 2" in flat
  assert "Say hi. [0] feedback 1: Hi!" in flat
  code, _, err = xpo("data", "inspect", str(tmp_path / "none.jsonl"))
  assert code in (64, 65) and len(err) == 1


@pytest.mark.parametrize(
  "raised, code, line",
  [
    (numeric_error("loss [red]nan[/red]"), 70, "error: loss [red]nan[/red]"),
    (XpoError("saved", Exit.PREEMPTED), 75, "saved"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (OSError(28, "No space left on device", "/x/y"), 74, "error: /x/y: No sp"),
    (PermissionError(13, "Permission denied", "/x"), 74, "error: /x: Permiss"),
    (ValueError("a\nb"), 1, "internal error: ValueError: a b (set XPO_TRACE"),
  ],
)
def test_exit_codes(xpo, monkeypatch, raised, code, line):
  def fail(argv):
    raise raised

  monkeypatch.setitem(cli.COMMANDS, "train", cli.Command("", fail))
  got, out, err = xpo("train", "--config=x")
  assert (got, out, len(err)) == (code, "", 1)
  assert err[0].startswith(line)


def test_traceback_on_request(xpo, monkeypatch):
  def fail(argv):
    raise ValueError("why")

  monkeypatch.setitem(cli.COMMANDS, "train", cli.Command("", fail))
  monkeypatch.setenv("XPO_TRACEBACK", "1")
  code, _, err = xpo("train", "--config=x")
  assert code == 1 and err[0].startswith("Traceback") and len(err) > 3


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_subcommand_has_help(xpo, name):
  code, out, err = xpo(name, "--help")
  assert code == 0 and f"usage: xpo {name}" in out and not err


def test_help_needs_no_jax():
  program = (
    "import json, sys\nfrom xpo_jax import cli\n"
    "codes = [cli.main(['--help']), cli.main(['train', '--help'])]\n"
    "print(json.dumps([codes, 'jax' in sys.modules]))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert "Exit codes: 0 done, 64 usage" in done.stdout
  assert "gold.name: reward_model, implicit, preference_mo" in done.stdout
  assert json.loads(done.stdout.splitlines()[-1]) == [[0, 0], False]
