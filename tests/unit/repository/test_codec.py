"""Stored bytes come back as they were, or not at all; and they are what the standard programs read."""

import random
import shutil
import subprocess
import sys

import pyrage
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.errors import Cancelled, InputError, IntegrityError
from airflow_pg_s3.core.repository import codec
from airflow_pg_s3.core.repository.codec import MAX_LEVEL, MIN_LEVEL, Decoder, Encoder
from airflow_pg_s3.core.repository.manifest import Encryption

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
AGE_CHUNK = 64 << 10
OUTPUT_PIECE = 1 << 20
SIZES = [0, 1, 100, AGE_CHUNK - 1, AGE_CHUNK, AGE_CHUNK + 1, OUTPUT_PIECE - 1, OUTPUT_PIECE, OUTPUT_PIECE + 1]
noise = random.Random(0).randbytes(OUTPUT_PIECE + 1)

SSH_KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


class StopNow(BaseException):
    """Like AirflowTaskTimeout: no Exception."""


def encoder(age):
    return Encoder(level=1, recipients=[RECIPIENT] if age else [])


def decoder(age, identity=str(IDENTITY)):
    return Decoder(Encryption(method="age", recipients=[RECIPIENT]), [identity]) if age else Decoder(None)


def encoded(data, age):
    pieces = []
    encoder(age).encode(iter([data]), pieces.append)
    return b"".join(pieces)


def decoded(stored, age, chunk=1 << 16):
    pieces = []
    decoder(age).decode((stored[i : i + chunk] for i in range(0, len(stored), chunk)), pieces.append)
    return b"".join(pieces)


both = pytest.mark.parametrize("age", [False, True], ids=["plain", "age"])


@both
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["noise", "zeros"])
def test_what_is_decoded_is_what_was_encoded(age, size, kind):
    data = noise[:size] if kind == "noise" else bytes(size)
    assert decoded(encoded(data, age), age) == data


@both
@given(st.lists(st.binary(max_size=300), max_size=10), st.integers(1, 50))
def test_cutting_either_side_into_chunks_changes_nothing(age, chunks, stored_chunk):
    pieces = []
    encoder(age).encode(iter(chunks), pieces.append)
    assert decoded(b"".join(pieces), age, stored_chunk) == b"".join(chunks)


@both
def test_decoded_pieces_are_small_however_well_the_data_was_compressed(age):
    stored = encoded(bytes(8 << 20), age)
    sizes = []
    decoder(age).decode(iter([stored]), lambda piece: sizes.append(len(piece)))
    assert len(stored) < 4096
    assert (sum(sizes), max(sizes)) == (8 << 20, OUTPUT_PIECE)


@both
def test_an_empty_chunk_means_nothing_even_at_the_end(age):
    stored = encoded(b"data", age)
    pieces = []
    decoder(age).decode(iter([b"", stored, b""]), pieces.append)
    assert b"".join(pieces) == b"data"


@both
def test_a_stream_cut_off_at_any_byte_is_refused(age):
    stored = encoded(noise[:50], age)
    for length in range(len(stored)):
        with pytest.raises(IntegrityError):
            decoded(stored[:length], age)


@both
def test_a_flipped_bit_anywhere_never_gives_other_data(age):
    data = b"1\tone\n2\ttwo\n" * 4
    stored = encoded(data, age)
    for place in range(len(stored)):
        damaged = bytearray(stored)
        damaged[place] ^= 1 << place % 8
        try:
            found = decoded(bytes(damaged), age)
        except IntegrityError:
            continue
        # zstd has bits in its frame's header that mean nothing; age has none.
        assert not age, place
        assert found == data, place


@both
@pytest.mark.parametrize("garbage", [b"\0", b"garbage" * 1000])
def test_bytes_behind_the_end_are_refused(age, garbage):
    with pytest.raises(IntegrityError):
        decoded(encoded(b"data", age) + garbage, age)


@both
def test_a_second_stream_behind_the_first_is_refused(age):
    with pytest.raises(IntegrityError):
        decoded(encoded(b"data", age) * 2, age)


@pytest.mark.parametrize(("written_with", "read_with"), [(False, True), (True, False)])
def test_a_stream_of_the_other_kind_is_refused(written_with, read_with):
    with pytest.raises(IntegrityError):
        decoded(encoded(b"data", written_with), read_with)


def failing_at(number, error):
    """A writer that fails at one of its calls."""
    calls = iter(range(number))

    def write(_):
        if next(calls, None) is None:
            raise error

    return write


def calls_of(run):
    calls = []
    run(calls.append)
    return len(calls)


