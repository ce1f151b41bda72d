"""What arrives on the wire: Live Link Face packets, OSC, the sockets, and the tool that sends."""

from __future__ import annotations

import logging
import math
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_avatar

from avatar.checks import InputError
from avatar.cli_live import LiveOptions, live_sources, send
from avatar.drive.arkit_csv import write_arkit_csv
from avatar.drive.live import LiveConfig
from avatar.drive.live_send import send_motion
from avatar.drive.live_udp import UdpDriver
from avatar.drive.livelink import (
    LiveLinkPacket,
    LiveLinkParser,
    PacketError,
    make_packet,
    open_livelink,
    packet_sample,
    parse_packet,
    sample_values,
)
from avatar.drive.motion import FaceMotion, head_angles, head_rotation
from avatar.drive.osc import OscParser, open_osc, unity_rotation, vmc_bundle
from avatar.drive.osc_message import OscError, make_bundle, make_osc, parse_osc
from avatar.drive.replay import read_recording, replay
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES

JAW = ARKIT_INDEX["jawOpen"]
AS_IT_IS = LiveConfig(calibrate_s=0.0, return_s=1e-6)


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return make_avatar()


def packet(**changes: object) -> LiveLinkPacket:
    fields = {
        "device": "PHONE-0001",
        "subject": "Änne",
        "frame": 216000,
        "subframe": 0.25,
        "rate": (60, 1),
        "values": np.linspace(0, 1, 61).astype(np.float32),
    }
    return LiveLinkPacket(**(fields | changes))  # type: ignore[arg-type]


def test_a_packet_has_epics_layout() -> None:
    content = make_packet(packet())
    assert content[0] == 6
    assert content[1:5] == b"\0\0\0\x0a"
    assert content[5:15] == b"PHONE-0001"
    assert content[15:24] == b"\0\0\0\x05" + "Änne".encode()
    assert struct.unpack(">ifii", content[24:40]) == (216000, 0.25, 60, 1)
    assert content[40] == 61
    assert len(content) == 41 + 4 * 61
    assert struct.unpack(">f", content[-4:]) == (1.0,)


def test_a_packet_comes_back() -> None:
    back = parse_packet(make_packet(packet()))
    assert (back.device, back.subject, back.frame, back.rate) == (
        "PHONE-0001",
        "Änne",
        216000,
        (60, 1),
    )
    assert np.array_equal(back.values, packet().values)
    assert back.time_s == pytest.approx(3600 + 0.25 / 60)
    drop = parse_packet(make_packet(packet(rate=(30000, 1001), frame=30)))
    assert drop.time_s == pytest.approx(30.25 * 1001 / 30000)


def test_unreals_utf16_and_closing_zeros_are_read() -> None:
    name = "Änne\0".encode("utf-16-be")
    content = b"\6" + struct.pack(">i", 2) + b"x\0" + struct.pack(">i", -len(name) // 2) + name
    content += struct.pack(">ifiiB", 1, 0.0, 60, 1, 0)
    back = parse_packet(content)
    assert (back.device, back.subject, len(back.values)) == ("x", "Änne", 0)


def test_a_sample_has_the_projects_signs() -> None:
    gaze = np.array([[0.1, 0.2], [0.3, -0.4]])
    values = sample_values(np.linspace(0, 1, 52), np.array([0.1, 0.2, 0.3]), gaze)
    one = packet_sample(packet(values=values), "10.0.0.2:4000")
    assert np.allclose(one.weights, np.linspace(0, 1, 52))
    assert one.head is not None
    assert np.allclose(one.head, [0.1, 0.2, 0.3])
    assert np.allclose(one.gaze, gaze)
    assert values[55] == pytest.approx(-0.1)  # the app counts eye yaw to the right
    assert "10.0.0.2" in one.sender
    assert "4000" not in one.sender  # a phone's port changes as it likes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\5" + make_packet(packet())[1:], "another version"),
        (make_packet(packet())[:-1], "cut off"),
        (make_packet(packet()) + b"\0", "too long"),
        (make_packet(packet(values=np.zeros(52, np.float32))), "another number"),
        (make_packet(packet(values=np.zeros(62, np.float32))), "another number"),
        (make_packet(packet(rate=(0, 1))), "frame rate"),
        (make_packet(packet(rate=(60, -1))), "frame rate"),
        (make_packet(packet(subframe=math.nan)), "without a time"),
        (b"\6" + struct.pack(">i", 2**31 - 1), "too long"),
        (b"\6" + struct.pack(">i", -(2**31)), "too long"),
    ],
)
def test_what_is_no_packet_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(PacketError, match=reason):
        parse_packet(content)


