"""`xpo score` on runs: numbers, files, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import runs
from tests import tiny_models as tiny
from tests.pretrained_test import write_run
from tests.tiny import compilations
from xpo_jax import cli, config, score, train
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models import heads, sequences
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model
from xpo_jax.models.weights.export import save_folder
from xpo_jax.models.weights.tokenizer import byte_tokenizer, train_bpe
from xpo_jax.score_options import Options

CONFIG = dataclasses.replace(tiny.CONFIG, vocab_size=260, layers=2)
BYTES = byte_tokenizer()
WIDTH = 96  # of the plain forward; CONFIG's context


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Data and base weights of the runs below."""
  path = tmp_path_factory.mktemp("score")
  save_folder(path / "base", CONFIG, tiny.params(CONFIG), BYTES)
  runs.write(path / "pairs.jsonl", map(runs.pair, range(11)))
  rows = [
    {
      "prompt": f"{n}?",
      "completions": ["é 猫", "b" * n, "c"],
      "scores": [1, n, 9],
    }
    for n in range(2, 6)
  ]
  runs.write(path / "lists.jsonl", rows)
  return path


def settings_of(folder, method, **keywords):
  c = config.base().unlock()
  c.method = config.method(method, **keywords)
  c.model.source = str(folder / "base")
  c.data.source = str(folder / "pairs.jsonl")
  c.data.max_prompt_length = c.data.max_completion_length = 48
  c.batch.prompts, c.batch.row_length = 4, 160
  return c


def moved(tree):
  """Other weights, not a multiple of the first."""
  return jax.tree.map(lambda x: jnp.asarray(x + 0.1 * np.cos(3 * x)), tree)


@pytest.fixture(scope="module")
def simpo(folder):
  c = settings_of(folder, "simpo", beta=3.0)
  c.mesh.data = 3  # not what is here: all devices share the batch
  policy = {"top": moved(tiny.params(CONFIG))}
  return write_run(folder / "simpo", Model(CONFIG), policy, c.lock())


def plain_logps(params, prompt, completions):
  """Log-probs of every token by rows of one sequence: nothing is packed."""
  before = [*prompt.encode()]
  after = [[*c.encode(), BYTES.eos_id] for c in completions]
  tokens = np.zeros((len(after), WIDTH), int)
  for row, ids in zip(tokens, after, strict=True):
    row[: len(before) + len(ids)] = before + ids
  every = sequences.next_logps(Model(CONFIG), params, jnp.asarray(tokens))
  first = len(before) - 1
  return [
    np.asarray(x[first : first + len(ids)]) for x, ids in zip(every, after)
  ]


def scored(run, data, step="", **options):
  """JSONL rows of a run on a file, and the summary."""
  out = run / "scores.jsonl"
  summary = score.run(
    Options(run=f"{run}{step}", data=str(data), out=str(out), **options)
  )
  text = out.read_text(encoding="utf-8")
  return [json.loads(line) for line in text.splitlines()], summary


