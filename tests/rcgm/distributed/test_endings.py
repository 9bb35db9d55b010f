"""Runs of two processes come to their end, whatever that is, with nothing on its way between them.

``python -m tests.support.endings`` makes many on a busy machine.
"""

from tests.support.endings import fail_while_the_other_is_stuck, problem, short_run, train_and_count
from tests.support.launching import finish, run_ranks, start_ranks


def test_the_interpreter_ends_well(tmp_path):
    found = problem(tmp_path / "short")
    assert not found, found


def test_every_message_is_waited_for(tmp_path):
    more = ["sample.every=2", "evaluate.at_end=true", "evaluate.count=8", "accumulate=2", "checkpoint.every=2"]
    run_ranks(train_and_count, ([*short_run(tmp_path / "short"), *more],), 2, tmp_path)


def test_a_process_that_fails_does_not_wait_for_one_that_is_stuck(tmp_path):
    ranks = start_ranks(fail_while_the_other_is_stuck, (short_run(tmp_path / "short"),), 2, tmp_path)
    try:
        ranks[0].process.join(120)
        assert ranks[0].code == 3, ranks[0].output
        assert "a disk is broken" in ranks[0].output
        assert ranks[1].code is None, ranks[1].output
    finally:
        ranks[1].process.kill()
        finish(ranks)
