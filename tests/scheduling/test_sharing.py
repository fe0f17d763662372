from __future__ import annotations

import pytest

from runtime.scheduling.request import Request, Stage
from runtime.scheduling.sharing import PrefixLeaders
from tests.scheduling.conftest import make_request

PROMPT = tuple(range(16))


def running(request_id: int, token_ids: tuple[int, ...]) -> Request:
    request = make_request(request_id, token_ids)
    request.stage = Stage.RUNNING
    return request


def test_a_request_waits_for_the_next_page_of_its_prefix() -> None:
    leaders = PrefixLeaders(4)
    leader = running(1, PROMPT)
    leaders.lead(leader, 0)
    assert leaders.find(make_request(2, PROMPT)) is leader
    assert leaders.find(make_request(3, (0, 1, 2, 9, *PROMPT))) is None


def test_what_is_published_need_not_be_waited_for() -> None:
    leaders = PrefixLeaders(4)
    leader = running(1, PROMPT)
    leaders.lead(leader, 8)
    assert leaders.find(make_request(2, (*PROMPT[:8], 99, 98, 97, 96, 95))) is None
    assert leaders.find(make_request(3, PROMPT)) is leader


def test_what_is_cached_already_need_not_be_waited_for() -> None:
    leaders = PrefixLeaders(4)
    leaders.lead(running(1, PROMPT), 0)
    request = make_request(2, PROMPT)
    request.num_hit_tokens = 4
    assert leaders.find(request) is None


def test_a_page_that_holds_the_last_token_can_not_be_reused() -> None:
    leaders = PrefixLeaders(4)
    leaders.lead(running(1, PROMPT), 0)
    assert leaders.find(make_request(2, PROMPT[:4])) is None


def test_followers_are_freed_when_all_that_they_share_is_published() -> None:
    leaders = PrefixLeaders(4)
    leader = running(1, PROMPT)
    leaders.lead(leader, 0)
    short, long = make_request(2, (*PROMPT[:6], 99, 98, 97)), make_request(3, PROMPT)
    leaders.hold(short, leader)
    leaders.hold(long, leader)
    assert leaders.lead(leader, 4) == [short]
    assert short.num_hit_tokens == 4
    assert leaders.lead(leader, 8) == []
    assert leaders.lead(leader, 12) == [long]  # its last page can not be reused
    assert long.num_hit_tokens == 12


def test_a_leader_that_leaves_frees_its_followers_and_leads_no_more() -> None:
    leaders = PrefixLeaders(4)
    leader, follower, gone = running(1, PROMPT), make_request(2, PROMPT), make_request(3, PROMPT)
    leaders.lead(leader, 0)
    leaders.hold(follower, leader)
    leaders.hold(gone, leader)
    gone.stage = Stage.ENDED
    assert leaders.drop(leader) == [follower]
    assert leaders.find(follower) is None
    assert leaders._groups == {}


def test_a_leader_is_done_when_its_full_pages_are_published() -> None:
    leaders = PrefixLeaders(4)
    leader = running(1, PROMPT)
    leaders.lead(leader, 0)
    leaders.lead(leader, 16)
    assert leaders.leaders() == []


def test_two_leaders_of_one_page_do_not_disturb_each_other() -> None:
    leaders = PrefixLeaders(4)
    one, two = running(1, PROMPT), running(2, PROMPT)
    leaders.lead(one, 0)
    leaders.lead(two, 0)
    leaders.drop(two)
    assert leaders.find(make_request(3, PROMPT)) is one


def test_the_shared_pages_are_counted_wherever_two_prompts_part() -> None:
    tokens = tuple(range(100))
    for num_equal in range(4, 100):
        leaders = PrefixLeaders(4)
        leader = running(1, tokens)
        leaders.lead(leader, 0)
        follower = make_request(2, (*tokens[:num_equal], *([999] * (110 - num_equal))))
        assert leaders.find(follower) is leader
        leaders.hold(follower, leader)
        assert leader.followers == [(num_equal // 4, follower)]


def test_looking_up_is_cheap_for_a_thousand_requests_with_hundreds_of_leaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts hashes, which is where the time would go: two for each request, whatever the number of leaders."""
    leaders = PrefixLeaders(4)
    for number in range(256):
        leaders.lead(running(number, (*PROMPT[:8], 100 + number, *PROMPT)), 8)
    waiting = [make_request(1000 + number, (*PROMPT[:8], 1000 + number, *PROMPT)) for number in range(1000)]
    page_hash, calls = Request.page_hash, []

    def counted(request: Request, num_pages: int) -> int:
        calls.append(num_pages)
        return page_hash(request, num_pages)

    monkeypatch.setattr(Request, "page_hash", counted)
    assert not any(leaders.find(request) for request in waiting)
    assert len(calls) == 2 * len(waiting)
