from __future__ import annotations

from runtime.scheduling.request import HASH_STRIDE_PAGES
from tests.scheduling.conftest import make_request


def test_page_hashes_agree_exactly_as_far_as_the_tokens_do() -> None:
    one = make_request(1, [1, 2, 3, 4, 5, 6], page_size=2)
    two = make_request(2, [1, 2, 3, 4, 6, 5], page_size=2)
    assert one.page_hash(1) == two.page_hash(1)
    assert one.page_hash(2) == two.page_hash(2)
    assert one.page_hash(3) != two.page_hash(3)


def test_a_page_hash_depends_on_the_pages_before() -> None:
    one = make_request(1, [1, 2, 3, 4], page_size=2)
    two = make_request(2, [2, 1, 3, 4], page_size=2)
    assert one.page_hash(2) != two.page_hash(2)


def test_page_hashes_of_long_prompts_see_every_token() -> None:
    num_pages = 3 * HASH_STRIDE_PAGES
    tokens = tuple(range(2 * num_pages))
    request = make_request(1, tokens, page_size=2)
    assert len({request.page_hash(number) for number in range(1, num_pages + 1)}) == num_pages
    for position in (0, 127, 128, 255, 256, 383):
        other = make_request(2, (*tokens[:position], -1, *tokens[position + 1 :]), page_size=2)
        assert other.page_hash(num_pages) != request.page_hash(num_pages)
        if position >= 2:
            assert other.page_hash(position // 2) == request.page_hash(position // 2)


def test_the_last_token_is_never_shared() -> None:
    assert make_request(1, [1, 2, 3, 4], page_size=4).num_shareable_pages == 0
    assert make_request(1, [1, 2, 3, 4, 5], page_size=4).num_shareable_pages == 1


def test_pages_are_reserved_for_what_was_generated_too() -> None:
    request = make_request(1, [1, 2, 3], page_size=4)
    assert request.num_reserved_tokens == 4
    request.output_ids += [7, 8]
    assert request.num_reserved_tokens == 8


def test_known_ids_do_not_repeat_what_a_retraction_kept() -> None:
    request = make_request(1, [1, 2])
    request.output_ids += [7, 8]
    request.token_ids = request.known_ids()
    request.output_ids.append(9)
    assert request.known_ids() == (1, 2, 7, 8, 9)


def test_the_last_token_that_is_sampled_need_not_be_computed() -> None:
    assert make_request(1, [1, 2, 3], max_new_tokens=4).num_target_tokens == 6
    assert make_request(1, [1, 2, 3], max_new_tokens=1).num_target_tokens == 3
    assert make_request(1, [1, 2, 3], max_new_tokens=0).num_target_tokens == 3


def test_every_lease_has_a_page_of_its_own() -> None:
    request = make_request(1, [1, 2, 3, 4, 5], page_size=4)
    request.begin_run(lease_id=1, pages=(0, 1), num_cached_tokens=4)
    assert request.num_own_pages == 1
    request.grow((2,))
    assert request.num_own_pages == 2
