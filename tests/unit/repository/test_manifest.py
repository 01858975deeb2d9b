"""A manifest is what was written, or it is refused with one clear error, whatever somebody put into it."""

import contextlib
import copy
import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.repository import manifest as manifests
from tests.support.stored_backups import sealed_json

ID = "20261122T030000Z-5f3a9c"
WHERE = f"s3://bucket/prefix/shop/{ID}.json"
DIGEST = "0" * 64
OTHER = "20261121T030000Z-00002a"
VALID = {
    "format": 1,
    "backup_id": ID,
    "database": 'a/b "ünï"\n',
    "created_at": "2026-11-22T03:00:00Z",
    "duration_seconds": 1.5,
    "server": {
        "version": "18.1",
        "version_num": 180001,
        "system_identifier": "7",
        "host": "db.example.org",
        "encoding": "UTF8",
        "collate": "C.UTF-8",
        "ctype": "C.UTF-8",
        "locale_provider": "libc",
        "locale": None,
        "icu_rules": None,
        "extensions": [{"name": "plpgsql", "version": "1.0"}],
    },
    "dump": {
        "pg_dump_version": "18.1",
        "options": ["--no-owner", "-s"],
        "left_out_by": ["--schema-only"],
        "lc_monetary": "C",
        "has_globals": True,
        "jobs": 2,
    },
    "compression": {"method": "zstd", "level": 1},
    "encryption": {"method": "age", "recipients": ["age1xyz"]},
    "producer": {
        "tool": "airflow-provider-pg-s3",
        "version": "0.1",
        "dag_id": "d",
        "task_id": "t",
        "run_id": "r",
        "map_index": -1,
        "try_number": 1,
    },
    "chunking": {"method": "fastcdc-2020", "average_bytes": 1 << 20},
    "raw_bytes": 111,
    "stored_bytes": 22,
    "new_stored_bytes": 12,
    "chunks": 3,
    "new_chunks": 1,
    "tables": 1,
    "rows": 3,
    "members": {"stored_bytes": 100, "raw_bytes": 300, "sha256": DIGEST},
    "packs": [
        {"key": f"{ID}/pack-0001.tar.zst.age", "stored_bytes": 10},
        {"key": f"{ID}/pack-0002.tar.zst.age", "stored_bytes": 1},
    ],
    "runs": {OTHER: [[2, 3], [5, 5]], ID: [[1, 1]]},
}


def changed(change):
    """The valid manifest with something done to it, as bytes."""
    record = copy.deepcopy(VALID)
    change(record)
    return sealed_json(record)


def with_value(*path_and_value):
    *path, last, value = path_and_value

    def change(record):
        for step in path:
            record = record[step]
        record[last] = value

    return changed(change)


def parse(data):
    return manifests.parse(data, where=WHERE)


def test_what_is_written_is_what_is_read():
    manifest = parse(sealed_json(VALID))
    assert parse(manifest.to_json()) == manifest
    written = json.loads(manifest.to_json())
    assert {field: written[field] for field in VALID} == VALID
    assert manifest.created_at == datetime(2026, 11, 22, 3, tzinfo=UTC)


def test_people_can_read_it_line_by_line():
    text = parse(sealed_json(VALID)).to_json().decode()
    assert f' "backup_id": "{ID}",\n' in text
    assert text.endswith("}\n")


def test_fields_of_a_later_version_are_passed_over():
    def add_everywhere(record):
        for place in (record, record["server"], record["packs"][0], record["members"]):
            place["from_the_future"] = {"deep": [1]}

    assert parse(changed(add_everywhere)) == parse(sealed_json(VALID))


