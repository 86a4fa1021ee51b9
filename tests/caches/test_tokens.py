import pytest
import torch
from torch.testing import assert_close

from kvpred.caches import Tokens
from kvpred.caches.tokens import BLOCK


def rows(first: int, last: int) -> torch.Tensor:
    """Two sequences of one head, whose entries count the tokens; the second counts in negative numbers."""
    count = torch.arange(first, last, dtype=torch.float32)[None, None, :, None]
    return torch.cat([count, -count])


def test_entries_come_back_in_the_order_they_were_appended() -> None:
    tokens = Tokens()
    tokens.append(rows(0, 3))
    for i in range(3, 3 * BLOCK):
        tokens.append(rows(i, i + 1))
    assert len(tokens) == 3 * BLOCK
    assert_close(tokens.view, rows(0, 3 * BLOCK))


def test_spare_room_is_not_counted() -> None:
    tokens = Tokens()
    assert tokens.nbytes == 0
    tokens.append(rows(0, 3))
    tokens.append(rows(3, 4))
    assert tokens.nbytes == 2 * 4 * 4


def test_appending_copies_the_buffer_once_a_block() -> None:
    tokens = Tokens()
    tokens.append(rows(0, BLOCK))
    buffers = set()
    for i in range(BLOCK, 4 * BLOCK):
        tokens.append(rows(i, i + 1))
        buffers.add(tokens.view.data_ptr())
    assert len(buffers) == 3


def test_what_was_appended_may_change_afterwards() -> None:
    tokens, first = Tokens(), rows(0, 3)
    tokens.append(first)
    first.zero_()
    assert_close(tokens.view, rows(0, 3))


def test_writing_to_the_view_changes_the_tokens() -> None:
    tokens = Tokens()
    tokens.append(rows(0, 3))
    tokens.append(rows(3, 4))
    tokens.view[:, :, 1] = 7
    assert tokens.view[0, 0, :, 0].tolist() == [0, 7, 2, 3]


def test_cleared_tokens_are_gone_and_leave_their_room() -> None:
    tokens = Tokens()
    tokens.append(rows(0, 5))
    place = tokens.view.data_ptr()
    tokens.clear()
    assert len(tokens) == tokens.nbytes == 0
    tokens.append(rows(8, 10))
    assert tokens.view.data_ptr() == place
    assert_close(tokens.view, rows(8, 10))


def test_sequences_are_taken_in_the_order_asked_for() -> None:
    tokens = Tokens()
    tokens.reorder(torch.tensor([0]))
    tokens.append(rows(0, 3))
    tokens.reorder(torch.tensor([1, 0, 1]))
    assert_close(tokens.view, rows(0, 3)[[1, 0, 1]])


def test_a_tensor_that_will_not_grow_further_ends_there() -> None:
    tokens = Tokens(most=BLOCK + 5)
    tokens.append(rows(0, BLOCK))
    for i in range(BLOCK, BLOCK + 5):
        tokens.append(rows(i, i + 1))
    assert tokens.view.is_contiguous()
    assert tokens.view.untyped_storage().nbytes() == tokens.nbytes


def test_nothing_can_be_seen_of_nothing() -> None:
    with pytest.raises(ValueError, match="no entries yet"):
        _ = Tokens().view
