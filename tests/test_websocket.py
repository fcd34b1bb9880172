"""Chapter 11, WebSocket protocol: RFC 6455 and RFC 7692 in tables and properties, wsproto as the oracle."""

from __future__ import annotations

import itertools
import random
import sys
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import phoenix as ws  # in the single file: import phoenix as ws
import pytest
import wsproto
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x37\xfa\x21\x3d"

# --- Helpers: what a client sends, and events that can be compared --------------------------


def xor(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = MASK
) -> bytes:
    """Build one frame as a client sends it, slowly and plainly."""
    length = len(payload)
    bit = 0x80 if mask is not None else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if length < 126:
        head += bytes([bit | length])
    elif length < 65536:
        head += bytes([bit | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + length.to_bytes(8, "big")
    return head + (payload if mask is None else mask + xor(payload, mask))


def text(value: str, **options: Any) -> bytes:
    return frame(TEXT, value.encode(), **options)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def plain(event: object) -> object:
    """Turn an event into something that compares by value."""
    if isinstance(event, ws._Ping):
        return ("ping", event.payload)
    if isinstance(event, ws._Pong):
        return ("pong", event.payload)
    if isinstance(event, ws._Close):
        return ("close", event.code, event.reason)
    if isinstance(event, ws.WebSocketError):
        return ("error", event.code)
    assert type(event) in (str, bytes), event
    return event


def receive(chunks: Iterable[bytes], **options: Any) -> list[object]:
    parser = ws._WebSocketParser(**options)
    return [plain(event) for chunk in chunks for event in parser.receive_data(chunk)]


def one_by_one(wire: bytes) -> Iterator[bytes]:
    return (wire[i : i + 1] for i in range(len(wire)))


# --- Reading: frames and messages -----------------------------------------------------------

EVENTS: list[tuple[bytes, list[object]]] = [
    # RFC 6455 §5.7
    (bytes.fromhex("818537fa213d7f9f4d5158"), ["Hello"]),
    (bytes.fromhex("898537fa213d7f9f4d5158"), [("ping", b"Hello")]),
    (bytes.fromhex("8a8537fa213d7f9f4d5158"), [("pong", b"Hello")]),
    # data frames, and every way to write a length
    (text(""), [""]),
    (frame(BINARY), [b""]),
    (frame(BINARY, b"\x00\xff"), [b"\x00\xff"]),
    (text("κόσμε 🎉"), ["κόσμε 🎉"]),
    (text("a" * 125), ["a" * 125]),
    (text("b" * 126), ["b" * 126]),
    (frame(BINARY, b"c" * 300), [b"c" * 300]),
    (text("d", mask=bytes(4)), ["d"]),
    (text("one") + text("two") + frame(BINARY, b"3"), ["one", "two", b"3"]),
    # control frames
    (frame(PING), [("ping", b"")]),
    (frame(PING, b"p" * 125), [("ping", b"p" * 125)]),
    (frame(PONG, b"\xff"), [("pong", b"\xff")]),
    # fragments, with control frames between them
    (text("Hel", fin=False) + frame(CONTINUATION, b"lo"), ["Hello"]),
    (text("", fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION), [""]),
    (frame(BINARY, b"\x01", fin=False) + frame(CONTINUATION, b"\x02"), [b"\x01\x02"]),
    (
        text("a", fin=False)
        + frame(PING, b"1")
        + frame(CONTINUATION, b"b", fin=False)
        + frame(PONG)
        + frame(0, b"c"),
        [("ping", b"1"), ("pong", b""), "abc"],
    ),
    (
        text("κ"[:0], fin=False) + frame(CONTINUATION, b"\xce", fin=False) + frame(CONTINUATION, b"\xba"),
        ["κ"],
    ),
    (text("x", fin=False) + frame(CONTINUATION, b"y") + text("z"), ["xy", "z"]),
    # closing
    (frame(CLOSE), [("close", None, "")]),
    (close(1000), [("close", 1000, "")]),
    (close(1001, "weg 👋".encode()), [("close", 1001, "weg 👋")]),
    (close(3000, b"r" * 123), [("close", 3000, "r" * 123)]),
    (text("a", fin=False) + close(1000), [("close", 1000, "")]),
    (close(1000) + text("too late"), [("close", 1000, "")]),
    (text("in time") + close(1000) + b"garbage", ["in time", ("close", 1000, "")]),
]


@pytest.mark.parametrize("wire, events", EVENTS)
def test_a_stream_is_read_whole_cut_and_with_more_behind_it(wire: bytes, events: list[object]) -> None:
    assert receive([wire]) == events
    for cut in range(len(wire) + 1):
        assert receive([wire[:cut], wire[cut:]]) == events
    assert receive(one_by_one(wire)) == events
    ended = isinstance(events[-1], tuple) and events[-1][0] == "close"
    assert receive([wire + text("more")]) == (events if ended else [*events, "more"])
    assert receive([wire + b"\x81"]) == events


BROKEN: list[tuple[bytes, int]] = [
    *[(frame(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],  # reserved (§5.2)
    *[(frame(opcode, rsv=rsv), 1002) for opcode in (0, TEXT, BINARY, CLOSE, PING) for rsv in range(1, 8)],
    (text("a", mask=None), 1002),  # a client masks (§5.1)
    (frame(PING, mask=None), 1002),
    (frame(PING, fin=False), 1002),  # control frames are whole and short (§5.5)
    (frame(CLOSE, fin=False), 1002),
    (frame(PING, b"p" * 126), 1002),
    (frame(CLOSE, b"\x03\xe8" + b"r" * 124), 1002),
    (frame(CONTINUATION, b"a"), 1002),  # fragments follow one another (§5.4)
    (text("a", fin=False) + text("b"), 1002),
    (text("a", fin=False) + frame(BINARY, b"b", fin=False), 1002),
    (text("a") + frame(CONTINUATION, b"b"), 1002),
    (b"\x81\xfe\x00\x7d" + MASK, 1002),  # a length has its shortest form (§5.2)
    (b"\x81\xfe\x00\x00" + MASK, 1002),
    (b"\x82\xff" + (65535).to_bytes(8, "big") + MASK, 1002),
    (b"\x82\xff" + (1 << 63).to_bytes(8, "big") + MASK, 1002),
    (frame(CLOSE, b"\x03"), 1002),  # a code has two bytes (§5.5.1)
    (close(1000, b"\xff"), 1007),
]


@pytest.mark.parametrize("wire, code", BROKEN)
def test_a_broken_rule_is_told_after_the_messages_before_it_and_ends_the_stream(
    wire: bytes, code: int
) -> None:
    before = [event for event in receive([wire]) if event in ("a", "b")]
    expected = ["first", *before, ("error", code)]
    wire = text("first") + wire
    assert receive([wire]) == expected
    assert receive([wire + text("more")]) == expected
    assert receive([wire, text("more")]) == expected
    assert receive(one_by_one(wire)) == expected


@pytest.mark.parametrize(
    "wire, code",
    [
        (b"\x83", 1002),  # at the first byte: opcode 3,
        (b"\xc1", 1002),  # a reserved bit,
        (b"\x09", 1002),  # a control frame in fragments,
        (b"\x80", 1002),  # nothing to continue
        (b"\x81\x05", 1002),  # at the second: no mask,
        (b"\x89\xfe", 1002),  # a control frame too long
        (b"\x81\xfe\x00\x01", 1002),  # at the length
        (b"\x81\xff" + (1 << 62).to_bytes(8, "big"), 1009),
    ],
)
def test_a_header_is_judged_as_soon_as_the_byte_is_there(wire: bytes, code: int) -> None:
    assert receive([wire[:-1]]) == []
    assert receive([wire]) == [("error", code)]
    assert receive(one_by_one(wire)) == [("error", code)]


def test_an_error_carries_a_code_and_a_reason_that_fits_into_a_close_frame() -> None:
    wires = [*BROKEN, (b"\x82\xff" + ((1 << 63) - 1).to_bytes(8, "big"), 1009), (frame(TEXT, b"\xff"), 1007)]
    for wire, code in wires:
        error = ws._WebSocketParser(max_size=2**62).receive_data(wire)[-1]
        assert isinstance(error, ws.WebSocketError) and isinstance(error, ws.PhoenixError)
        assert (error.code, str(error)) == (code, error.reason)
        assert 0 < len(error.reason.encode()) <= 123


VALID_CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, *range(3000, 5000)}


def test_only_close_codes_that_may_be_sent_are_accepted() -> None:
    for code in [*range(5100), 0x7FFF, 0x8000, 0xFFFF]:
        event = ("close", code, "") if code in VALID_CODES else ("error", 1002)
        assert receive([close(code)]) == [event]


# --- Reading: limits ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5, 124, 125, 126, 127, 1000, 65535, 65536, 100_000])
def test_a_message_may_be_as_long_as_the_limit_and_no_longer(size: int) -> None:
    payload = b"x" * size
    assert receive([frame(BINARY, payload)], max_size=size) == [payload]
    assert receive([frame(TEXT, payload)], max_size=size) == [payload.decode()]
    assert receive([frame(BINARY, payload + b"x")], max_size=size) == [("error", 1009)]
    half = size // 2
    whole = frame(BINARY, payload[:half], fin=False) + frame(CONTINUATION, payload[half:])
    assert receive([whole], max_size=size) == [payload]
    over = frame(BINARY, payload[:half], fin=False) + frame(CONTINUATION, payload[half:] + b"x")
    assert receive([over], max_size=size) == [("error", 1009)]
    assert receive([whole + whole], max_size=size) == [payload, payload]


def test_a_message_over_the_limit_is_refused_before_its_payload_arrives() -> None:
    announced = frame(BINARY, bytes(1001))[:4]
    assert receive([announced], max_size=1000) == [("error", 1009)]
    first = frame(BINARY, bytes(600), fin=False)
    second = frame(CONTINUATION, bytes(401))[:4]
    assert receive([first], max_size=1000) == []
    assert receive([first + second], max_size=1000) == [("error", 1009)]


def test_control_frames_do_not_count_against_the_limit() -> None:
    wire = frame(BINARY, b"ab", fin=False) + frame(PING, bytes(100)) + frame(CONTINUATION, b"c")
    assert receive([wire], max_size=3) == [("ping", bytes(100)), b"abc"]


def test_many_frames_in_one_chunk_are_read_in_linear_time() -> None:
    class Chunk(bytes):
        """Bytes that count how much of them was copied out."""

        copied = 0

        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            Chunk.copied += len(part) if isinstance(key, slice) else 1
            return part

    for sample in (
        text("hello"),
        frame(PING, b"p"),
        frame(BINARY, bytes(200)),
        text("a", fin=False) + frame(0, b"b"),
    ):
        chunk = Chunk(sample * 500)
        Chunk.copied = 0
        assert len(ws._WebSocketParser().receive_data(chunk)) == 500
        assert Chunk.copied < 3 * len(chunk)


def test_a_message_in_the_smallest_pieces_takes_little_more_room_than_its_bytes() -> None:
    parser = ws._WebSocketParser()
    wire = frame(TEXT, "€".encode() * 20_000)
    fragments = frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"x", fin=False) * 60_000
    for pieces in (one_by_one(wire[:-1]), iter([fragments])):
        tracemalloc.start()
        for piece in pieces:
            assert parser.receive_data(piece) == []
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < (
            300_000 if sys.version_info >= (3, 12) else 9_000_000
        )  # StringIO is a list before 3.12
        parser = ws._WebSocketParser()


def test_an_idle_parser_keeps_nothing_of_what_it_read() -> None:
    parser = ws._WebSocketParser(max_size=1 << 22)
    parser.receive_data(frame(BINARY, bytes(1 << 16)))  # makes the tables
    tracemalloc.start()
    for chunk in (frame(BINARY, bytes(1 << 21))[: 1 << 20], bytes(1 << 20), bytes(14)):
        parser.receive_data(chunk)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak > 1 << 20 and kept < 10_000  # another thread of the test runner may keep something of its own


# --- Reading: UTF-8 -------------------------------------------------------------------------


def well_formed_prefix(data: bytes) -> int:
    """Return how many bytes of *data* can begin a well-formed text (Unicode 15, table 3-7)."""
    at = 0
    while at < len(data):
        lead = data[at]
        if lead < 0x80:
            rest = []
        elif 0xC2 <= lead <= 0xDF:
            rest = [(0x80, 0xBF)]
        elif 0xE0 <= lead <= 0xEF:
            rest = [({0xE0: 0xA0}.get(lead, 0x80), {0xED: 0x9F}.get(lead, 0xBF)), (0x80, 0xBF)]
        elif 0xF0 <= lead <= 0xF4:
            rest = [({0xF0: 0x90}.get(lead, 0x80), {0xF4: 0x8F}.get(lead, 0xBF)), (0x80, 0xBF), (0x80, 0xBF)]
        else:
            return at
        for i, (low, high) in enumerate(rest, at + 1):
            if i < len(data) and not low <= data[i] <= high:
                return i
        at += 1 + len(rest)
    return len(data)


ILL_FORMED = [
    b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc3\x28", b"\xe0\x80\x80", b"\xe0\x9f\xbf",
    b"\xe2\x28\xa1", b"\xe2\x82\x28", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf", b"\xf0\x28\x8c\xbc",
    b"\xf0\x90\x28\xbc", b"\xf0\x90\x8c\x28", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xfe", b"\xff",
    b"\xed\xa0\xbd\xed\xb8\x80", "κόσμε".encode() + b"\xf4\x90",
]  # fmt: skip


@pytest.mark.parametrize("bad", ILL_FORMED)
def test_text_that_is_not_utf_8_is_refused_at_the_very_byte(bad: bytes) -> None:
    for before in (b"", b"ok ", "é€🎉".encode()):
        payload = before + bad + b" and more"
        fatal = well_formed_prefix(payload)
        whole = frame(TEXT, payload)
        assert receive([whole]) == [("error", 1007)]
        start = len(whole) - len(payload)
        assert receive([whole[: start + fatal]]) == []
        assert receive([whole[: start + fatal + 1]]) == [("error", 1007)]
        assert receive(one_by_one(whole[: start + fatal])) == []
        pieces = [frame(CONTINUATION, byte, fin=False) for byte in one_by_one(payload)]
        fragments = [frame(TEXT, fin=False), *pieces]
        assert receive(fragments[: fatal + 1]) == []
        assert receive(fragments[: fatal + 2]) == [("error", 1007)]


@pytest.mark.parametrize("cut", [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x8e", b"ok \xf0"])
def test_text_that_ends_within_a_character_is_refused(cut: bytes) -> None:
    assert receive([frame(TEXT, cut)]) == [("error", 1007)]
    assert receive(one_by_one(frame(TEXT, cut))) == [("error", 1007)]
    assert receive([frame(TEXT, cut, fin=False)]) == []
    assert receive([frame(TEXT, cut, fin=False) + frame(PING) + frame(0)]) == [("ping", b""), ("error", 1007)]


@settings(deadline=None)
@given(st.binary(max_size=30), st.integers(0, 30))
def test_utf_8_is_judged_as_the_unicode_standard_has_it(payload: bytes, cut: int) -> None:
    ok = well_formed_prefix(payload) == len(payload)
    unfinished = frame(TEXT, payload[:cut], fin=False) + frame(CONTINUATION, payload[cut:], fin=False)
    assert receive([unfinished]) == ([] if ok else [("error", 1007)])
    try:
        expected: list[object] = [payload.decode()]
    except UnicodeDecodeError:
        expected = [("error", 1007)]
    assert receive([frame(TEXT, payload)]) == expected


def test_binary_messages_and_pings_may_hold_anything() -> None:
    everything = bytes(range(256))
    assert receive([frame(BINARY, everything) + frame(PING, everything[-99:])]) == [
        everything,
        ("ping", everything[-99:]),
    ]


# --- Masking --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(20), 125, 126, 2047, 2048, 2049, 2050, 2051, 5000])
def test_unmasking_is_the_same_by_every_method(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    for mask in (MASK, bytes(4), b"\xff\x00\xff\x00"):
        assert ws._unmask(payload, mask) == xor(payload, mask)


@settings(deadline=None)
@given(
    st.binary(max_size=6000), st.binary(min_size=4, max_size=4), st.lists(st.integers(0, 6014), max_size=8)
)
def test_a_payload_cut_anywhere_keeps_its_mask_in_step(payload: bytes, mask: bytes, cuts: list[int]) -> None:
    wire = frame(BINARY, payload, mask=mask)
    edges = [0, *sorted(cuts), len(wire)]
    assert receive(wire[a:b] for a, b in itertools.pairwise(edges)) == [payload]


# --- Compression (RFC 7692) -----------------------------------------------------------------


class Deflater:
    """A client's side of permessage-deflate, written with zlib alone."""

    def __init__(self, bits: int = 15, takeover: bool = True) -> None:
        self.bits, self.takeover = bits, takeover
        self.compressor = zlib.compressobj(wbits=-bits)

    def __call__(self, payload: bytes) -> bytes:
        if not self.takeover:
            self.compressor = zlib.compressobj(wbits=-self.bits)
        return (self.compressor.compress(payload) + self.compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def final_stream(payload: bytes) -> bytes:
    """Compress so that the last block says that it is the last."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(payload) + compressor.flush()


SENTENCE = "The quick brown fox jumps over the lazy dog. κόσμε! "


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_compressed_messages_are_read_whole_and_cut(takeover: bool, bits: int) -> None:
    deflater = Deflater(bits, takeover)
    options: dict[str, Any] = {"client_no_context_takeover": not takeover, "client_max_window_bits": bits}
    messages: list[str | bytes] = [
        SENTENCE,
        SENTENCE,
        "",
        b"\x00" * 500,
        SENTENCE * 20,
        b"",
        "plain",
        SENTENCE,
    ]
    wire, events = b"", list[object]()
    for message in messages:
        opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        if message == "plain":  # compression is chosen per message
            wire += frame(opcode, payload)
        elif len(payload) > 600:  # in fragments: only the first one says that it is compressed
            packed = deflater(payload)
            wire += (
                frame(opcode, packed[:9], fin=False, rsv=4) + frame(PING) + frame(CONTINUATION, packed[9:])
            )
            events.append(("ping", b""))
        else:
            wire += frame(opcode, deflater(payload), rsv=4)
        events.append(message)
    assert receive([wire], deflate=ws._PerMessageDeflate(**options)) == events
    assert receive(one_by_one(wire), deflate=ws._PerMessageDeflate(**options)) == events
    for cut in range(len(wire)):
        assert receive([wire[:cut], wire[cut:]], deflate=ws._PerMessageDeflate(**options)) == events


@pytest.mark.parametrize(
    "payload",
    [
        "f248cdc9c90700",  # RFC 7692 §7.2.3.1: one block
        "000500faff48656c6c6f00",  # §7.2.3.3: not compressed
        "f348cdc9c9070000",  # §7.2.3.4: BFINAL set
        "f248050000 00ffff cac9c90700",  # §7.2.3.5: two blocks
    ],
)
def test_the_examples_of_rfc_7692_are_read(payload: str) -> None:
    wire = frame(TEXT, bytes.fromhex(payload), rsv=4)
    for chunks in ([wire], one_by_one(wire)):
        assert receive(chunks, deflate=ws._PerMessageDeflate()) == ["Hello"]


def test_a_window_may_be_used_again_or_forgotten() -> None:
    hello, again = (
        frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv=4),
        frame(TEXT, bytes.fromhex("f200110000"), rsv=4),
    )
    assert receive([hello + again], deflate=ws._PerMessageDeflate()) == ["Hello", "Hello"]  # §7.2.3.2
    forgetful = ws._PerMessageDeflate(client_no_context_takeover=True)
    assert receive([hello + again], deflate=forgetful) == ["Hello", ("error", 1002)]


def test_messages_that_all_end_with_a_final_block_are_read() -> None:
    wire = b""
    for _ in range(5):
        wire += frame(TEXT, final_stream(SENTENCE.encode()) + b"\x00", rsv=4)
    assert receive([wire], deflate=ws._PerMessageDeflate()) == [SENTENCE] * 5
    assert receive(one_by_one(wire), deflate=ws._PerMessageDeflate()) == [SENTENCE] * 5


def test_a_message_of_many_final_blocks_is_refused_at_once() -> None:
    empty_stream = final_stream(b"")
    wire = frame(BINARY, empty_stream * 300_000, rsv=4)
    assert receive([wire], deflate=ws._PerMessageDeflate()) == [("error", 1002)]
    assert receive([wire[:20], wire[20:21], wire[21:]], deflate=ws._PerMessageDeflate()) == [("error", 1002)]


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5000])
def test_the_limit_holds_for_the_inflated_message(size: int) -> None:
    packed = Deflater()(b"x" * size)
    expected = [b"x" * size] if size <= 1000 else [("error", 1009)]
    half = len(packed) // 2
    fragments = frame(BINARY, packed[:half], rsv=4, fin=False) + frame(CONTINUATION, packed[half:])
    for wire in (frame(BINARY, packed, rsv=4), fragments):
        assert receive([wire], max_size=1000, deflate=ws._PerMessageDeflate()) == expected
        assert receive(one_by_one(wire), max_size=1000, deflate=ws._PerMessageDeflate()) == expected


def test_a_bomb_is_never_inflated() -> None:
    bomb = Deflater()(bytes(200 << 20))
    wire = frame(TEXT, bomb, rsv=4)
    parser = ws._WebSocketParser(max_size=1 << 20, deflate=ws._PerMessageDeflate())
    tracemalloc.start()
    events = parser.receive_data(wire)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [plain(event) for event in events] == [("error", 1009)]
    assert peak < 4 << 20


def test_a_compressed_frame_over_the_limit_is_refused_before_it_arrives() -> None:
    assert receive([b"\xc2\xfe\x10\x00"], max_size=1000, deflate=ws._PerMessageDeflate()) == [("error", 1009)]


@pytest.mark.parametrize("junk", [b"\xff\xff\xff\xff", b"\x07", bytes.fromhex("f200110000")])
def test_junk_that_cannot_be_inflated_is_refused(junk: bytes) -> None:
    assert receive([frame(BINARY, junk, rsv=4)], deflate=ws._PerMessageDeflate())[-1] == ("error", 1002)


def test_compressed_text_is_checked_as_it_arrives() -> None:
    deflater = Deflater()
    first = deflater(b"ok \xff") + b"\x00\x00\xff\xff"
    wire = frame(TEXT, first + deflater(b"more" * 100), rsv=4)
    assert receive([wire[: 8 + len(first)]], deflate=ws._PerMessageDeflate()) == [("error", 1007)]


def test_the_compression_bit_stands_only_where_it_may() -> None:
    def events(wire: bytes) -> list[object]:
        return receive([wire], deflate=ws._PerMessageDeflate())

    assert receive([frame(TEXT, rsv=4)]) == [("error", 1002)]  # not agreed upon
    for wire in (
        frame(PING, rsv=4),
        frame(TEXT, rsv=4, fin=False) + frame(CONTINUATION, rsv=4),
        frame(TEXT, rsv=5),
        frame(TEXT, rsv=6),
        frame(TEXT, rsv=2),
    ):
        assert events(wire) == [("error", 1002)]


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.text(max_size=300), st.binary(max_size=300)), max_size=6),
    st.booleans(),
    st.integers(9, 15),
)
def test_what_is_compressed_here_is_inflated_by_zlib(
    messages: list[str | bytes], takeover: bool, bits: int
) -> None:
    deflate = ws._PerMessageDeflate(server_no_context_takeover=not takeover, server_max_window_bits=bits)
    inflater = zlib.decompressobj(-bits)
    for message in messages:
        sent = ws._serialize_message(message, deflate)
        raw = message.encode() if isinstance(message, str) else message
        opcode = TEXT if isinstance(message, str) else BINARY
        header = 2 if sent[1] < 126 else 4
        if sent[0] & 0x40:
            if not takeover:
                inflater = zlib.decompressobj(-bits)
            assert inflater.decompress(sent[header:] + b"\x00\x00\xff\xff") == raw
            assert sent[0] == 0xC0 | opcode
        else:
            assert (sent[0], sent[header:]) == (0x80 | opcode, raw)
            assert len(raw) < 64


def test_a_repeated_message_shrinks_and_streams_are_made_when_needed() -> None:
    deflate = ws._PerMessageDeflate()
    assert deflate._compressor is None and deflate._decompressor is None
    first, second = (len(ws._serialize_message(SENTENCE * 3, deflate)) for _ in range(2))
    assert second < first / 4 < len(SENTENCE)  # the second refers to the first
    apart = ws._PerMessageDeflate(server_no_context_takeover=True)
    assert len({ws._serialize_message(SENTENCE * 3, apart) for _ in range(3)}) == 1


# --- Handshake ------------------------------------------------------------------------------

REQUEST = {
    "host": ["server.example.com"],
    "upgrade": ["websocket"],
    "connection": ["Upgrade"],
    "sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ=="],
    "sec-websocket-version": ["13"],
}


def accept(changes: dict[str, list[str]] | None = None, **options: Any) -> ws._Handshake:
    headers = {name: values for name, values in {**REQUEST, **(changes or {})}.items() if values}
    return ws._accept_websocket("GET", "1.1", headers, **options)


def test_the_example_of_the_rfc_is_accepted() -> None:
    handshake = accept()
    assert handshake.headers == [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ]
    assert (handshake.subprotocol, handshake.deflate) == (None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"connection": ["keep-alive, Upgrade"]},  # Firefox
        {"connection": ["keep-alive", "uPGRADE"]},
        {"upgrade": ["WebSocket"]},
        {"upgrade": ["h2c, websocket"]},
        {"sec-websocket-extensions": ["permessage-deflate; client_max_window_bits"]},
        {"sec-websocket-protocol": ["chat"]},
        {"content-length": ["0"]},
    ],
)
def test_what_clients_send_in_the_wild_is_accepted(changes: dict[str, list[str]]) -> None:
    assert accept(changes).headers == accept().headers


@pytest.mark.parametrize(
    "changes, status, named",
    [
        ({"upgrade": []}, 426, "upgrade: websocket"),
        ({"upgrade": ["h2c"]}, 426, "h2c"),
        ({"connection": []}, 426, "connection: upgrade"),
        ({"connection": ["keep-alive"]}, 426, "keep-alive"),
        ({"connection": ["upgraded"]}, 426, "upgraded"),
        ({"sec-websocket-version": []}, 426, "sec-websocket-version: 13"),
        ({"sec-websocket-version": ["8"]}, 426, "'8'"),
        ({"sec-websocket-version": ["13, 8"]}, 426, "13, 8"),
        ({"sec-websocket-version": ["13", "13"]}, 426, "13"),
        ({"sec-websocket-key": []}, 400, "sec-websocket-key"),
        ({"sec-websocket-key": [""]}, 400, "16 bytes"),
        ({"sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ"]}, 400, "dGhlIHNhbXBsZSBub25jZQ"),
        ({"sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="]}, 400, "one"),
        ({"sec-websocket-key": ["c2hvcnQ="]}, 400, "c2hvcnQ="),
        ({"sec-websocket-key": ["dGhlIHNhbXBsZSBub25j!!=="]}, 400, "!!"),
        ({"sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ==\n"]}, 400, "16 bytes"),
        ({"sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZWFi"]}, 400, "16 bytes"),  # 18 bytes
        ({"sec-websocket-protocol": ["a b"]}, 400, "'a b'"),
        ({"content-length": ["10"]}, 400, "without a body"),
        ({"transfer-encoding": ["chunked"]}, 400, "without a body"),
    ],
)
def test_a_request_that_is_not_for_a_websocket_is_refused(
    changes: dict[str, list[str]], status: int, named: str
) -> None:
    with pytest.raises(ws._HandshakeError) as info:
        accept(changes)
    assert info.value.status == status
    assert named in str(info.value)
    if status == 426:  # RFC 9110 §15.5.22: an answer 426 says to what
        assert info.value.headers["upgrade"] == "websocket"
    version_is_wrong = "sec-websocket-version" in changes
    assert (info.value.headers.get("sec-websocket-version") == "13") == version_is_wrong


def test_other_methods_and_versions_of_http_are_refused() -> None:
    with pytest.raises(ws._HandshakeError, match="GET, not with POST") as info:
        ws._accept_websocket("POST", "1.1", REQUEST)
    assert (info.value.status, info.value.headers) == (405, {"allow": "GET"})
    with pytest.raises(ws._HandshakeError, match="HTTP/1.0") as info:
        ws._accept_websocket("GET", "1.0", REQUEST)
    assert info.value.status == 400


@pytest.mark.parametrize(
    "offered, spoken, chosen",
    [
        ([], ["chat.v1"], None),
        (["chat.v1"], [], None),
        (["chat.v1"], ["chat.v1"], "chat.v1"),
        (["chat.v1, chat.v2"], ["chat.v2", "chat.v1"], "chat.v2"),  # the server's order
        (["chat.v1", "chat.v2"], ["chat.v2"], "chat.v2"),
        (["phoenix, base64url.bearer.phx.dG9rZW4"], ["phoenix"], "phoenix"),
    ],
)
def test_a_subprotocol_is_chosen(offered: list[str], spoken: list[str], chosen: str | None) -> None:
    handshake = accept({"sec-websocket-protocol": offered}, subprotocols=spoken)
    assert handshake.subprotocol == chosen
    assert dict(handshake.headers).get("sec-websocket-protocol") == chosen


def test_a_client_that_speaks_none_of_the_subprotocols_is_refused() -> None:
    with pytest.raises(ws._HandshakeError, match="chat.v9") as info:
        accept({"sec-websocket-protocol": ["chat.v9, CHAT.V1"]}, subprotocols=["chat.v1"])
    assert info.value.status == 403


DEFLATE = "permessage-deflate"


@pytest.mark.parametrize(
    "offer, answer",
    [
        (None, None),
        ("x-webkit-deflate-frame", None),
        (DEFLATE, f"{DEFLATE}; server_max_window_bits=12"),
        (f"foo; bar=1, {DEFLATE}", f"{DEFLATE}; server_max_window_bits=12"),
        (
            f"{DEFLATE}; client_max_window_bits",
            f"{DEFLATE}; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            f"{DEFLATE}; client_max_window_bits=9; server_max_window_bits=10",
            f"{DEFLATE}; server_max_window_bits=10; client_max_window_bits=9",
        ),
        (
            f'{DEFLATE};client_max_window_bits="15" ; server_max_window_bits = "15"',
            f"{DEFLATE}; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover",
            f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12",
        ),
        (
            f"{DEFLATE}; client_max_window_bits=8",
            f"{DEFLATE}; server_max_window_bits=12; client_max_window_bits=8",
        ),
        # offers that must be declined; the next one may do
        (f"{DEFLATE}; server_max_window_bits=8", None),
        (f"{DEFLATE}; server_max_window_bits", None),
        (f"{DEFLATE}; server_max_window_bits=16", None),
        (f"{DEFLATE}; server_max_window_bits=09", None),
        (f"{DEFLATE}; client_max_window_bits=7", None),
        (f"{DEFLATE}; client_no_context_takeover=1", None),
        (f"{DEFLATE}; unheard_of", None),
        (f"{DEFLATE}; client_max_window_bits; client_max_window_bits", None),
        (f"{DEFLATE}; server_max_window_bits=8, {DEFLATE}", f"{DEFLATE}; server_max_window_bits=12"),
    ],
)
def test_compression_is_negotiated(offer: str | None, answer: str | None) -> None:
    headers = {"sec-websocket-extensions": [offer] if offer else []}
    handshake = accept(headers, compress=True)
    assert dict(handshake.headers).get("sec-websocket-extensions") == answer
    assert (handshake.deflate is None) == (answer is None)
    assert accept(headers).deflate is None  # off unless asked for


@pytest.mark.parametrize(
    "offer", [";", f"{DEFLATE};", f"{DEFLATE}; =1", f"{DEFLATE}; a=", "a b", f'{DEFLATE}; a="b c"']
)
def test_a_malformed_list_of_extensions_is_refused(offer: str) -> None:
    with pytest.raises(ws._HandshakeError) as info:
        accept({"sec-websocket-extensions": [offer]}, compress=True)
    assert info.value.status == 400


@pytest.mark.parametrize(
    "allowed, origin, passes",
    [
        # True: the host of the endpoint's url, and the very scheme, host and port
        (True, "http://10.0.0.1:4000", True),
        (True, "http://10.0.0.1:4001", False),
        (True, "http://example.com", True),
        (True, "https://EXAMPLE.com:8443", True),
        (True, "http://other.com", False),
        (True, "http://www.example.com", False),
        (True, "http://example.com.evil.com", False),
        (True, "http://evil.com/example.com", False),
        (True, "http://user@example.com", False),
        # a list
        (["//example.com"], "http://example.com:4000", True),
        (["//example.com"], "https://example.com", True),
        (["//example.com"], "https://www.example.com", False),
        (["https://host.com"], "https://host.com", True),
        (["https://host.com"], "https://host.com:443", True),
        (["https://host.com"], "http://host.com", False),
        (["https://host.com"], "https://host.com:444", False),
        (["https://host.com:8443"], "https://host.com:8443", True),
        (["//host.com:81"], "http://host.com:81", True),
        (["//host.com:81"], "https://host.com:81", True),
        (["//host.com:81"], "http://host.com", False),
        (["//*.ex.com"], "http://ex.com", True),
        (["//*.ex.com"], "http://a.b.ex.com", True),
        (["//*.ex.com"], "http://prefix-ex.com", False),
        (["//*.ex.com"], "http://*.ex.com", False),
        (["https://*.ex.com:8443"], "https://a.ex.com:8443", True),
        (["https://*.ex.com:8443"], "https://a.ex.com", False),
        (["//a.com", "//b.com"], "http://b.com", True),
        (["capacitor://localhost"], "capacitor://localhost", True),
        (["//[::1]:4000"], "http://[::1]:4000", True),
        ([], "http://example.com", False),
        # "conn": the very scheme, host and port
        ("conn", "http://10.0.0.1:4000", True),
        ("conn", "http://10.0.0.1", False),
        ("conn", "https://10.0.0.1:4000", False),
        ("conn", "http://example.com:4000", False),
        # False: all
        (False, "http://evil.com", True),
        (False, "null", True),
        # what is not an origin
        *[
            (check, bad, False)
            for check in (True, "conn", ["//example.com"])
            for bad in ("null", "file://", "", "//")
        ],
        *[
            (True, bad, False)
            for bad in ("//example.com", "example.com", "http://example.com http://evil.com", "http:")
        ],
    ],
)
def test_origins_are_checked(allowed: Any, origin: str, passes: bool) -> None:
    request: dict[str, Any] = {"url_host": "Example.com", "host": "10.0.0.1", "places": [("http", 4000)]}
    check = ws._OriginCheck(allowed)
    assert check.allows([origin], **request) is passes
    assert check.allows([], **request)  # not from a page
    assert check.allows([origin, origin], **request) is (allowed is False)


def test_ports_left_out_are_those_of_the_scheme() -> None:
    check = ws._OriginCheck("conn")
    assert check.allows(["https://example.com"], url_host="", host="example.com", places=[("https", 443)])
    assert check.allows(["http://[::1]"], url_host="", host="[::1]", places=[("https", 443), ("http", 80)])
    assert check.allows(["http://[::1]"], url_host=None, host="::1", places=[("http", 80)])


@pytest.mark.parametrize(
    "allowed", ["example.com", ["example.com"], ["*"], ["//"], ["//a.com/path"], ["//a.*.com"]]
)
def test_a_mistake_in_the_list_of_origins_is_told_when_it_is_made(allowed: Any) -> None:
    with pytest.raises(ws.ArgumentError, match="expected"):
        ws._OriginCheck(allowed)


# --- Writing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message, wire",
    [
        ("Hello", b"\x81\x05Hello"),
        ("", b"\x81\x00"),
        (b"\x00\xff", b"\x82\x02\x00\xff"),
        ("é" * 62 + "a", b"\x81\x7d" + "é".encode() * 62 + b"a"),
        (b"x" * 126, b"\x82\x7e\x00\x7e" + b"x" * 126),
        (b"x" * 256, b"\x82\x7e\x01\x00" + b"x" * 256),
        (b"x" * 65535, b"\x82\x7e\xff\xff" + b"x" * 65535),
        (b"x" * 65536, b"\x82\x7f" + bytes([0, 0, 0, 0, 0, 1, 0, 0]) + b"x" * 65536),
    ],
)
def test_a_message_is_serialized_as_one_unmasked_frame(message: str | bytes, wire: bytes) -> None:
    assert ws._serialize_message(message) == wire


@pytest.mark.parametrize(
    "code, reason, wire",
    [
        (None, "", b"\x88\x00"),
        (1000, "", b"\x88\x02\x03\xe8"),
        (1001, "bye", b"\x88\x05\x03\xe9bye"),
        (4999, "é", b"\x88\x04\x13\x87\xc3\xa9"),
    ],
)
def test_a_close_frame_is_serialized(code: int | None, reason: str, wire: bytes) -> None:
    assert ws._serialize_close(code, reason) == wire


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536])
def test_a_close_code_that_may_not_be_sent_is_told_to_the_application(code: int) -> None:
    with pytest.raises(ws.ArgumentError, match=str(code)):
        ws._serialize_close(code)


def test_a_reason_too_long_is_told_to_the_application() -> None:
    assert len(ws._serialize_close(1000, "r" * 123)) == 127
    with pytest.raises(ws.ArgumentError, match="123 bytes"):
        ws._serialize_close(1000, "é" * 62)


def test_text_that_has_no_utf_8_cannot_be_serialized() -> None:
    assert ws._serialize_message("🎉") == b"\x81\x04\xf0\x9f\x8e\x89"
    with pytest.raises(UnicodeEncodeError):
        ws._serialize_message("\ud800")


# --- Closing --------------------------------------------------------------------------------


def test_the_peer_closes_first() -> None:
    closing = ws._CloseHandshake()
    assert (closing.is_open, closing.should_drop, closing.code, closing.reason) == (True, False, 1006, "")
    assert closing.answer(ws._Close(1001, "away")) == ws._serialize_close(1001)
    assert (closing.is_open, closing.should_drop, closing.code, closing.reason) == (False, True, 1001, "away")
    assert closing.close(1000) == b""


def test_a_close_without_a_code_is_answered_without_one_and_is_1005_to_the_application() -> None:
    closing = ws._CloseHandshake()
    assert closing.answer(ws._Close(None, "")) == b"\x88\x00"
    assert (closing.should_drop, closing.code) == (True, 1005)


def test_this_side_closes_first() -> None:
    closing = ws._CloseHandshake()
    assert closing.close(1000, "done") == b"\x88\x06\x03\xe8done"
    assert (closing.is_open, closing.should_drop, closing.code, closing.reason) == (
        False,
        False,
        1000,
        "done",
    )
    assert closing.close(1001) == b""  # said once
    assert closing.answer(ws._Ping(b"?")) == b""  # nothing follows a close frame
    assert closing.answer(ws._Close(1000, "")) == b""
    assert (closing.should_drop, closing.code) == (True, 1000)


def test_closes_that_cross_are_one_goodbye_and_the_peers_code_counts() -> None:
    closing = ws._CloseHandshake()
    closing.close(1001)
    assert closing.answer(ws._Close(4000, "x")) == b""
    assert (closing.should_drop, closing.code, closing.reason) == (True, 4000, "x")


def test_a_broken_rule_is_told_once_and_the_connection_dropped() -> None:
    closing = ws._CloseHandshake()
    assert closing.answer(ws.WebSocketError(1009, "too big")) == b"\x88\x09\x03\xf1too big"
    assert (closing.is_open, closing.should_drop, closing.code, closing.reason) == (
        False,
        True,
        1009,
        "too big",
    )
    already = ws._CloseHandshake()
    already.close(1000)
    assert already.answer(ws.WebSocketError(1002, "x")) == b""
    assert already.should_drop


def test_a_ping_is_answered_with_its_payload_and_nothing_else_needs_an_answer() -> None:
    closing = ws._CloseHandshake()
    assert closing.answer(ws._Ping(b"abc")) == b"\x8a\x03abc"
    assert closing.answer(ws._Pong(b"abc")) == closing.answer("text") == closing.answer(b"data") == b""
    assert closing.is_open


def test_a_code_that_cannot_be_sent_leaves_the_handshake_as_it_was() -> None:
    closing = ws._CloseHandshake()
    with pytest.raises(ws.ArgumentError):
        closing.close(1006)
    assert closing.is_open


# --- wsproto as the other side, and as the oracle -------------------------------------------


def oracle(wire: bytes) -> list[object]:
    """Return what wsproto makes of a client's bytes, in the words of ``plain``."""
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(wire)
    events: list[object] = []
    parts: list[Any] = []
    for event in connection.events():
        if isinstance(event, (TextMessage, BytesMessage)):
            parts.append(event.data)
            if event.message_finished:
                events.append(("" if isinstance(event, TextMessage) else b"").join(parts))
                parts = []
        elif isinstance(event, Ping):
            events.append(("ping", bytes(event.payload)))
        elif isinstance(event, Pong):
            events.append(("pong", bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            failed = connection.state.name == "OPEN"
            code = None if event.code == 1005 else int(event.code)
            events.append(("error", code) if failed else ("close", code, event.reason or ""))
    return events


PAYLOADS = st.one_of(
    st.text(max_size=20).map(str.encode),
    st.binary(max_size=20),
    st.integers(0, 5000).map(lambda code: code.to_bytes(2, "big")),
    st.sampled_from([b"", b"x" * 125, b"x" * 126, b"y" * 300, b"\xf0\x9f\x8e", b"\x89", b"\xed\xa0\x80"]),
)
GOOD = st.builds(frame, st.sampled_from([TEXT, BINARY, PING, PONG]), PAYLOADS)
FRAGMENTS = st.lists(PAYLOADS, min_size=2, max_size=4).map(
    lambda parts: b"".join(
        frame(TEXT if i == 0 else CONTINUATION, part, fin=i == len(parts) - 1) for i, part in enumerate(parts)
    )
)
ANY = st.builds(
    frame,
    st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 3, 11]),
    PAYLOADS,
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0, 0, 1, 2, 4]),
    mask=st.one_of(st.none(), st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
)
STREAMS = st.lists(st.one_of(GOOD, FRAGMENTS, ANY), max_size=8).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 2000), max_size=6))
def test_every_stream_means_what_it_means_to_wsproto_however_it_is_cut(wire: bytes, cuts: list[int]) -> None:
    expected = oracle(wire)
    assert receive([wire]) == expected
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    assert receive(wire[a:b] for a, b in itertools.pairwise(edges)) == expected
    assert receive(one_by_one(wire)) == expected


@settings(deadline=None)
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_noise_is_read_the_same_however_it_is_cut(noise: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(noise)) for cut in cuts), len(noise)]
    assert (
        receive([noise])
        == receive(noise[a:b] for a, b in itertools.pairwise(edges))
        == receive(one_by_one(noise))
    )