@both
@pytest.mark.parametrize(
    "error", [Cancelled("stop"), StopNow(), KeyboardInterrupt(), OSError(28, "disk full")], ids=repr
)
class TestAnErrorComesOutAsItWentIn:
    def test_of_the_reader_while_encoding(self, age, error):
        def chunks():
            yield noise
            raise error

        with pytest.raises(type(error)) as caught:
            encoder(age).encode(chunks(), len)
        assert caught.value is error

    @pytest.mark.parametrize("size", [1, AGE_CHUNK, AGE_CHUNK * 3])
    def test_of_the_writer_while_encoding_whichever_call_fails(self, age, error, size):
        # The last one too: pyrage itself would swallow it, and the object would lack its end.
        calls = calls_of(lambda write: encoder(age).encode(iter([noise[:size]]), write))
        for number in range(calls):
            with pytest.raises(type(error)) as caught:
                encoder(age).encode(iter([noise[:size]]), failing_at(number, error))
            assert caught.value is error

    def test_of_the_reader_while_decoding(self, age, error):
        stored = encoded(noise[:1000], age)

        def chunks():
            yield stored[:-10]
            raise error

        with pytest.raises(type(error)) as caught:
            decoder(age).decode(chunks(), len)
        assert caught.value is error

    @pytest.mark.parametrize("size", [1, AGE_CHUNK, AGE_CHUNK * 3])
    def test_of_the_writer_while_decoding_whichever_call_fails(self, age, error, size):
        stored = encoded(noise[:size], age)
        calls = calls_of(lambda write: decoder(age).decode(iter([stored]), write))
        for number in range(calls):
            with pytest.raises(type(error)) as caught:
                decoder(age).decode(iter([stored]), failing_at(number, error))
            assert caught.value is error


def test_the_identity_of_somebody_else_is_refused_before_anything_is_read():
    stranger = str(pyrage.x25519.Identity.generate())
    with pytest.raises(InputError, match=f"none of the age identities .* recipient.*{RECIPIENT}") as caught:
        decoder(True, identity=stranger)
    assert stranger not in str(caught.value)


def test_any_recipient_opens_it_with_their_own_identity_among_others():
    friend = pyrage.x25519.Identity.generate()
    pieces = []
    Encoder(level=1, recipients=[RECIPIENT, str(friend.to_public())]).encode(iter([b"data"]), pieces.append)
    for identities in ([str(friend)], [str(pyrage.x25519.Identity.generate()), str(IDENTITY)]):
        opened = []
        Decoder(Encryption(method="age", recipients=[]), identities).decode(iter(pieces), opened.append)
        assert opened == [b"data"]


def another_ssh_key():
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        .decode()
    )


def test_ssh_keys_are_recipients_and_identities():
    public = SSH_KEY.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    private = SSH_KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    pieces, opened = [], []
    Encoder(level=1, recipients=[public.decode()]).encode(iter([b"data"]), pieces.append)
    encryption = Encryption(method="age", recipients=[public.decode()])
    Decoder(encryption, [private.decode()]).decode(iter(pieces), opened.append)
    assert opened == [b"data"]
    # Whose an SSH key is shows only when it opens nothing: no reason to take the backup for damaged.
    for strangers in ([str(IDENTITY)], [another_ssh_key()]):
        with pytest.raises(InputError, match="none of the age identities given is that of a recipient"):
            Decoder(encryption, strangers).decode(iter(pieces), opened.append)


def test_an_encrypted_backup_without_an_identity_is_an_input_error_that_says_what_to_give():
    with pytest.raises(InputError, match=f"encrypted with age.*{RECIPIENT}.*age_identity_conn_id"):
        Decoder(Encryption(method="age", recipients=[RECIPIENT]), [])


@pytest.mark.parametrize("level", [MIN_LEVEL - 1, -5, MAX_LEVEL + 1, 22])
def test_a_level_out_of_range_is_refused(level):
    with pytest.raises(InputError, match=f"compression_level must be 1 to 19, not {level}"):
        Encoder(level=level)


@pytest.mark.parametrize("level", [MIN_LEVEL, 3, MAX_LEVEL])
def test_every_level_in_range_works(level):
    pieces = []
    Encoder(level=level).encode(iter([b"text " * 1000]), pieces.append)
    assert decoded(b"".join(pieces), age=False) == b"text " * 1000


@pytest.mark.parametrize(
    "recipient",
    ["", "age1", "age1nonsense", "ssh-rsa AAAA", "postgres", RECIPIENT[:-1], "\0"],
    ids=["empty", "a beginning", "nonsense", "no SSH key", "a word", "cut off", "a NUL"],
)
def test_a_recipient_that_is_none_is_refused_and_named(recipient):
    with pytest.raises(InputError) as caught:
        Encoder(level=1, recipients=[RECIPIENT, recipient])
    assert f"age recipient {recipient!r} is not valid" in str(caught.value)


