from __future__ import annotations

import logging
from pathlib import Path

import pytest

from runtime.actors.journal import Delivery, FullJournal, Journal, read
from runtime.actors.mailbox import Envelope
from tests.actors.conftest import HandClock, Said


def test_the_ring_keeps_the_last_headers() -> None:
    clock = HandClock()
    journal = Journal(clock, num_kept=2)
    for number in range(3):
        clock.now_s = float(number)
        journal("b", Envelope("a", Said("hello")))
    assert journal.num_deliveries == 3
    assert journal.deliveries() == [Delivery(2, 1.0, "a", "b", "Said"), Delivery(3, 2.0, "a", "b", "Said")]


def test_dump_writes_headers_but_no_content_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(HandClock())
    journal("b", Envelope("a", Said("secret")))
    with caplog.at_level(logging.ERROR):
        journal.dump("b crashed")
    assert caplog.messages == ["b crashed; the last 1 deliveries:\n#1 0.000000 a -> b Said"]


def test_full_journals_are_equal_if_and_only_if_the_runs_are() -> None:
    def digest(*texts: str, moved_s: float = 0.0) -> str:
        clock = HandClock()
        journal = FullJournal(clock)
        for text in texts:
            journal("b", Envelope("a", Said(text)))
            clock.now_s += moved_s
        return journal.digest()

    assert digest("one", "two") == digest("one", "two")
    assert len({digest("one", "two"), digest("two", "one"), digest("one"), digest("one", "two", moved_s=1.0)}) == 4


def test_a_saved_journal_reads_back(tmp_path: Path) -> None:
    journal = FullJournal(HandClock())
    journal.note("choice", ["delay", 3])
    journal("b", Envelope("a", Said("hello")))
    path = tmp_path / "run.jsonl"
    journal.save(path)
    (choice, delivery) = read(path)
    assert choice == ("choice", ["delay", 3])
    assert delivery[0] == "delivery"
    assert delivery[1][:4] == [0.0, "a", "b", "Said"]
