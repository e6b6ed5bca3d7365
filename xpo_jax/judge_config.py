"""A judge out of its section of a config.

    name              source                      a judge of
    reward_model      run of rm_bt, .., export    texts: the head
    implicit          policy                      texts: beta log(pi / ref)
    preference_model  run of rm_pairwise          pairs: A or B
    pairwise          language model              pairs: 1 or 2
    rating            language model              texts: E[1 .. 10]
    principles        language model              pairs: which keeps one better
    additive          language model, writes      texts: 0 .. 5 points
    verdict_rating    language model, writes      texts: 1 .. 10
    verdict_pair      language model, writes      pairs: A, B or TIE
    sentiment                                     texts: a word list
    length            LOW-HIGH words              texts
    format            a regular expression        texts
    exact_match       JSONL of prompt, answer     texts
    final_answer      JSONL of prompt, answer     texts: after the last "####"
    function          module:function             texts
    remote_rating     model's name at XPO_JUDGE_URL   texts: 1 .. 10
    remote_pair       model's name at XPO_JUDGE_URL   pairs: A, B or TIE

A judge that writes is greedy when one reply is asked for, and samples at
temperature 0.7, top-p 0.9 (methods.md 6.1) when `samples` are more. Judges read
texts: their tokenizer need not be the policy's. Judges that are a model are not
asked about answers that say nothing, see `judges.nulls`, unless `guard` is
False: where right answers are short by nature. Reward models never saw such
answers, and may like them best of all.
"""

import collections
from collections.abc import Callable, Mapping
import importlib
import os
import sys
from typing import Any, NamedTuple

from xpo_jax import judge_options, judging, score
from xpo_jax.data import cells, sources
from xpo_jax.data.records import BadRow, Prompt
from xpo_jax.errors import data_error, first_line, usage_error
from xpo_jax.judge_options import DEFAULTS, check, section
from xpo_jax.judges import (
  combine,
  constitution,
  function,
  nulls,
  pairwise,
  rating,
  rules,
  written,
)
from xpo_jax.judges.candidates import (
  Candidates,
  Judge,
  Judgement,
  PairJudge,
  Write,
)
from xpo_jax.judges.tally import Tally

__all__ = ["DEFAULTS", "Built", "build", "check", "guarded", "judged", "scores",
           "section", "wins"]  # fmt: skip
REPLY = 256  # tokens that a local judge may write
_HOT = {"temperature": 0.7, "top_p": 0.9}


class Built(NamedTuple):
  """A judge, or a pair judge: exactly one of the two is there.

  `name` is the section's; `max_invalid` the share of replies that may be none;
  `guard` says whether answers that say nothing are kept from it.
  """

  judge: Judge | None
  pairs: PairJudge | None
  name: str
  max_invalid: float
  guard: bool = False


def build(section: Mapping[str, Any], where: str, seed: int = 0) -> Built:
  """Opens what the section names.

  Args:
    section: as of `section`; its name must not be empty.
    where: of it, for messages.
    seed: of the run or stage, >= 0: what a judge samples or draws follows from
      it and from what is judged.

  Raises:
    XpoError: as of `check`, and whatever is wrong with a model, file or module.
  """
  given = check(section, where)
  name = given["name"]
  if not name:
    raise usage_error(
      f"{where}.name is empty; choose one of {', '.join(judge_options.USES)}"
    )
  with judge_options.named(where):
    made = _BUILDERS[name](given | {"seed": seed})
  own = (None, made) if name in judge_options.PAIRS else (made, None)
  guard = given["guard"] and "guard" in judge_options.USES[name]
  return Built(*own, name, given["max_invalid"], guard)


def scores(built: Built) -> Judge:
  """Scores [B, K]; of a pair judge the mean win rate against the others."""
  return built.judge or combine.win_rates(built.pairs)


def wins(built: Built) -> PairJudge:
  """P(i beats j) [B, K, K]; of a judge of texts sigma(r_i - r_j)."""
  return built.pairs or combine.bradley_terry(built.judge)


def guarded(built: Built, judge: Judge | PairJudge) -> Judge | PairJudge:
  """The judge, not asked about answers that say nothing if `built` says so.

  It looks at all prompts: a journal, which judges slices, goes inside.
  """
  return nulls.guarded(judge) if built.guard else judge


def judged(
  built: Built, judge: Judge | PairJudge, candidates: Candidates, tally: Tally
) -> tuple[Judgement, Tally]:
  """Asks, counts, and stops the run when too many replies are invalid.

  Args:
    built: whose name and max_invalid count.
    judge: of `scores` or `wins`, perhaps in a journal.
    candidates: what to judge.
    tally: of the run so far.

  Raises:
    XpoError: (70) more than max_invalid of the run's replies are no verdict.
  """
  found = judge(candidates)
  tally = tally.add(found)
  tally.check(built.max_invalid, built.name)
  return found, tally


