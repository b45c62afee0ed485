"""cli.chatting: the model of a chat changes, or does not, and the chat goes on either way."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import cast

import pytest

from llmrun.cli.answering import Answering
from llmrun.cli.chatting import _hands
from llmrun.cli.flags import Output, Running
from llmrun.cli.running import RunningModel, wish_of
from llmrun.console import Console
from llmrun.engine.client import Engine
from llmrun.errors import GGUFError, NotFoundError
from llmrun.planning.plan_file import SavedPlan


class Stub:
    """An engine as far as it is closed."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Switched(RunningModel):
    """A model of which the first start after a change fails."""

    failure: BaseException
    starts: tuple[tuple[str, SavedPlan | None], ...] = ()

    def start(self) -> Engine:
        self.starts += ((self.name, self._wish.replay),)
        if len(self.starts) == 1:
            raise self.failure
        return cast("Engine", Stub())


PLAN = cast("SavedPlan", object())


def switched() -> tuple[Switched, io.StringIO]:
    err = io.StringIO()
    wish = replace(wish_of("guide", Running(), Answering(), Output()), replay=PLAN)
    return Switched(wish, Console(out=io.StringIO(), err=err)), err


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), GGUFError("it is damaged")], ids=["Ctrl-C", "error"])
def test_where_another_model_does_not_come_the_chat_goes_on_as_it_was(failure: BaseException) -> None:
    model, err = switched()
    model.failure = failure
    hands = _hands(model, model._console)
    assert hands.switch is not None
    before = Stub()
    hands.switch("guide:Q4_K_M", cast("Engine", before))
    assert before.is_closed
    assert model.starts == (("guide:Q4_K_M", None), ("guide", PLAN))
    assert "(going on with guide)" in err.getvalue()


def test_a_name_that_means_no_model_leaves_the_engine_as_it_was() -> None:
    model, _ = switched()
    hands = _hands(model, model._console)
    assert hands.switch is not None
    before = Stub()
    with pytest.raises(NotFoundError):
        hands.switch("guidde", cast("Engine", before))
    assert (before.is_closed, model.name, model._wish.replay) == (False, "guide", PLAN)
