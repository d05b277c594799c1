"""Publish numbers against a model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warren.amqp.confirms import Confirms

steps = st.lists(
    st.tuples(st.sampled_from(["sent", "settle", "settle all", "forget", "lost"]), st.integers(0, 12)), max_size=60
)


@given(steps)
def test_every_publish_leaves_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    confirms: Confirms[int] = Confirms()
    model: list[int] = []
    last = 0
    for step, tag in steps:
        if step == "sent":
            last += 1
            confirms.sent(last, last)
            model.append(last)
        elif step == "forget":
            confirms.forget(tag)
            model = [known for known in model if known != tag]
        elif step == "lost":
            assert confirms.lost() == model
            model = []
        else:
            multiple = step == "settle all"
            gone = [known for known in model if known == tag or (multiple and known < tag)]
            assert confirms.take(tag, multiple) == gone
            model = [known for known in model if known not in gone]
        assert len(confirms) == len(model)
        assert all(known in confirms for known in model)