def _reader(given) -> judging.Reader:
  return judging.open_reader(given["source"], given["template"])


def _write(given, reader: judging.Reader, samples: int = 1) -> Write:
  room = reader.model.model.config.max_length
  if room <= REPLY:
    raise usage_error(
      f"the judge's context of {room} tokens has no room for a question and "
      f"{REPLY} tokens of reply; take another model, or one that need not "
      "write (rating, pairwise)"
    )
  how = _HOT if samples > 1 else {}
  return reader.write(REPLY, seed=given["seed"], **how)


def _remote(given, samples: int = 1) -> Write:
  return judge_options.writer(
    given, _HOT["temperature"] if samples > 1 else 0.0
  )


def _reward_model(given) -> Judge:
  judge_options.refuse_template_of_run(given)
  return judging.reward_model(given["source"], given["template"])


def _implicit(given) -> Judge:
  return judging.implicit_reward(
    given["source"],
    given["reference"],
    float(given["beta"]) or None,
    given["template"],
  )


def _preference_model(given) -> PairJudge:
  source = given["source"]
  if judging.is_run(source):
    method = score.open_run(source).method.id
    if method != "rm_pairwise":
      raise usage_error(
        f"{source} was trained by {method}; a preference_model is a run of "
        "rm_pairwise (any other language model: name='pairwise')"
      )
  return pairwise.preference_model(_reader(given).ask())


def _principles(given) -> PairJudge:
  chosen = judge_options.constitution(given, given["seed"])
  reader = _reader(given)
  write = _write(given, reader) if given["reason"] else None
  return constitution.language_model(reader.ask(), chosen, write)


def _exact_match(given) -> Judge:
  return rules.exact_match(answers(given["source"]))


def _final_answer(given) -> Judge:
  return rules.final_answer(answers(given["source"]))


def answers(path: str) -> dict[Prompt, list[str]]:
  """Prompt -> all its right answers, of rows {prompt, answer}.

  An answer is a text or a list of texts; a prompt may come several times.

  Raises:
    XpoError: (65) a bad file or row.
  """
  found = collections.defaultdict(list)
  for row_id, row in sources.read_rows(path):
    missing = [c for c in ("prompt", "answer") if c not in row]
    if missing:
      raise data_error(
        f"{row_id}: no column {missing[0]!r}; want prompt and answer"
      )
    try:
      prompt = cells.prompt(row["prompt"], collections.Counter())
    except BadRow as e:
      raise data_error(f"{row_id}: {e}") from e
    own = row["answer"]
    own = own if isinstance(own, list) else [own]
    if not own or not all(isinstance(a, str) and a.strip() for a in own):
      raise data_error(
        f"{row_id}: answer {row['answer']!r:.40}; want a text, or a list"
      )
    found[prompt] += own
  return dict(found)


def _function(given) -> Judge:
  """Of a module that the operator named; it may lie in the current folder."""
  source = given["source"]
  module, _, name = source.partition(":")
  if not {"", os.getcwd()} & set(sys.path):
    sys.path.append(os.getcwd())  # last: it hides no installed module
  importlib.invalidate_caches()
  try:
    found = importlib.import_module(module)
  except (Exception, SystemExit) as e:  # the operator's own code
    raise usage_error(
      f"source={source!r}: importing {module} raised {type(e).__name__}: "
      f"{first_line(e)}"
    ) from e
  if not hasattr(found, name):
    where = getattr(found, "__file__", module)
    raise usage_error(f"source={source!r}: {where} defines no {name!r}")
  return function.from_function(getattr(found, name), name=source)


_BUILDERS: dict[str, Callable[[Mapping[str, Any]], Judge | PairJudge]] = {
  "reward_model": _reward_model,
  "implicit": _implicit,
  "preference_model": _preference_model,
  "pairwise": lambda g: pairwise.language_model(_reader(g).ask()),
  "rating": lambda g: rating.language_model(_reader(g).ask()),
  "principles": _principles,
  "additive": lambda g: written.additive(
    _write(g, _reader(g), g["samples"]), g["samples"]
  ),
  "verdict_rating": lambda g: written.rating(
    _write(g, _reader(g), g["samples"]), g["samples"]
  ),
  "verdict_pair": lambda g: written.verdict(_write(g, _reader(g))),
  "sentiment": lambda g: rules.sentiment(),
  "length": judge_options.rule,
  "format": judge_options.rule,
  "exact_match": _exact_match,
  "final_answer": _final_answer,
  "function": _function,
  "remote_rating": lambda g: written.rating(
    _remote(g, g["samples"]), g["samples"]
  ),
  "remote_pair": lambda g: written.verdict(_remote(g)),
}
