"""Rows and columns that were made of them in, both together out, as `map` leaves them."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, Features, concatenate_datasets

from rir_hf.core.provenance import with_steps


def with_columns_of(
    ds: Dataset, added: Dataset, steps: list[dict[str, Any]], fingerprint: str
) -> Dataset:
    """The rows of a dataset with the columns of another beside them or in their place, in the order
    and format of `map`.

    Args:
        ds: the rows.
        added: as many rows, with the added columns.
        steps: the records of what made them.
        fingerprint: what `datasets` shall know the result by. Its own would depend on the age of
            the files.
    """
    replaced = [name for name in added.column_names if name in ds.column_names]
    left = ds.with_format(None).remove_columns(replaced)
    names = [*ds.column_names, *(name for name in added.column_names if name not in replaced)]
    if len(ds):
        joined = concatenate_datasets([left, added], axis=1).select_columns(names)
    else:  # concatenating leaves columns without rows out
        kinds = {**left.features, **added.features}
        joined = Dataset.from_dict(
            {name: [] for name in names}, Features({name: kinds[name] for name in names})
        )
    info = with_steps(ds.info, steps)
    info.features = None
    return _in_format_of(
        ds, Dataset(joined.data, info=info, split=ds.split, fingerprint=fingerprint)
    )


def _in_format_of(ds: Dataset, mapped: Dataset) -> Dataset:
    """The mapped rows formatted as `map` leaves them: new columns as those that were formatted."""
    format = ds.format
    left_out = set(ds.column_names) - set(format["columns"])
    if format["type"] is None and not left_out:
        return mapped
    columns = [name for name in mapped.column_names if name not in left_out]
    return mapped.with_format(
        format["type"],
        columns=columns,
        output_all_columns=format["output_all_columns"],
        **format["format_kwargs"],
    )
