"""sentence-transformers' trainer, with a card that can be read where rows have many passages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformerTrainer

_SHOWN = ("negative_1", "negative_2")


class RetrieverTrainer(SentenceTransformerTrainer):
    """Describes two columns of negatives in the card, and writes none into checkpoints.

    A row with 100 passages would make a card of more than a megabyte, with the texts of 500 of
    them, which takes longer to write than the weights.
    """

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Collect what the card says of the rows."""
        trainer: Any = self
        whole = trainer.train_dataset
        trainer.train_dataset = _narrow(whole)
        super().add_model_card_callback(default_args_dict)
        trainer.train_dataset = whole

    def _save(
        self, output_dir: str | None = None, state_dict: Mapping[str, Any] | None = None
    ) -> None:
        self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)


def _narrow(rows: Dataset | DatasetDict) -> Dataset | DatasetDict:
    """The rows without all but the first two columns of negatives.

    Example:
        >>> columns = ["query", "positive", "negative_1", "negative_2", "negative_3", "label"]
        >>> _narrow(Dataset.from_dict({name: ["a"] for name in columns})).column_names
        ['query', 'positive', 'negative_1', 'negative_2', 'label']
    """
    if isinstance(rows, Mapping):
        return DatasetDict({name: _narrow(part) for name, part in rows.items()})
    hidden = [
        name for name in rows.column_names if name.startswith("negative_") and name not in _SHOWN
    ]
    return rows.remove_columns(hidden)
