"""The likeliest completions of whole models, as texts."""

import numpy as np
import pytest

from xpo_jax import likeliest, pretrained, talk
from xpo_jax.data import templates
from xpo_jax.errors import XpoError

NEW = 5


@pytest.fixture(scope="module")
def model():
  return pretrained.load_pretrained("tiny")


@pytest.mark.slow
def test_one_beam_is_greedy_and_more_are_likelier(model):
  """And a text's nats are those that the whole model gives its tokens."""
  template = templates.make_template(model.tokenizer, "plain")
  ids = [np.asarray(template.prompt(p), np.int32) for p in ("ab", "a film")]
  find = lambda beams, **more: likeliest.completions(
    model, ids, beams, NEW, template.end_id, **more
  )
  greedy = model.sample(ids, NEW, temperature=0.0, end_id=template.end_id)
  one, four = find(1), find(4)
  assert [row[0][0] for row in one] == [texts[0] for texts in greedy[1]]
  for b, (alone, best) in enumerate(zip(one, four, strict=True)):
    totals = [total for _, total in best]
    assert totals == sorted(totals, reverse=True) and len(best) == 4
    assert totals[0] >= alone[0][1]
    drawn = greedy[0].tokens[b, 0][greedy[0].mask[b, 0]]
    whole = np.concatenate([ids[b], drawn])
    x = np.asarray(model.logits(whole[None]))[0].astype(float)
    logps = x - np.log(np.exp(x).sum(-1, keepdims=True))
    places = np.arange(len(ids[b]) - 1, len(whole) - 1)
    assert alone[0][1] == pytest.approx(logps[places, drawn].sum(), abs=1e-4)
  said = talk.complete(
    model, template, ["ab", "a film"],
    dict(max_new_tokens=NEW, stop=[], beams=4),
  )  # fmt: skip
  assert said == [row[0][0] for row in four]


def test_no_room(model):
  long = [np.full(model.model.config.max_length, 65, np.int32)]
  with pytest.raises(XpoError, match="exceed the model's context"):
    likeliest.completions(model, long, 2, NEW, 0)
