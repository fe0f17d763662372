from __future__ import annotations

from random import Random

from runtime.scheduling.policy import load_policy
from runtime.scheduling.queue import MAX_LEFT_ENTRIES, WaitingQueue
from tests.scheduling.conftest import make_request


def make_queue(policy: str = "fcfs") -> WaitingQueue:
    return WaitingQueue(load_policy(policy, Random(1)))


def drained(queue: WaitingQueue) -> list[int]:
    order = []
    while queue.head() is not None:
        order.append(queue.pop().request_id)
    return order


def test_the_order_is_the_policys() -> None:
    queue = make_queue()
    for number in (3, 1, 2):
        queue.push(make_request(number, [1]), 0.0)
    assert drained(queue) == [1, 2, 3]
    assert len(queue) == 0


def test_requests_at_the_front_come_before_all_others() -> None:
    queue = make_queue()
    for number in (1, 2, 8, 9):
        request = make_request(number, [1])
        request.is_front = number >= 8
        queue.push(request, 0.0)
    assert drained(queue) == [8, 9, 1, 2]


def test_a_request_that_ended_is_passed_over() -> None:
    queue = make_queue()
    requests = [make_request(number, [1]) for number in range(3)]
    for request in requests:
        queue.push(request, 0.0)
    queue.discard(requests[0])
    queue.discard(requests[0])
    assert len(queue) == 2
    assert drained(queue) == [1, 2]


def test_requests_that_ended_do_not_pile_up() -> None:
    queue = make_queue()
    for number in range(10 * MAX_LEFT_ENTRIES):
        request = make_request(number, [1])
        queue.push(request, 0.0)
        queue.discard(request)
        assert len(queue._entries) <= MAX_LEFT_ENTRIES + 1


def test_a_new_match_changes_the_order() -> None:
    queue = make_queue("lpm")
    requests = [make_request(number, [1]) for number in range(3)]
    for request in requests:
        queue.push(request, 0.0)
    assert queue.head() is requests[0]
    requests[2].num_hit_tokens = 8
    queue.rerank(requests[2], 0.0)
    assert drained(queue) == [2, 0, 1]


def test_a_long_queue_is_in_order_of_arrival_and_ranked_again_when_it_is_short() -> None:
    queue = make_queue("lpm")
    for number in range(130):
        request = make_request(number, [1])
        request.num_hit_tokens = number
        queue.push(request, 0.0)
    assert [queue.head() and queue.pop().request_id for _ in range(2)] == [0, 1]
    assert len(queue) == 128
    assert [queue.head() and queue.pop().request_id for _ in range(2)] == [129, 128]


def test_a_request_is_offered_for_watching_only_when_ranked_and_once() -> None:
    queue = make_queue("lpm")
    for number in range(129):
        queue.push(make_request(number, [1]), 0.0)
    assert queue.unwatched() == []
    queue.head()
    queue.pop()
    fresh = queue.unwatched()
    assert len(fresh) == 128
    for request in fresh:
        request.is_watched = True
    assert queue.unwatched() == []
    queue.pop()
    queue.push(make_request(200, [1]), 0.0)
    assert [request.request_id for request in queue.unwatched()] == [200]


def test_without_need_nothing_is_watched() -> None:
    queue = make_queue("fcfs")
    queue.push(make_request(1, [1]), 0.0)
    assert queue.unwatched() == []