@pytest.mark.parametrize("number", [2, 0, -1, 10**30])
def test_another_format_is_an_input_error_that_says_to_upgrade(number):
    with pytest.raises(InputError, match=f"has format {number}.*reads format 1: upgrade it") as caught:
        parse(json.dumps({"format": number, "all else": "differs"}).encode())
    assert str(caught.value).startswith(WHERE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"{}",
        b"\xff\xfe",
        b"\0" * 100,
        b"<?xml version='1.0'?>",
        b"[" * 100_000,
        b'{"format": "one"}',
        b'{"format": null}',
        b'{"format": 1.5}',
        b'{"format": NaN}',
        b'{"format": 1' + b"0" * 5000 + b"}",
        sealed_json(VALID) + b"x",
        sealed_json(VALID)[:-2],
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(IntegrityError, match="is not a manifest") as caught:
        parse(data)
    assert str(caught.value).startswith(WHERE)
    assert len(str(caught.value)) < 500


def test_a_dump_that_left_nothing_out_need_not_say_so():
    assert parse(changed(lambda record: record["dump"].pop("left_out_by"))).dump.left_out_by == []


def test_without_the_locale_of_money_it_is_the_sources():
    assert parse(changed(lambda record: record["dump"].pop("lc_monetary"))).dump.lc_monetary is None


def test_money_in_another_locale_than_c_is_refused():
    with pytest.raises(IntegrityError, match=r"is refused: dump\.lc_monetary"):
        parse(with_value("dump", "lc_monetary", "es_AR.UTF-8"))


@pytest.mark.parametrize(
    "value", ["--schema-only", [""], ["-s"], ["--schema-only=x"], ["--a b"], ["--a\n"], [5], [None]]
)
def test_what_left_something_out_is_long_names_of_options(value):
    with pytest.raises(IntegrityError, match=r"is refused: dump\.left_out_by"):
        parse(with_value("dump", "left_out_by", value))


NO_KEYS = [
    "",
    "5.dat.zst",
    "/5.dat.zst",
    f"/{ID}/5.dat.zst",
    f"{ID}/",
    f"{ID}/..",
    f"{ID}/../other/5.dat",
    f"{ID}/.hidden",
    f"{ID}/folder/5.dat",
    f"{ID}/%2e%2e%2fother",
    f"{ID}//5.dat",
    f"{ID}x/5.dat",
    f"x{ID}/5.dat",
    f"{ID}/5.dat\n",
    f"{ID}/5.dat\0",
    f"{ID}/ünï",
    "20261122T030000Z-000000/5.dat.zst",
    f"s3://other/{ID}/5.dat",
]


@pytest.mark.parametrize("key", NO_KEYS, ids=repr)
def test_an_object_outside_the_backups_own_folder_is_refused(key):
    with pytest.raises(IntegrityError, match="is outside the backup's own folder"):
        parse(with_value("packs", 0, "key", key))


HOSTILE = {
    "two packs of one key": (
        lambda r: r["packs"].append(r["packs"][0]),
        "an object is listed twice",
    ),
    "runs in a folder that is no backup's": (lambda r: r["runs"].update({"../x": [[1, 1]]}), "runs"),
    "a run of number 0": (lambda r: r["runs"][ID].insert(0, [0, 0]), f"runs.{ID}.0.0"),
    "a run of a huge number": (lambda r: r["runs"][ID].append([2, 1 << 31]), f"runs.{ID}.1.1"),
    "a range that goes back": (lambda r: r["runs"][OTHER].append([9, 8]), "are not ranges that ascend"),
    "ranges that overlap": (lambda r: r["runs"][OTHER].append([5, 6]), "are not ranges that ascend"),
    "half a range": (lambda r: r["runs"][OTHER].append([7]), f"runs.{OTHER}.2.1"),
    "an id that is none": (lambda r: r.update(backup_id="../../x"), "backup_id"),
    "an id with digits of another script": (
        lambda r: r.update(backup_id=ID.replace("2", "٢")),
        "backup_id",
    ),
    "a digest that is none": (lambda r: r["members"].update(sha256="0" * 63), "members.sha256"),
    "a digest in capitals": (lambda r: r["members"].update(sha256="A" * 64), "members.sha256"),
    "a negative size": (lambda r: r["members"].update(raw_bytes=-1), "members.raw_bytes"),
    "a huge size": (lambda r: r["members"].update(raw_bytes=1 << 63), "members.raw_bytes"),
    "a fraction of a byte": (lambda r: r["members"].update(raw_bytes=1.5), "members.raw_bytes"),
    "an object of no bytes": (lambda r: r["packs"][0].update(stored_bytes=0), "packs.0.stored_bytes"),
    "an object of huge size": (lambda r: r["packs"][0].update(stored_bytes=10**30), "packs.0.stored_bytes"),
    "a huge total": (lambda r: r.update(rows=10**400), "rows"),
    "another compression": (lambda r: r["compression"].update(method="gzip"), "compression.method"),
    "another encryption": (lambda r: r["encryption"].update(method="rot13"), "encryption.method"),
    "a pg_dump without a version": (lambda r: r["dump"].update(pg_dump_version="new"), "dump.pg_dump_version"),
    "no members": (lambda r: r.pop("members"), "members"),
    "members that are no record": (lambda r: r.update(members="toc.dat"), "members"),
    "a date that is none": (lambda r: r.update(created_at="tomorrow"), "created_at"),
}


@pytest.mark.parametrize(("change", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_hostile_is_refused_with_one_clear_error(change, problem):
    with pytest.raises(IntegrityError) as caught:
        parse(changed(change))
    text = str(caught.value)
    assert text.startswith(f"{WHERE} is refused: ")
    assert problem in text
    assert "\n" not in text


def test_an_error_does_not_repeat_what_the_manifest_holds():
    with pytest.raises(IntegrityError) as caught:
        parse(with_value("members", "sha256", "\x1b[2J" + "CANARY" * 10_000))
    assert "CANARY" not in str(caught.value)


def test_all_objects_of_a_backup_are_named_its_own_and_others():
    assert list(parse(sealed_json(VALID)).object_keys()) == [
        f"{ID}/members.json.zst",
        f"{ID}/pack-0001.tar.zst.age",
        f"{ID}/pack-0002.tar.zst.age",
        f"{OTHER}/000002.zst.age",
        f"{OTHER}/000003.zst.age",
        f"{OTHER}/000005.zst.age",
        f"{ID}/000001.zst.age",
    ]
    in_the_clear = parse(changed(lambda record: record.update(encryption=None)))
    assert f"{OTHER}/000005.zst" in in_the_clear.object_keys()


def test_it_refers_to_these_and_no_others():
    manifest = parse(sealed_json(VALID))
    assert all(map(manifest.refers_to, manifest.object_keys()))
    others = ["begun", "pack-0003.tar.zst.age", "000002.zst.age", "000001.zst"]
    assert not any(manifest.refers_to(f"{ID}/{name}") for name in others)
    assert not manifest.refers_to(f"{OTHER}/members.json.zst")


def test_ranges_hold_numbers_and_nothing_else():
    assert manifests.ranges_of([]) == []
    assert manifests.ranges_of([7, 2, 3, 1, 3, 9, 8]) == [(1, 3), (7, 9)]


@pytest.mark.parametrize("number", [1, 999_999, 1_000_000])
@pytest.mark.parametrize("is_encrypted", [True, False])
def test_the_key_of_a_run_says_whose_it_is_and_its_number(number, is_encrypted):
    key = manifests.run_key(ID, number, is_encrypted=is_encrypted)
    assert manifests.parse_run_key(key) == (ID, number)


def test_a_run_is_referred_to_if_its_number_is_in_a_range():
    manifest = parse(sealed_json(VALID))
    numbers = {
        backup_id: [n for n in range(10) if manifest.refers_to_run(f"{backup_id}/00000{n}.zst.age")]
        for backup_id in (OTHER, ID, "20261121T030000Z-00002b")
    }
    assert numbers == {OTHER: [2, 3, 5], ID: [1], "20261121T030000Z-00002b": []}
    assert not manifest.refers_to_run(f"{ID}/000001.zst")
    assert not manifest.refers_to_run(f"{ID}/0000001.zst.age")
    assert not manifest.refers_to_run(f"{ID}/pack-0001.tar.zst.age")


@pytest.mark.parametrize("key", [*NO_KEYS, f"{ID}/00001.zst", f"{ID}/000001.zst.gz", f"{ID}/pack-0001.tar.zst"])
def test_the_key_of_something_else_is_no_runs(key):
    assert manifests.parse_run_key(key) is None


KEY = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}/[A-Za-z0-9_][A-Za-z0-9_.-]*")
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*NO_KEYS, 1 << 64, 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """Every place in a JSON document."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


@given(st.sampled_from([path for path in places(VALID) if path]), json_values, st.booleans())
def test_nothing_but_the_two_errors_comes_out_for_whatever_is_changed(path, value, remove):
    def change(record):
        for step in path[:-1]:
            record = record[step]
        if remove:
            del record[path[-1]]
        else:
            record[path[-1]] = value

    with contextlib.suppress(InputError, IntegrityError):
        manifest = parse(changed(change))
        assert all(KEY.fullmatch(key) for key in manifest.object_keys())


@given(st.integers(0, len(sealed_json(VALID)) - 1), st.integers(1, 255))
def test_no_byte_can_change_unnoticed(place, change):
    data = bytearray(sealed_json(VALID))
    data[place] ^= change
    with pytest.raises((InputError, IntegrityError)):
        parse(bytes(data))


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace('"rows": 3', '"rows": 4'),
        lambda text: text.replace('"sha256": "', '"sha257": "'),
        lambda text: text + " ",
        lambda text: json.dumps(VALID, indent=1) + "\n",
        lambda text: text.replace('"format": 1,', '"format": 1,\n "sha256": "' + "0" * 64 + '",').replace(
            "18", "17"
        ),
    ],
)
def test_what_was_edited_or_never_sealed_is_refused(edit):
    with pytest.raises(IntegrityError, match=r"is refused: its (last field|sha256).*damaged, or was edited"):
        parse(edit(sealed_json(VALID).decode()).encode())


@given(st.binary(max_size=60), st.integers(0, 3000), st.integers(0, 60))
def test_nothing_but_the_two_errors_comes_out_for_damaged_bytes(noise, place, cut):
    data = sealed_json(VALID)
    with contextlib.suppress(InputError, IntegrityError):
        parse(data[:place] + noise + data[place + cut :])
