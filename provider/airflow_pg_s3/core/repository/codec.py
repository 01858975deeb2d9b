"""Bytes as they are stored: zstd (RFC 8878), then age (age-encryption.org/v1) if asked for.

Both are streamed, so that a member of any size needs the same memory. What is stored is what ``zstd -d`` and
``age -d`` read.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_pg_s3.core.errors import InputError, IntegrityError

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd
if TYPE_CHECKING:
    from airflow_pg_s3.core.repository.manifest import Encryption


ZSTD_SUFFIX = ".zst"
AGE_SUFFIX = ".age"
MIN_LEVEL, MAX_LEVEL = 1, 19
_OUTPUT_BYTES = 1 << 20
_NO_KEY = "No matching keys found"  # pyrage's words


class Encoder:
    """How the members of one backup are stored.

    :param level: zstd level, 1 (fast) to 19 (small).
    :param recipients: age recipients (``age1...`` or ``ssh-ed25519 ...``); none means no encryption.
    :raises InputError: a level or recipient that cannot be used.
    """

    def __init__(self, *, level: int, recipients: Sequence[str] = ()) -> None:
        if not MIN_LEVEL <= level <= MAX_LEVEL:
            raise InputError(f"compression_level must be {MIN_LEVEL} to {MAX_LEVEL}, not {level}")
        self.level = level
        self.recipients = list(recipients)
        self._age_recipients = [_parse_recipient(text) for text in recipients]
        self.suffix = ZSTD_SUFFIX + (AGE_SUFFIX if recipients else "")

    def encode(self, chunks: Iterator[bytes], write: Callable[[bytes], object]) -> None:
        """Compress and encrypt `chunks` into `write`, on the caller's thread."""
        compressed = self._compress(chunks)
        if not self._age_recipients:
            for piece in compressed:
                write(piece)
            return
        pyrage = _import_pyrage()
        source = IteratorReader(compressed)
        sink = _CallWriter(write)
        try:
            pyrage.encrypt_io(source, sink, self._age_recipients)
        finally:
            # Also without an exception: pyrage writes its last bytes as it lets go of its buffer, and forgets
            # whether that went well.
            _raise_first(source.error, sink.error)

    def for_chunks(self) -> Callable[[memoryview], bytes]:
        """What compresses and encrypts chunks, each by itself. One thread may use it."""
        compressor = self._compressor()
        pyrage = _import_pyrage() if self._age_recipients else None

        def encode(raw: memoryview) -> bytes:
            frame = compressor.compress(raw, compressor.FLUSH_FRAME)
            return frame if pyrage is None else bytes(pyrage.encrypt(frame, self._age_recipients))

        return encode

    def _compressor(self) -> zstd.ZstdCompressor:
        # The checksum lets `zstd -t` find damage without us.
        return zstd.ZstdCompressor(
            options={
                zstd.CompressionParameter.compression_level: self.level,
                zstd.CompressionParameter.checksum_flag: 1,
            }
        )

    def _compress(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        compressor = self._compressor()
        for chunk in chunks:
            if piece := compressor.compress(chunk):
                yield piece
        yield compressor.flush()


class Decoder:
    """The way back from stored bytes.

    :param encryption: what the manifest says, None for a backup in the clear.
    :param identities: age identities (``AGE-SECRET-KEY-1...``) to try.
    :raises InputError: the backup is encrypted and no usable identity of a recipient is given.
    """

    def __init__(self, encryption: Encryption | None, identities: Sequence[str] = ()) -> None:
        self._identities: list[Any] = []
        if encryption is not None:
            if not identities:
                raise InputError(
                    "the backup is encrypted with age: give the connection that holds an identity of one of "
                    f"its recipients ({', '.join(encryption.recipients)}) as age_identity_conn_id"
                )
            self._identities = [_parse_identity(text) for text in identities]
            self._recipients = encryption.recipients
            are_recipients = [_is_recipient(identity, self._recipients) for identity in self._identities]
            self._has_recipient = True in are_recipients
            are_known = None not in are_recipients and all(r.startswith("age1") for r in self._recipients)
            if self._recipients and are_known and not self._has_recipient:
                raise self._no_recipient()

    def decode(self, stored: Iterator[bytes], write: Callable[[bytes], object]) -> None:
        """Decrypt and decompress `stored` into `write`, on the caller's thread.

        :raises IntegrityError: the bytes are damaged or end too early.
        :raises InputError: no identity opens them, and none is known to be a recipient's.
        """
        unpack = _Decompressor(write)
        try:
            if self._identities:
                pyrage = _import_pyrage()
                source = IteratorReader(stored)
                sink = _CallWriter(unpack.write)
                try:
                    pyrage.decrypt_io(source, sink, self._identities)
                except (pyrage.DecryptError, OSError) as error:  # OSError: behind age's header
                    _raise_first(source.error, sink.error)
                    # What no identity opens may be damaged; a key of somebody else must not look like that.
                    if str(error) == _NO_KEY and not self._has_recipient:
                        raise self._no_recipient() from error
                    raise IntegrityError(f"cannot be decrypted: {error}") from error
                _raise_first(source.error, sink.error)
            else:
                for chunk in stored:
                    unpack.write(chunk)
            unpack.finish()
        except zstd.ZstdError as error:
            raise IntegrityError(f"cannot be decompressed: {error}") from error

    def decode_chunk(self, stored: bytes, raw_bytes: int) -> bytes:
        """Decrypt and decompress what is stored of one chunk.

        :param raw_bytes: how long it was; no more is unpacked, whatever a bomb would unpack to.
        :raises IntegrityError: the bytes are damaged, or unpack to another length.
        :raises InputError: as `decode`.
        """
        pieces: list[bytes] = []

        def take(piece: bytes) -> None:
            pieces.append(piece)
            if sum(map(len, pieces)) > raw_bytes:
                raise IntegrityError(f"is longer than the {raw_bytes} bytes backed up")

        self.decode(iter((stored,)), take)
        raw = b"".join(pieces)
        if len(raw) != raw_bytes:
            raise IntegrityError(f"has {len(raw)} bytes, but {raw_bytes} were backed up")
        return raw

    def _no_recipient(self) -> InputError:
        return InputError(
            "none of the age identities given is that of a recipient of the backup "
            f"({', '.join(self._recipients)}): give the connection that holds one as age_identity_conn_id"
        )


class _Decompressor:
    """Pushes decompressed bytes to `write`, in pieces of at most 1 MiB."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._frame = zstd.ZstdDecompressor()
        self._ended = False

    def write(self, chunk: bytes) -> None:
        data = chunk
        while data or not (self._ended or self._frame.needs_input):
            if self._ended:
                raise IntegrityError("has bytes after its end")
            if piece := self._frame.decompress(data, _OUTPUT_BYTES):
                self._write(piece)
            self._ended = self._frame.eof
            data = self._frame.unused_data

    def finish(self) -> None:
        if not self._ended:
            raise IntegrityError("ends too early")


class IteratorReader(io.RawIOBase):
    """A file to read from, fed by an iterator; what pyrage and pyfastcdc want as their input."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.error: BaseException | None = None

    def readable(self) -> bool:
        """True, as for every file to read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the next piece goes; 0 at the end."""
        while not self._rest:
            try:
                chunk = next(self._chunks, None)
            except BaseException as error:
                self.error = error  # pyrage would turn it into text
                raise
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _CallWriter(io.RawIOBase):
    """A file to write to that calls a function; what pyrage wants as its output."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self.error: BaseException | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.error is None:  # after an error, pyrage empties its buffer nevertheless
            try:
                self._write(bytes(data))
            except BaseException as error:
                self.error = error
                raise
        return len(data)


def _raise_first(*errors: BaseException | None) -> None:
    for error in errors:
        if error is not None:
            raise error


def _import_pyrage() -> Any:
    try:
        import pyrage  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            "encryption needs pyrage: install airflow-provider-pg-s3[encryption] on the worker"
        ) from error
    return pyrage


def _parse_recipient(text: str) -> Any:
    pyrage = _import_pyrage()
    if any(word in text.upper() for word in ("AGE-SECRET-KEY", "PRIVATE KEY")):
        # The message must not repeat it.
        raise InputError(
            "an age recipient is an identity, which is secret: give its public key, which age-keygen -y tells, "
            "and make a new identity, as this one stands in the DAG"
        )
    try:
        if text.startswith("ssh-"):
            return pyrage.ssh.Recipient.from_str(text)
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise InputError(f"age recipient {text!r} is not valid: {error}") from error


def _is_recipient(identity: Any, recipients: Sequence[str]) -> bool | None:
    """True if an identity is that of one of the recipients; None for an SSH key, which does not tell."""
    return str(identity.to_public()) in recipients if hasattr(identity, "to_public") else None


def identities_in(text: str) -> list[str]:
    """The age identities in a text, as age's own files have them: one a line, beside comments; or one SSH key."""
    if text.startswith("-----BEGIN"):
        return [text]
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _parse_identity(text: str) -> Any:
    pyrage = _import_pyrage()
    try:
        if text.startswith("-----BEGIN"):
            return pyrage.ssh.Identity.from_buffer(text.encode())
        return pyrage.x25519.Identity.from_str(text)
    except pyrage.IdentityError as error:
        # The text is a secret: the message must not repeat it.
        raise InputError("the age identity is not valid; it should begin with AGE-SECRET-KEY-1") from error