def test_a_trained_run_agrees_with_its_evaluation(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv("XPO_CACHE", str(tmp_path / "cache"))
  run, page = tmp_path / "run", tmp_path / "page.html"
  summary = train.run(runs.make(tmp_path), run, jax.devices()[:1])
  with compilations("jit(score_batch)") as seen:
    found = score.run(
      Options(
        run=str(run),
        kind="token_credit",
        out=str(tmp_path / "scores.jsonl"),
        html=str(page),
        html_rows=3,
      )
    )
  assert len(seen) == 1
  for name, estimate in found.items():
    wanted = summary["held_out"][name]
    assert estimate.mean == pytest.approx(wanted, rel=1e-4)
  held = {}
  for line in (run / "held_out.jsonl").read_text().splitlines():
    row = json.loads(line)
    held[row["id"]] = row["rewards/chosen"], row["rewards/rejected"]
  lines = (tmp_path / "scores.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [(r["id"], r["k"]) for r in rows] == [
    (name, k) for name in held for k in (0, 1)
  ]
  for row in rows:
    reward = row["implicit_reward"]
    assert reward == pytest.approx(held[row["id"]][row["k"]], rel=1e-4)
    credits = [token["credit"] for token in row["tokens"]]
    assert sum(credits) == pytest.approx(reward, rel=1e-5)
    for token in row["tokens"]:
      gap = token["logp"] - token["reference_logp"]
      assert token["credit"] == pytest.approx(0.1 * gap, rel=1e-4, abs=1e-6)
    assert "".join(t["text"] for t in row["tokens"]) == row["completion"]
    assert len(credits) == row["length"]
  assert page.read_text(encoding="utf-8").count('class="sample"') == 3
  assert "rewards/accuracy" in capsys.readouterr().out


def test_lora_on_a_mesh_against_plain_rows(folder):
  """Frozen blocks, merged factors, a run that has not ended, lists of three."""
  model = Model(CONFIG, trunk_blocks=1, lora=(2, 1.5))
  c = settings_of(folder, "dpo", beta=0.5)
  c.model.trained_blocks, c.lora.rank, c.lora.alpha = 1, 2, 3.0
  c.mesh = dict(data=2, fsdp=2, tensor=2)
  factors = tiny.lora(model, up=0.5)
  run = write_run(
    folder / "lora", model, {"lora": jax.tree.map(jnp.asarray, factors)}, c
  )
  rows, summary = scored(run, folder / "lists.jsonl", kind="token_credit")
  base = tiny.params(CONFIG)
  trunk, top = lm.split(base, 1)
  merged = lm.merge_lora(model, lm.Weights(trunk, top, factors))
  policy = lm.join(trunk, merged)
  for start in range(0, 12, 3):
    part = rows[start : start + 3]
    texts = [row["completion"] for row in part]
    own = plain_logps(policy, part[0]["prompt"], texts)
    ref = plain_logps(base, part[0]["prompt"], texts)
    for row, a, b in zip(part, own, ref, strict=True):
      numbers = np.array(
        [[t["logp"], t["reference_logp"]] for t in row["tokens"]]
      )
      np.testing.assert_allclose(numbers.T, [a, b], rtol=1e-4, atol=1e-4)
      wanted = 0.5 * (np.sum(a) - np.sum(b))
      assert row["implicit_reward"] == pytest.approx(wanted, abs=1e-3)
      assert "".join(t["text"] for t in row["tokens"]) == row["completion"]
  assert max(abs(row["implicit_reward"]) for row in rows) > 0.1
  assert [row["feedback"] for row in rows[3:6]] == [1.0, 3.0, 9.0]
  margins = [rows[n + 2]["implicit_reward"] - rows[n]["implicit_reward"]
             for n in (0, 3, 6, 9)]  # fmt: skip
  assert summary["rewards/margin"].mean == pytest.approx(np.mean(margins))


def test_without_a_reference_nothing_but_the_policy_is_read(
  folder, simpo, monkeypatch, capsys
):
  asked = []
  load = score.score_forward.pretrained.load_pretrained
  spy = lambda source, *rest: asked.append(str(source)) or load(source, *rest)
  monkeypatch.setattr(score.score_forward.pretrained, "load_pretrained", spy)
  rows, summary = scored(simpo, folder / "pairs.jsonl", batch=3)
  assert asked == [f"{simpo}@3"]
  policy = moved(tiny.params(CONFIG))
  wins = []
  for chosen, rejected in zip(rows[::2], rows[1::2], strict=True):
    texts = [chosen["completion"], rejected["completion"]]
    logps = plain_logps(policy, chosen["prompt"], texts)
    wanted = [3.0 * np.mean(x) for x in logps]
    found = [chosen["implicit_reward"], rejected["implicit_reward"]]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    wins.append(wanted[0] > wanted[1])
  assert len(wins) == 11
  assert summary["rewards/accuracy"].mean == pytest.approx(np.mean(wins))
  assert "has not finished; scoring its checkpoint of step 3" in (
    capsys.readouterr().out
  )
  again, _ = scored(
    simpo, folder / "pairs.jsonl", step="@3", batch=3, beta=6.0, limit=2
  )
  assert "has not finished" not in capsys.readouterr().out
  assert [2 * r["implicit_reward"] for r in rows[:4]] == pytest.approx(
    [r["implicit_reward"] for r in again], rel=1e-5
  )


def test_reward_models_give_what_their_head_says(folder):
  head = heads.init_reward_head(jax.random.key(1), CONFIG.width)
  head["bias"] = head["bias"] + 0.5
  base = tiny.params(CONFIG)
  policy = {"top": jax.tree.map(jnp.asarray, base), "reward_head": head}
  c = settings_of(folder, "rm_bt")
  run = write_run(folder / "rm", Model(CONFIG), policy, c.lock())
  rows, _ = scored(run, folder / "pairs.jsonl", kind="reward", limit=3)
  tokens = np.zeros((6, WIDTH), int)
  last = []
  for ids, row in zip(tokens, rows, strict=True):
    text = [*(row["prompt"] + row["completion"]).encode(), BYTES.eos_id]
    ids[: len(text)] = text
    last.append(len(text) - 1)
  wanted = sequences.rewards(Model(CONFIG), base, head, tokens, np.array(last))
  np.testing.assert_allclose([r["reward"] for r in rows], wanted, rtol=1e-4)
  for kind, words in (
    ("implicit", "is a reward model; use --kind=reward"),
    (
      "token_credit",
      "at the last token, is no sum over tokens; use --kind=rew",
    ),
  ):
    with pytest.raises(XpoError, match=words):
      scored(run, folder / "pairs.jsonl", kind=kind)
  with pytest.raises(XpoError, match="--beta=0.1: .* has no beta"):
    scored(run, folder / "pairs.jsonl", kind="reward", beta=0.1)


def refused(run, code=Exit.USAGE, **options) -> str:
  with pytest.raises(XpoError) as e:
    score.run(Options(run=str(run), **options))
  assert e.value.code == code and "\n" not in str(e.value)
  return str(e.value)


def test_what_cannot_be_scored_is_refused(folder, simpo, tmp_path):
  data = str(folder / "pairs.jsonl")
  assert "policy and has no reward head" in refused(simpo, kind="reward")
  assert "no held-out data; name some with --data" in refused(simpo)
  found = refused(f"{simpo}@4", Exit.CHECKPOINT)
  assert "checkpoints/4: no step" in found or "has 3" in found
  found = refused(folder, Exit.CHECKPOINT)
  assert "is no training run; it has stages, name one of them: " in found
  assert "simpo" in found
  assert "was --workdir of" in refused(folder / "base", Exit.CHECKPOINT)
  (tmp_path / "bare").mkdir()
  for name in ("model.json", "config.json"):
    text = (simpo / name).read_text()
    (tmp_path / "bare" / name).write_text(text)
  assert "no checkpoint in it" in refused(tmp_path / "bare", Exit.CHECKPOINT)
  bare = runs.write(tmp_path / "bare.jsonl", [{"prompt": "only"}])
  assert "nothing to score" in refused(simpo, Exit.DATA, data=str(bare))
  c = settings_of(folder, "orpo")
  policy = {"top": moved(tiny.params(CONFIG))}
  orpo = write_run(tmp_path / "orpo", Model(CONFIG), policy, c.lock())
  assert "log-odds of the mean over tokens of log pi, is no sum" in refused(
    orpo, kind="token_credit", data=data
  )


@pytest.mark.parametrize("what", ["tokenizer", "architecture"])
def test_a_base_that_has_changed_is_refused(folder, what, tmp_path):
  sizes, tokenizer = CONFIG, train_bpe(["a b"], 260)
  if what == "architecture":
    sizes, tokenizer = dataclasses.replace(CONFIG, layers=1), BYTES
  save_folder(tmp_path / "base", sizes, tiny.params(sizes), tokenizer)
  c = settings_of(folder, "dpo")
  c.model.source = str(tmp_path / "base")
  policy = {"top": moved(tiny.params(CONFIG))}
  run = write_run(tmp_path / "run", Model(CONFIG), policy, c.lock())
  data = str(folder / "pairs.jsonl")
  found = refused(run, Exit.CHECKPOINT, data=data)
  assert f"base' now has another {what} than the run's; bring back" in found


def test_damaged_weights_are_named(folder, simpo, tmp_path):
  top = tiny.params(CONFIG)
  top["final_norm"]["scale"] = np.full_like(top["final_norm"]["scale"], np.nan)
  policy = {"top": jax.tree.map(jnp.asarray, top)}
  path = simpo / "config.json"
  same = config.from_json(path.read_text())
  run = write_run(tmp_path / "nan", Model(CONFIG), policy, same)
  out = tmp_path / "out.jsonl"
  found = refused(
    run, Exit.NUMERIC, data=str(folder / "pairs.jsonl"), out=str(out), batch=3
  )
  assert "pairs.jsonl:1: a reward is not finite" in found
  assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
  "flags, words",
  [
    ("--kind=implict", "invalid choice: 'implict'"),
    ("--beta=0", "--beta=0.0 must be a number > 0"),
    ("--beta=nan", "--beta=nan must be"),
    ("--limit=-1", "--limit=-1 must be >= 0"),
    ("--html-rows=0", "--html-rows=0 must be >= 1"),
    ("--out=no/such/x.jsonl", "there is no folder"),
    ("--out=tests", "--out=tests is a folder"),
    ("--data=a.jsonl --out=./a.jsonl", "--out=./a.jsonl is --data too"),
    ("--out=a.jsonl --html=a.jsonl", "--html=a.jsonl is --out too"),
    ("--reun=x", "did you mean --run?"),
  ],
)
def test_bad_flags(xpo, flags, words):
  code, out, err = xpo("score", "--run=tests", *flags.split())
  assert (code, out, len(err)) == (64, "", 1) and words in err[0]


def test_flags_reach_the_options(xpo, monkeypatch):
  seen = []
  monkeypatch.setattr(cli, "_start_jax", lambda: None)
  monkeypatch.setattr(score, "run", seen.append)
  code, _, err = xpo(
    "score", "--run=tests", "--kind=token_credit", "--beta=0.5", "--limit=9",
    "--html=x.html", "--html-rows=7", "--batch=2", "--data=d.jsonl",
  )  # fmt: skip
  assert (code, err) == (0, [])
  assert seen == [
    Options("tests", "d.jsonl", "token_credit", "", "x.html", 7, 0.5, 9, 2)
  ]


def test_help_shows_the_row(xpo):
  code, out, _ = xpo("score", "--help")
  assert code == 0 and "token_credit" in out and "implicit_reward" in out