def mutated(good: bytes, generator: random.Random) -> bytes:
    content = bytearray(good)
    for _ in range(generator.randrange(1, 6)):
        content[generator.randrange(len(content))] = generator.randrange(256)
    if generator.random() < 0.3:
        del content[generator.randrange(len(content)) :]
    if generator.random() < 0.05:
        content += generator.randbytes(generator.randrange(50))
    return bytes(content)


def fuzz(driver: UdpDriver, good: list[bytes], packets: int) -> None:
    """Feed random and mutated datagrams: nothing raises, everything is counted, the face stays sane."""
    generator = random.Random(11)
    now = time.perf_counter()
    for k in range(packets):
        content = (
            generator.randbytes(generator.randrange(0, 400))
            if k % 2
            else mutated(generator.choice(good), generator)
        )
        driver.take(content, f"10.0.0.{k % 300}:5", now + k / 60)
    counts = driver.stream.counts
    assert counts.total() - counts["accepted"] > packets // 3
    state = driver.state(now + packets / 60)
    assert torch.isfinite(state.expression).all()
    assert torch.isfinite(state.T_world_head).all()


def test_100k_random_live_link_packets(avatar: Avatar) -> None:
    driver = open_livelink(avatar, port=0)
    try:
        fuzz(driver, [make_packet(packet()), make_packet(packet(values=np.zeros(0)))], 100_000)
        assert (
            driver.stream.counts.total() == 100_000
        )  # each is accepted, or dropped for one reason
    finally:
        driver.close()


def osc_examples() -> list[bytes]:
    weights = np.linspace(0, 1, 52)
    return [
        vmc_bundle(weights, np.array([0.2, 0.1, 0.0])),
        make_bundle([make_osc("/VMC/Ext/Blend/Val", "A", 0.5), make_osc("/VMC/Ext/Blend/Apply")]),
        make_osc("/ARKit/jawOpen", 0.5),
        make_bundle([make_bundle([make_osc("/x/mouthSmile_L", 0.5), make_osc("/HeadYaw", 0.1)])]),
    ]


def test_100k_random_osc_datagrams(avatar: Avatar, caplog: pytest.LogCaptureFixture) -> None:
    driver = open_osc(avatar, port=0)
    try:
        with caplog.at_level(logging.DEBUG):
            fuzz(driver, osc_examples(), 100_000)
        assert not caplog.records  # nobody on the network fills a log
    finally:
        driver.close()


def test_osc_is_read_as_python_osc_reads_it() -> None:
    osc_packet = pytest.importorskip("pythonosc.osc_packet")
    for content in osc_examples():
        theirs = [
            (m.message.address, m.message.params) for m in osc_packet.OscPacket(content).messages
        ]
        assert parse_osc(content) == theirs


def test_osc_is_written_as_python_osc_writes_it() -> None:
    builder = pytest.importorskip("pythonosc.osc_message_builder").OscMessageBuilder("/a/bcd")
    for value in ("three", 0.25, 7, "", "four"):
        builder.add_arg(value)
    assert builder.build().dgram == make_osc("/a/bcd", "three", 0.25, 7, "", "four")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"/a",
        b"/a\0\0,f\0\0",
        b"/a\0\0,Q\0\0",
        b"/a\0\0f\0\0\0",
        b"/\xff\0\0,\0\0\0",
        b"/a\0\0,b\0\0\xff\xff\xff\xff",
        b"#bundle\0",
        b"#bundle\0" + b"\0" * 8 + b"\0\0\0\0",
        b"#bundle\0" + b"\0" * 8 + b"\x7f\xff\xff\xff",
        make_bundle([make_bundle([make_bundle([make_bundle([make_bundle([])])])])]),
    ],
)
def test_what_is_no_osc_is_refused(content: bytes) -> None:
    with pytest.raises(OscError):
        parse_osc(content)


def test_vmc_gives_a_sample_at_apply() -> None:
    weights = np.linspace(0, 1, 52)
    parser = OscParser()
    (one,) = parser.samples(vmc_bundle(weights, np.array([0.2, -0.1, 0.3])), "a:1", 0.0)
    assert np.allclose(one.weights, weights)
    assert one.head is not None
    assert np.allclose(one.head, [0.2, -0.1, 0.3], atol=1e-6)
    assert not list(parser.refused())


def test_vmc_messages_may_come_one_by_one() -> None:
    parser = OscParser()
    assert not list(parser.samples(make_osc("/VMC/Ext/Blend/Val", "JawOpen", 0.25), "a:1", 0.0))
    assert not list(parser.samples(make_osc("/VMC/Ext/OK", 1), "a:1", 0.0))
    (one,) = parser.samples(make_osc("/VMC/Ext/Blend/Apply"), "a:1", 0.001)
    assert one.weights[JAW] == 0.25
    list(parser.samples(make_osc("/VMC/Ext/Blend/Val", "NoSuchShape", 0.25), "a:1", 0.0))
    list(parser.samples(make_osc("/VMC/Ext/Blend/Val", "JawOpen", "wide"), "a:1", 0.0))
    assert list(parser.refused()) == ["of unknown shapes", "malformed"]