def connect(*, compress: bool) -> tuple[wsproto.WSConnection, ws._Handshake]:
    """Shake hands with wsproto's client."""
    client = wsproto.WSConnection(ConnectionType.CLIENT)
    offers = [PerMessageDeflate()] if compress else []
    head = client.send(
        Request(host="example.com", target="/", extensions=offers, subprotocols=["b", "a"])
    ).decode()
    headers: dict[str, list[str]] = {}
    for line in head.split("\r\n")[1:-2]:
        name, _, value = line.partition(": ")
        headers.setdefault(name.lower(), []).append(value)
    handshake = ws._accept_websocket("GET", "1.1", headers, subprotocols=["a", "b"], compress=compress)
    answer = "".join(f"{name}: {value}\r\n" for name, value in handshake.headers)
    client.receive_data(f"HTTP/1.1 101 Switching Protocols\r\n{answer}\r\n".encode())
    (accepted,) = client.events()
    assert isinstance(accepted, AcceptConnection) and accepted.subprotocol == "a"
    assert bool(accepted.extensions) == compress
    return client, handshake


def plain_client(event: object) -> object:
    if isinstance(event, (TextMessage, BytesMessage)):
        return event.data
    return ("pong", bytes(event.payload)) if isinstance(event, Pong) else event


@pytest.mark.parametrize("compress", [False, True])
def test_wsproto_shakes_hands_talks_and_says_goodbye(compress: bool) -> None:
    client, handshake = connect(compress=compress)
    parser = ws._WebSocketParser(deflate=handshake.deflate)
    closing = ws._CloseHandshake()
    for message in ("hi", SENTENCE * 10, SENTENCE * 10, b"\x00" * 100_000, "", "🎉" * 1000):
        sent = TextMessage(message) if isinstance(message, str) else BytesMessage(message)
        assert parser.receive_data(client.send(sent)) == [message]
        client.receive_data(ws._serialize_message(message, handshake.deflate))
        assert [plain_client(event) for event in client.events()] == [message]
    (ping,) = parser.receive_data(client.send(Ping(b"?")))
    client.receive_data(closing.answer(ping))
    assert [plain_client(event) for event in client.events()] == [("pong", b"?")]
    client.receive_data(closing.close(1001, "restart"))
    (bye,) = client.events()
    assert isinstance(bye, CloseConnection) and (bye.code, bye.reason) == (1001, "restart")
    (event,) = parser.receive_data(client.send(bye.response()))
    assert closing.answer(event) == b"" and closing.should_drop


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(), st.binary()), max_size=5), st.booleans())
def test_any_message_goes_to_wsproto_and_back(messages: list[str | bytes], compress: bool) -> None:
    client, handshake = connect(compress=compress)
    parser = ws._WebSocketParser(deflate=handshake.deflate)
    for message in messages:
        sent = TextMessage(message) if isinstance(message, str) else BytesMessage(message)
        assert parser.receive_data(client.send(sent)) == [message]
        client.receive_data(ws._serialize_message(message, handshake.deflate))
        assert [plain_client(event) for event in client.events()] == [message]
