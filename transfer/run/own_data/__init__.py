"""A person's own boxes, masks or label maps in a folder -> any mm config trained on them."""

from transfer.run.own_data.config import take_data

__all__ = ["take_data"]