def test_vrms_own_shapes_move_the_nearest_arkit_ones() -> None:
    parser = OscParser()
    content = make_bundle(
        [
            make_osc("/VMC/Ext/Blend/Val", "Blink_L", 1.0),
            make_osc("/VMC/Ext/Blend/Val", "A", 0.5),
            make_osc("/VMC/Ext/Blend/Apply"),
        ]
    )
    (one,) = parser.samples(content, "a:1", 0.0)
    assert one.weights[ARKIT_INDEX["eyeBlinkLeft"]] == 1
    assert one.weights[ARKIT_INDEX["eyeBlinkRight"]] == 0
    assert one.weights[JAW] == pytest.approx(0.3)


def test_unitys_axes_become_ours() -> None:
    half = math.sin(0.1), math.cos(0.1)
    # Unity is left-handed: a positive turn about y is to the model's right, about x is down.
    assert float(
        head_angles(unity_rotation(np.array([0, half[0], 0, half[1]])))[0]
    ) == pytest.approx(-0.2)
    assert float(
        head_angles(unity_rotation(np.array([half[0], 0, 0, half[1]])))[1]
    ) == pytest.approx(-0.2)


def test_neck_and_head_turn_together_and_eyes_are_gaze() -> None:
    def bone(name: str, yaw: float) -> bytes:
        half = -yaw / 2
        turn = (0.0, math.sin(half), 0.0, math.cos(half))
        return make_osc("/VMC/Ext/Bone/Pos", name, 0.0, 1.4, 0.0, *turn)

    names = (("Neck", 0.1), ("Head", 0.2), ("LeftEye", 0.3), ("RightEye", 0.25), ("Hips", 1.0))
    messages = [bone(name, yaw) for name, yaw in names]
    (one,) = OscParser().samples(
        make_bundle([*messages, make_osc("/VMC/Ext/Blend/Apply")]), "a", 0.0
    )
    assert one.head is not None
    assert one.gaze is not None
    assert one.head[0] == pytest.approx(0.3, abs=1e-6)
    assert one.gaze[:, 0].tolist() == pytest.approx([0.3, 0.25], abs=1e-6)


def test_plain_addresses_one_by_one_make_one_sample_a_frame() -> None:
    parser = OscParser()
    samples = []
    for frame in range(30):
        for k, name in enumerate(ARKIT_NAMES):
            content = make_osc(f"/ARKit/{name}", frame / 30)
            samples += parser.samples(content, "a:1", frame / 60 + k * 1e-5)
    assert len(samples) == 29  # the last frame is complete when the next begins
    assert np.allclose(samples[10].weights, 10 / 30)


def test_other_spellings_and_angles_are_understood() -> None:
    content = make_bundle(
        [
            make_osc("/face/mouthSmile_L", 0.5),
            make_osc("/JAWOPEN", 0.25),
            make_osc("/ARKit/HeadYaw", 0.1),
            make_osc("/elbow", 0.1),
        ]
    )
    parser = OscParser()
    (one,) = parser.samples(content, "a:1", 0.0)
    assert one.weights[ARKIT_INDEX["mouthSmileLeft"]] == 0.5
    assert one.weights[JAW] == 0.25
    assert one.head is not None
    assert one.head[0] == pytest.approx(0.1)
    assert list(parser.refused()) == ["of other addresses"]


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "it did not happen"
        time.sleep(0.005)


def motion(seconds: float = 0.5) -> FaceMotion:
    time_s = torch.arange(int(60 * seconds), dtype=torch.float64) / 60
    weights = torch.zeros(len(time_s), 52, dtype=torch.float64)
    weights[:, JAW] = 0.5
    head = torch.zeros(len(time_s), 3, dtype=torch.float64)
    head[:, 0] = 0.2
    return FaceMotion(time_s, weights, head)


