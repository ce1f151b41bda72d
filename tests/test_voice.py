"""A person's voice model: it learns, says the same again, and comes back from its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from spoken import mouth, spoken_capture, voice_of, write_sound

from avatar.checks import InputError
from avatar.drive.audio import AudioDriver
from avatar.drive.audio_features import LEVEL, sound_features, with_level
from avatar.drive.audio_live import MOST_LATENCY_S, PcmDriver
from avatar.drive.voice import SPOKEN, LevelFollower, NetConfig, VoiceModel, VoiceStream
from avatar.drive.voice_bench import measure_voice
from avatar.drive.voice_lessons import lip_gap
from avatar.drive.voice_train import VoiceTrainConfig, train_voice
from avatar.rig.arkit import ARKIT_INDEX

LIPS = (13, 14, 82, 87, 312, 317, 78, 308)
SMALL = VoiceTrainConfig(
    net=NetConfig(channels=12, members=2), steps=90, every=30, batch=8, moments=300, faces=200
)


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return spoken_capture(tmp_path_factory.mktemp("spoken") / "me.capture")


@pytest.fixture(scope="module")
def model(capture) -> VoiceModel:
    return train_voice(capture, SMALL)


def test_held_out_speech_opens_the_mouth_and_other_sound_does_not(capture, model) -> None:
    result = measure_voice(capture, model, capture.splits.test, LIPS)
    for name in ("file", "live"):
        assert result[name]["jaw_open_r"] > 0.85
        assert result[name]["gap_r"] > 0.85
        assert result[name]["lmd_px"] < result["rest"]["lmd_px"]
    assert abs(result["shifted"]["jaw_open_r"]) < 0.3
    assert result["fallback"]["jaw_open_r"] > 0.5
    assert result["tracked"]["lmd_px"] <= result["file"]["lmd_px"]
    # Where the filmed lips are shut the driven ones are much less open than where they are open.
    row = result["file"]
    assert row["shut_gap_share"] < 0.3 < row["open_gap_share"]
    json.dumps(result)


def test_nothing_of_the_held_out_part_is_learnt(capture, model, tmp_path) -> None:
    track = capture.track
    expression = track.expression.clone()
    expression[capture.splits.test[0] :] = 0.77
    other = spoken_capture(tmp_path / "other.capture")
    replace(track, expression=expression).save(other.path / "track.safetensors")
    again = train_voice(other, SMALL)
    for name, net in model.nets.items():
        for key, value in net.state_dict().items():
            assert torch.equal(value, again.nets[name].state_dict()[key])
    assert torch.equal(model.high, again.high)


def test_another_seed_is_another_model(capture, model) -> None:
    other = train_voice(capture, replace(SMALL, seed=1, steps=30))
    a, b = model.nets["file"].last.weight, other.nets["file"].last.weight
    assert not torch.equal(a, b)


def test_stream_and_file_agree(capture, model) -> None:
    rows = sound_features(capture.audio)[:300]
    for name in ("file", "live"):
        whole = model.predict(rows, name)
        assert whole.shape == (300, 52)
        stream = VoiceStream(model, name, level=model.level)
        parts = [stream.push(rows[k : k + 1]) for k in range(len(rows))]
        look_ahead = model.nets[name].config.look_ahead
        assert [len(p) for p in parts[: look_ahead + 1]] == [0] * look_ahead + [1]
        torch.testing.assert_close(torch.cat([*parts, stream.flush()]), whole, atol=2e-4, rtol=0)
        assert len(stream._held) == stream._net.config.reach


def test_a_file_comes_back_as_it_was(capture, model, tmp_path: Path) -> None:
    model.save(tmp_path / "me.voice")
    again = VoiceModel.load(tmp_path / "me.voice")
    rows = sound_features(capture.audio)[:200]
    for name in ("file", "live"):
        assert torch.equal(again.predict(rows, name), model.predict(rows, name))
    assert again.idle.head_rad == pytest.approx(model.idle.head_rad)
    assert again.idle.blinks_per_s == pytest.approx(model.idle.blinks_per_s)
    assert again.idle.gaze is not None
    assert model.idle.gaze is not None
    assert torch.equal(again.idle.gaze, model.idle.gaze)
    assert again.facts == model.facts
    assert again.source_sha256 == "5" * 64
    assert [p.name for p in tmp_path.iterdir()] == ["me.voice"]


def test_bad_files_are_refused_in_a_sentence(model, tmp_path: Path) -> None:
    good = tmp_path / "me.voice"
    model.save(good)
    content = good.read_bytes()
    tensors = load_file(good)
    from safetensors import safe_open

    with safe_open(str(good), "pt") as file:
        header = json.loads(file.metadata()["header"])

    def written(change, drop: str = "") -> Path:
        told = json.loads(json.dumps(header))
        change(told)
        path = tmp_path / "bad.voice"
        kept = {k: v for k, v in tensors.items() if k != drop}
        save_file(kept, path, metadata={"header": json.dumps(told)})
        return path

    def cut(told: dict, *keys: str) -> None:
        for key in keys[:-1]:
            told = told[key]
        del told[keys[-1]]

    def put(told: dict, value, *keys: str) -> None:
        for key in keys[:-1]:
            told = told[key]
        told[keys[-1]] = value

    cases = [
        lambda: written(lambda h: put(h, "headsplat.track", "format")),
        lambda: written(lambda h: put(h, 99, "version")),
        lambda: written(lambda h: cut(h, "nets")),
        lambda: written(lambda h: put(h, 10**9, "nets", "file", "channels")),
        lambda: written(lambda h: put(h, "x", "nets", "live", "look_ahead")),
        lambda: written(lambda h: put(h, 7, "nets", "live", "inputs")),
        lambda: written(lambda h: put(h, 50, "memories", "live", "before")),
        lambda: written(lambda h: put(h, -1.0, "memories", "file", "width")),
        lambda: written(lambda h: put(h, ["a"], "expression_names")),
        lambda: written(lambda h: put(h, 0, "idle", "blinks_per_s")),
        lambda: written(lambda h: None, drop="mean"),
        lambda: written(lambda h: None, drop="file.last.weight"),
        lambda: written(lambda h: None, drop="live_memory.answers"),
    ]
    for case in cases:
        path = case()
        with pytest.raises(InputError, match=r"bad\.voice"):
            VoiceModel.load(path)
    path = tmp_path / "bad.voice"
    generator = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(content[: int(generator.integers(len(content)))])
        for _ in range(4):
            if broken:
                broken[int(generator.integers(min(len(broken), 4000)))] = int(
                    generator.integers(256)
                )
        path.write_bytes(bytes(broken))
        with pytest.raises(InputError):
            VoiceModel.load(path)


def test_outliers_are_pulled_to_the_person_and_faces_stay(model) -> None:
    faces = model.manifold.faces[::7]
    same = model.manifold.pulled(faces)
    assert float(((same - faces) / model.manifold.scale).norm(dim=1).median()) < 0.5
    far = faces + 30 * model.manifold.scale
    back = model.manifold.pulled(far)
    before = ((far - faces) / model.manifold.scale).norm(dim=1)
    after = torch.cdist(back / model.manifold.scale, model.manifold.faces / model.manifold.scale)
    assert float((after.min(1).values / before).max()) < 0.3


def test_the_level_is_found_out_while_sound_comes(capture, model) -> None:
    rows = sound_features(capture.audio)
    for gain in (-4.0, 3.0):
        follower = LevelFollower(model.level)
        out = follower.levelled(with_level(rows, gain))
        late = slice(600, None)
        loud = rows[late, LEVEL] > model.level - 3
        error = (out[late] - rows[late])[loud, LEVEL]
        assert abs(float(np.median(error))) < 1.2


def test_a_personal_model_drives_files_and_live_sound(model, tmp_path: Path, tiny_avatar) -> None:
    truth = mouth(6.0, seed=9)
    path = write_sound(tmp_path / "a.wav", voice_of(truth), 16000)
    jaw = ARKIT_INDEX["jawOpen"]
    driver = AudioDriver(path, tiny_avatar, model)
    curve = driver.batch.expression[:, jaw].numpy()
    assert np.corrcoef(curve, truth[np.arange(150) * 8])[0, 1] > 0.75
    assert "own voice model" in driver.note
    live = PcmDriver(tiny_avatar, 16000, model)
    assert live.latency_s <= MOST_LATENCY_S
    sound, shown = voice_of(truth), []
    for k in range(300):
        live.push(sound[320 * k : 320 * (k + 1)], 3 + (k + 1) / 50)
        shown.append(float(live.state(3 + (k + 1) / 50).expression[jaw]))
    late = round(live.latency_s * 50)
    heard = truth[np.arange(300 - late) * 4]
    # The level of the sound is found out in the first seconds.
    assert np.corrcoef(shown[late:][100:], heard[100:])[0, 1] > 0.7
    assert "own voice model" in live.note(9.0)


def test_silence_is_rest_for_a_personal_model_too(model, tmp_path: Path, tiny_avatar) -> None:
    path = write_sound(tmp_path / "a.wav", np.zeros(4 * 16000), 16000)
    states = AudioDriver(path, tiny_avatar, model).batch
    rest = tiny_avatar.rest.expression[list(SPOKEN)]
    assert float((states.expression[:, list(SPOKEN)] - rest).abs().max()) < 0.1
    assert not torch.equal(states.T_world_head[20], states.T_world_head[80])


def test_gap_is_linear_and_in_millimetres(capture) -> None:
    track = capture.track
    gap = lip_gap(track, track.expression)
    points = track.lattice + torch.einsum("fe,epd->fpd", track.expression, track.basis)
    expected = 1e3 * (points[:, [13, 82, 312], 1] - points[:, [14, 87, 317], 1]).mean(1)
    torch.testing.assert_close(gap, expected, atol=1e-3, rtol=0)


def test_captures_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    short = spoken_capture(tmp_path / "a.capture", seconds=4.0)
    with pytest.raises(InputError, match="at least 8 s"):
        train_voice(short, SMALL)
    silent = spoken_capture(tmp_path / "b.capture", seconds=14.0)
    write_sound(silent.path / "audio.wav", np.zeros(14 * 16000), 16000)
    with pytest.raises(InputError, match="silent"):
        train_voice(silent, SMALL)
    (silent.path / "audio.wav").unlink()
    with pytest.raises(InputError, match="no sound"):
        train_voice(silent, SMALL)


def test_the_command_writes_the_file_and_says_how_good_it_is(
    capture, tmp_path: Path, capsys
) -> None:
    from avatar.cli_voice import train_voice as command

    out, numbers = tmp_path / "me.voice", tmp_path / "numbers.json"
    command(capture.path, output=out, steps=100, json_file=numbers)
    assert VoiceModel.load(out).facts["steps"] <= 100
    measured = json.loads(numbers.read_text())["measured"]
    assert measured["file"]["jaw_open_r"] > 0.8
    with pytest.raises(InputError, match=r"must end in \.voice"):
        command(capture.path, output=tmp_path / "me.bin")
    with pytest.raises(InputError, match="at least"):
        command(capture.path, output=out, steps=3)


def test_networks_of_the_user_can_listen(capture, tmp_path: Path, tiny_avatar) -> None:
    transformers = pytest.importorskip("transformers")
    from avatar.drive.audio_networks import network_features, open_network

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "conv_dim": (8,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    }
    kinds = (
        (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
        (transformers.HubertConfig, transformers.HubertModel),
    )
    for k, (config, network) in enumerate(kinds):
        folder = tmp_path / f"net{k}"
        network(config(**sizes)).save_pretrained(folder, safe_serialization=True)
        opened, name = open_network(folder)
        rows = network_features(opened, capture.audio)
        assert rows.shape == (len(sound_features(capture.audio)), 16)
    model = train_voice(
        capture,
        replace(SMALL, steps=30),
        extractor=lambda path: network_features(opened, path),
        extractor_name=name,
    )
    driver = AudioDriver(capture.audio, tiny_avatar, model)
    assert len(driver.batch.expression) == 600
    with pytest.raises(InputError, match="whole sound"):
        PcmDriver(tiny_avatar, 16000, model)
    with pytest.raises(InputError, match="holds no network"):
        open_network(tmp_path)


def test_eyes_are_not_spoken() -> None:
    assert not any(i in SPOKEN for i in range(52) if i == ARKIT_INDEX["eyeBlinkLeft"])
