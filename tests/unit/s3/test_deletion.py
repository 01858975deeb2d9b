"""Objects deleted one by one where a store does not take many."""

import threading
from concurrent.futures import ThreadPoolExecutor

from botocore.exceptions import ClientError

from airflow_pg_s3.core.s3.deletion import Deleter

SECONDS = 60


class Store:
    """A client of a store without DeleteObjects, in which several requests are on their way at the same time."""

    def __init__(self, threads: int) -> None:
        self.deleted: set[str] = set()
        self._together = threading.Barrier(threads)
        self.meta = self
        self.config = self
        self.request_checksum_calculation = "when_supported"

    def delete_objects(self, **_: object) -> None:
        self._together.wait(SECONDS)
        error = {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}
        raise ClientError(error, "DeleteObjects")

    def delete_object(self, *, Bucket: str, Key: str) -> dict[str, object]:
        self.deleted.add(Key)
        return {}


def test_all_threads_find_out_at_the_same_time_that_a_store_does_not_take_many():
    store = Store(threads=3)
    deleter = Deleter(store, "bucket")
    folders = [[f"{number}/{part}" for part in range(5)] for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        refused = list(pool.map(lambda keys: list(deleter.delete(keys)), folders))
    assert store.deleted == {key for keys in folders for key in keys}
    assert refused == [[[]] * 5] * 3
