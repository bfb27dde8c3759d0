"""A part of the data by reference: one day of arrival and one bucket of its users.  What a task of a cluster is handed instead
of rows.

Batch scoring reads its day through a `Part`.  Everything else that a cluster would spread works on the rows of one part and
gives, put together, what the whole gives: `labels.labels`, `aggregate.update` and `recent.update`, `AsOfSource.fetch`, samples
by hash of the request, `serving.batch.score_part` (tests/test_seams.py holds all five to it).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import mix
from infra.lake import Lake

_SALT = 0x50_41_52_54


def bucket_of(user_id: npt.NDArray[np.int64], buckets: int) -> npt.NDArray[np.int64]:
    """The bucket, 0 .. buckets - 1, of each user [n]; people who aren't known (-1) share one."""
    return (mix(_SALT, user_id) % np.uint64(buckets)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Part:
    """What arrived on `day` (YYYY-MM-DD) for the users of one bucket; for all of them by default."""

    day: str
    bucket: int = 0
    buckets: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.bucket < self.buckets:
            raise ValueError(f"bucket {self.bucket} of {self.buckets}: buckets count from 0")

    def holds(self, user_id: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which users [n] belong to it."""
        return bucket_of(user_id, self.buckets) == self.bucket

    def batches(self, lake: Lake, table: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Its rows of a table, in order, a row group (`infra.lake.ROWS_A_GROUP`) in memory at a time.

        `columns` (all by default) must hold user_id where there is more than one bucket."""
        scan = lake.scan(table)
        names = scan.schema.names if columns is None else list(columns)
        for file in scan.get_fragments(filter=pc.field("day") == self.day):
            for group in file.split_by_row_group():  # a scanner would read ahead of a slow caller without end (pyarrow 25)
                for batch in group.to_table(scan.schema, columns=names).to_batches():
                    if self.buckets > 1:
                        batch = batch.filter(pa.array(self.holds(pc.fill_null(batch["user_id"], -1).to_numpy())))
                    if batch.num_rows:
                        yield batch

    def read(self, lake: Lake, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Its rows of a table, all at once; see `batches`."""
        whole = lake.scan(table).schema
        schema = whole if columns is None else pa.schema([whole.field(name) for name in columns])
        return pa.Table.from_batches(self.batches(lake, table, columns), schema)


def parts(days: Iterable[str], buckets: int) -> list[Part]:
    """Every part of some days."""
    return [Part(day, bucket, buckets) for day in days for bucket in range(buckets)]