@pytest.mark.parametrize(
    "identity",
    [
        str(IDENTITY)[:-1],
        "AGE-SECRET-KEY-1CANARY",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nCANARY\n-----END OPENSSH PRIVATE KEY-----",
        "CANARY",
        "",
    ],
    ids=["cut off", "nonsense", "no SSH key", "a word", "empty"],
)
def test_an_identity_that_is_none_is_refused_without_being_repeated(identity):
    with pytest.raises(InputError, match="the age identity is not valid") as caught:
        Decoder(Encryption(method="age", recipients=[RECIPIENT]), [identity])
    error = caught.value
    while error is not None:
        assert "CANARY" not in str(error)
        assert str(IDENTITY)[20:-1] not in str(error)
        error = error.__cause__


@pytest.mark.parametrize(
    "use",
    [
        lambda: Encoder(level=1, recipients=[RECIPIENT]),
        lambda: Decoder(Encryption(method="age", recipients=[RECIPIENT]), [str(IDENTITY)]),
    ],
    ids=["backup", "restore"],
)
def test_without_pyrage_the_error_says_what_to_install(monkeypatch, use):
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with pytest.raises(InputError, match=r"install airflow-provider-pg-s3\[encryption\]"):
        use()


def test_without_pyrage_everything_else_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrage", None)
    assert decoded(encoded(b"data", age=False), age=False) == b"data"


@pytest.mark.parametrize(("age", "suffix"), [(False, ".zst"), (True, ".zst.age")])
def test_the_suffix_says_what_a_person_must_undo(age, suffix):
    assert encoder(age).suffix == suffix == codec.ZSTD_SUFFIX + (codec.AGE_SUFFIX if age else "")


def run(*argv, stdin):
    return subprocess.run(argv, input=stdin, capture_output=True, check=True).stdout


needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="the program zstd is not installed")
needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="the program age is not installed")


@needs_zstd
@pytest.mark.parametrize("size", [0, 1, OUTPUT_PIECE + 1])
def test_the_program_zstd_reads_what_is_stored(size):
    assert run("zstd", "-d", "-q", "-c", stdin=encoded(noise[:size], age=False)) == noise[:size]


@needs_zstd
def test_zstds_own_check_finds_damage_as_a_checksum_is_stored():
    # Stored as it is, noise has no redundancy that would tell.
    damaged = bytearray(encoded(noise[:1000], age=False))
    damaged[500] ^= 1
    with pytest.raises(subprocess.CalledProcessError):
        run("zstd", "-t", "-q", stdin=bytes(damaged))


@needs_zstd
def test_what_the_program_zstd_writes_is_read_too():
    assert decoded(run("zstd", "-q", "-c", stdin=noise), age=False) == noise


@needs_zstd
@needs_age
def test_the_programs_age_and_zstd_read_what_is_stored(tmp_path):
    key = tmp_path / "key.txt"
    key.write_text(str(IDENTITY) + "\n")
    decrypted = run("age", "-d", "-i", str(key), stdin=encoded(noise, age=True))
    assert run("zstd", "-d", "-q", "-c", stdin=decrypted) == noise


@both
@pytest.mark.parametrize("size", [1, AGE_CHUNK + 1, OUTPUT_PIECE + 1])
def test_chunks_are_each_decoded_by_themselves(age, size):
    encode = encoder(age).for_chunks()
    stored = [encode(memoryview(noise[:size])), encode(memoryview(b"x" * size))]
    assert decoder(age).decode_chunk(stored[1], size) == b"x" * size
    assert decoder(age).decode_chunk(stored[0], size) == noise[:size]


@both
def test_a_chunk_of_another_length_is_refused_and_a_bomb_unpacked_no_further(age, monkeypatch):
    stored = encoder(age).for_chunks()(memoryview(bytes(50 << 20)))
    with pytest.raises(IntegrityError, match="is longer than the 1000 bytes backed up"):
        decoder(age).decode_chunk(stored, 1000)
    with pytest.raises(IntegrityError, match="has 52428800 bytes, but 52428801 were backed up"):
        decoder(age).decode_chunk(stored, (50 << 20) + 1)


@needs_zstd
def test_the_program_zstd_reads_chunks_behind_one_another():
    encode = encoder(age=False).for_chunks()
    stored = encode(memoryview(noise)) + encode(memoryview(b"x" * 100))
    assert run("zstd", "-d", "-q", "-c", stdin=stored) == noise + b"x" * 100
