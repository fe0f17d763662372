from __future__ import annotations

from runtime.messages import Finish
from runtime.scheduling.request import Request
from runtime.scheduling.stopping import finish_after, masked_ids
from tests.scheduling.conftest import make_request

EOS = (2, 9)


def finish(request: Request, *output_ids: int) -> Finish | None:
    request.output_ids.extend(output_ids)
    return finish_after(request, output_ids[-1])


def test_a_token_that_means_nothing_goes_on() -> None:
    assert finish(make_request(1, [1], eos=EOS), 5) is None


def test_the_count_comes_before_the_end_of_sequence() -> None:
    request = make_request(1, [1], eos=EOS, max_new_tokens=2)
    assert finish(request, 5, 9) == Finish("length", length=2)


def test_each_of_the_models_eos_ids_stops() -> None:
    assert finish(make_request(1, [1], eos=EOS), 9) == Finish("stop", matched=9)
    assert finish(make_request(1, [1], eos=EOS), 2) == Finish("stop", matched=2)


def test_a_stop_token_id_stops() -> None:
    assert finish(make_request(1, [1], stop_token_ids=(7,)), 7) == Finish("stop", matched=7)


def test_ignore_eos_switches_off_the_clients_ids_too() -> None:
    request = make_request(1, [1], eos=EOS, stop_token_ids=(7,), ignore_eos=True)
    assert finish(request, 2) is None
    assert finish(request, 7) is None


def test_ids_that_stop_are_masked_until_the_least_length() -> None:
    assert masked_ids(make_request(1, [1], eos=EOS, stop_token_ids=(7,), min_new_tokens=1)) == (2, 7, 9)
    assert masked_ids(make_request(1, [1], eos=EOS, stop_token_ids=(7,))) == ()
    assert masked_ids(make_request(1, [1], eos=EOS, min_new_tokens=1, ignore_eos=True)) == ()