@pytest.mark.parametrize("protocol", ["livelink", "osc"])
def test_a_sent_file_moves_the_avatar_over_udp(
    avatar: Avatar, tmp_path: Path, protocol: str
) -> None:
    opener = open_livelink if protocol == "livelink" else open_osc
    record = tmp_path / "take.jsonl"
    driver = opener(avatar, port=0, config=AS_IT_IS, record=record)
    try:
        assert str(driver.port) in driver.note(time.perf_counter())
        sent = send_motion(motion(), ("127.0.0.1", driver.port), protocol=protocol)  # type: ignore[arg-type]
        assert (sent.packets, sent.refused) == (30, 0)
        wait_for(lambda: driver.stream.counts.total() == 30)
        state = driver.state(time.perf_counter())
        assert float(state.expression[JAW]) == pytest.approx(0.5, abs=0.03)
        R = avatar.rest.T_world_head[:3, :3].T @ state.T_world_head[:3, :3]
        assert float(head_angles(R)[0]) == pytest.approx(0.2, abs=0.02)
        assert driver.stream.counts["accepted"] >= 29  # two packets may arrive in one millisecond
    finally:
        driver.close()
        driver.close()
    samples = list(read_recording(record))
    assert len(samples) == 30
    last = replay(samples, avatar, AS_IT_IS, np.array([samples[-1][1] + 0.01]))
    again = driver.stream.state(samples[-1][1] + 0.01)
    assert torch.equal(last.expression[0], again.expression)
    # The port is free again.
    other = opener(avatar, port=driver.port)
    other.close()


def test_a_taken_port_and_a_foreign_address_are_told_in_a_sentence(avatar: Avatar) -> None:
    first = open_livelink(avatar, port=0)
    try:
        with pytest.raises(InputError, match=f"UDP port {first.port}.*Choose another port"):
            open_osc(avatar, port=first.port)
        with pytest.raises(InputError, match=r"cannot listen on 203\.0\.113\.1"):
            open_livelink(avatar, port=0, listen="203.0.113.1")
    finally:
        first.close()


def test_nothing_is_reachable_from_outside_by_default(avatar: Avatar) -> None:
    driver = open_livelink(avatar, port=0)
    try:
        assert driver._socket.getsockname()[0] == "127.0.0.1"
    finally:
        driver.close()


def test_a_failed_recording_frees_the_port(avatar: Avatar, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(InputError, match="cannot be written"):
        open_livelink(avatar, port=port, record=tmp_path / "none" / "a.jsonl")
    open_livelink(avatar, port=port).close()


def test_threads_end_with_the_driver(avatar: Avatar) -> None:
    before = threading.active_count()
    drivers = [open_livelink(avatar, port=0), open_osc(avatar, port=0)]
    assert threading.active_count() == before + 2
    for driver in drivers:
        driver.close()
    assert threading.active_count() == before


def test_the_viewer_is_offered_every_source(avatar: Avatar) -> None:
    sources = live_sources(avatar, LiveOptions(livelink_port=20123, osc_port=20124, webcam="99"))
    ports = ["Live Link Face (UDP 20123)", "OSC / VMC (UDP 20124)"]
    assert list(sources) == [*ports, "webcam", "microphone"]
    driver = sources["Live Link Face (UDP 20123)"]()
    assert "nothing usable has arrived" in driver.note(time.perf_counter())
    driver.close()
    with pytest.raises(InputError, match="no camera 99"):
        sources["webcam"]()
    with pytest.raises(InputError, match="--osc-port"):
        live_sources(avatar, LiveOptions(osc_port=0))
    with pytest.raises(InputError, match="--listen"):
        live_sources(avatar, LiveOptions(listen="everybody"))


@pytest.mark.parametrize("to", ["", "11111", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:0", "a:99999"])
def test_a_wrong_address_to_send_to_is_told(tmp_path: Path, to: str) -> None:
    write_arkit_csv(tmp_path / "a.csv", motion())
    with pytest.raises(InputError, match="HOST:PORT"):
        send(tmp_path / "a.csv", to=to)


def test_the_command_sends_a_file(avatar: Avatar, tmp_path: Path) -> None:
    write_arkit_csv(tmp_path / "a.csv", motion(0.2))
    driver = open_livelink(avatar, port=0, config=AS_IT_IS)
    try:
        send(
            tmp_path / "a.csv",
            to=f"127.0.0.1:{driver.port}",
            repeats=2,
            json_file=tmp_path / "n.json",
        )
        wait_for(lambda: driver.stream.counts.total() == 24)
        assert '"packets": 24' in (tmp_path / "n.json").read_text()
    finally:
        driver.close()


def test_head_rotation_survives_vmcs_quaternions() -> None:
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        angles = torch.rand(3, generator=generator, dtype=torch.float64) - 0.5
        (one,) = OscParser().samples(vmc_bundle(np.zeros(52), angles.numpy()), "a", 0.0)
        back = head_rotation(torch.from_numpy(np.asarray(one.head)))
        assert torch.allclose(back, head_rotation(angles), atol=1e-5)


def test_a_parser_tells_once(avatar: Avatar) -> None:
    parser = LiveLinkParser()
    assert not list(parser.samples(b"\5", "a:1", 0.0))
    assert not list(parser.samples(make_packet(packet(values=np.zeros(0))), "a:1", 0.0))
    reasons = list(parser.refused())
    assert "another version" in reasons[0]
    assert reasons[1] == "without a face"
    assert not list(parser.refused())
