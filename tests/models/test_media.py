"""Videos and sounds as lmms-eval's tasks hand them over, and what a model is given of them."""

import shutil
import wave
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
import transformers as tf
from transformers.video_utils import load_video

from lmms_steer import UserError
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.models.loading import auto_class_of, configure_videos
from lmms_steer.models.media import MAX_FRAMES, Audio, Video
from lmms_steer.models.media_inputs import media_inputs, video_frames
from lmms_steer.models.prompts import prompt_format_for
from lmms_steer.models.visuals import blank_visuals, image_ids, naming_decoders, prepare_visuals
from tests.helpers.architectures import model
from tests.helpers.checkpoints import CHAT, build, tokenizer, with_video
from tests.helpers.models import picture, record, vectors

TONE, RATE = 440, 44_100


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A video of 4 s with 10 frames a second, each brighter than the one before."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 6 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of a tone on two channels, as a WAV file."""
    path = tmp_path_factory.mktemp("tones") / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        one = (0.5 * 32767 * samples(RATE)).astype(np.int16)
        file.writeframes(np.stack([one, one], 1).tobytes())
    return path


def samples(rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * TONE * np.arange(rate // 2) / rate)


def loudest(audio: np.ndarray, rate: int) -> float:
    return float(np.fft.rfftfreq(len(audio), 1 / rate)[np.abs(np.fft.rfft(audio)).argmax()])


@pytest.mark.parametrize("architecture", ["qwen3_vl", "llava_onevision"])
def test_the_frames_of_a_file_are_those_that_the_processor_chooses(architecture: str, clip: str) -> None:
    _, processor = build(architecture)
    videos = processor.video_processor
    if architecture == "llava_onevision":
        configure_videos(processor, {"num_frames": 5})
    settings = {"num_frames": videos.num_frames, "fps": videos.fps} if hasattr(videos, "num_frames") else {}
    expected, metadata = load_video(clip, sample_indices_fn=partial(videos.sample_frames, **settings))
    shown = video_frames(processor, Video(clip))
    assert np.array_equal(np.stack([np.asarray(one) for one in shown.images]), expected)
    assert shown.seconds == pytest.approx([number / 10 for number in metadata.frames_indices])


def test_time_stamps_in_the_prompt_are_those_of_the_file(clip: str) -> None:
    _, processor = build("qwen3_vl")
    batch = prompt_format_for(processor)(processor, ["where is the cat ?"], [[Video(clip, 1.0, 3.0)]])
    text = processor.tokenizer.decode(batch["input_ids"][0])
    # two seconds at Qwen3-VL's two frames a second, of which two make one
    assert text.count("seconds>") == 2 and int(batch["video_grid_thw"][0, 0]) == 2
    assert "pixel_values_videos" in batch


def test_a_processor_that_chooses_no_frames_is_shown_some_at_equal_distances(clip: str) -> None:
    _, processor = build("llava_onevision")
    shown = video_frames(processor, Video(clip))
    assert len(shown.images) == MAX_FRAMES and (shown.seconds[0], shown.seconds[-1]) == (0, 3.9)
    brightness = [np.asarray(one).mean() for one in shown.images]
    assert brightness == sorted(brightness) and brightness[-1] > 200
    part = video_frames(processor, Video(clip, 3.0, 3.4))
    assert [round(np.asarray(one).mean() / 6) for one in part.images] == [30, 31, 32, 33]


def test_all_frames_that_a_task_gives_are_shown() -> None:
    """Qwen3-VL takes four of twelve frames if it thinks that they are half a second."""
    _, processor = build("qwen3_vl")
    frames = [picture(seed) for seed in range(12)]
    arrays = np.stack([np.asarray(frame) for frame in frames])
    read = prepare_visuals([frames, arrays, list(arrays)], "t")
    assert [image_ids([one]) for one in read[1:]] == [image_ids([frames])] * 2
    batch = prompt_format_for(processor)(processor, ["where is the cat ?"], [[read[0]]])
    assert int(batch["video_grid_thw"][0, 0]) == 6


def test_a_video_is_known_by_its_content(clip: str, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copy(clip, tmp_path / "elsewhere.mp4"))
    (one,), (other,) = image_ids([Video(clip)]), image_ids([Video(str(elsewhere))])
    assert one == other != image_ids([Video(clip, 1.0)])[0]
    elsewhere.write_bytes(elsewhere.read_bytes() + b"x")
    assert image_ids([Video(str(elsewhere))]) != [one]
    assert image_ids([Video("not/here.mp4")]) != image_ids([Video("nor/here.mp4")])


def test_every_form_of_a_sound_is_the_same_sound(tone: Path) -> None:
    one = 0.5 * samples(RATE)
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.tensor(np.stack([one, one])), sample_rate=RATE)
    )
    forms = [
        str(tone),
        {"bytes": tone.read_bytes(), "path": None},
        {"type": "audio", "audio": str(tone)},
        {"array": one, "sampling_rate": RATE},
        {"type": "audio", "array": (one * 32767).astype(np.int16), "sampling_rate": RATE},
        decoder,
    ]
    for visual in prepare_visuals(forms, "t"):
        assert isinstance(visual, Audio) and visual.rate == RATE and visual.seconds == pytest.approx(0.5, abs=1e-3)
        assert np.abs(visual.samples - one[: len(visual.samples)]).max() < 1e-3
        lower = visual.at(16_000)
        assert len(lower) == 8_000 and lower.dtype == np.float32
        assert loudest(lower, 16_000) == pytest.approx(TONE, abs=2)
        assert np.abs(lower[100:-100] - 0.5 * samples(16_000)[100:-100]).max() < 0.01


def test_blank_videos_are_grey_and_blank_sounds_are_silence(clip: str) -> None:
    _, processor = build("llava_onevision")
    (blank,) = blank_visuals([Video(clip)])
    assert isinstance(blank, Video)
    assert all((np.asarray(one) == 128).all() for one in video_frames(processor, blank).images)
    (silent,) = blank_visuals([Audio(samples(8000), 8000)])
    assert isinstance(silent, Audio) and silent.rate == 8000
    assert np.array_equal(silent.samples, np.zeros(len(samples(8000)), np.float32))


def test_what_is_no_video_or_sound_is_refused_in_one_line(tmp_path: Path, tone: Path, clip: str) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    cases: list[tuple[Any, str]] = [
        (str(tmp_path / "text.mp4"), "cannot read .*text.mp4"),
        ("missing.mp4", "'?missing.mp4'? as visual, which is no file"),
        ([], "t gives a video without frames"),
        (np.zeros(100), r"an array of shape \[100\]: give audio with its sampling_rate"),
        ({"array": np.zeros(100)}, "sampling_rate=None: expected a number of samples a second"),
        ({"array": np.zeros(0), "sampling_rate": 16000}, r"audio of shape \[0\]"),
        ({"array": [float("nan")], "sampling_rate": 16000}, "not finite"),
        ({"type": "audio", "audio": str(tone), "video_start": 1}, "is no video file"),
        ({"x": 1}, "t gives a mapping of x as visual"),
        (7, "t gives a int as visual: expected images, videos or audio"),
    ]
    for visual, message in cases:
        with pytest.raises(UserError, match=message) as refused:
            prepare_visuals([visual], "t")
        assert "\n" not in str(refused.value)
    _, processor = build("llava_onevision")
    with pytest.raises(UserError, match="has no frames from 9 s on"):
        video_frames(processor, Video(clip, 9.0))
    with pytest.raises(UserError, match="has no frames"):
        video_frames(processor, Video(str(tone)))
    make = prompt_format_for(processor)
    with pytest.raises(UserError, match="a LlavaOnevisionProcessor takes no audio"):
        make(processor, ["?"], [[Audio(np.zeros(4, np.float32), 8000)]])
    with (
        pytest.raises(UserError, match=r"t: please install 'torchcodec' \(pip install 'lmms-eval\[video\]'\)"),
        naming_decoders("t"),
    ):
        raise ImportError("please install 'torchcodec'")
    for settings, message in (({"fps": 0}, "fps=0: expected"), ({"fps": 1, "num_frames": 2}, "give one of them")):
        with pytest.raises(UserError, match=message):
            configure_videos(processor, settings)


HEARS = with_video(CHAT, "<|audio_bos|><|AUDIO|><|audio_eos|>").replace("'video'", "'audio'")


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny Qwen2-Audio, which takes no images."""
    folder = tmp_path_factory.mktemp("listener")
    tok = tokenizer(["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"])
    made = model("qwen2_audio", vocab_size=len(tok))
    made.config.audio_token_index = tok.convert_tokens_to_ids("<|AUDIO|>")
    made.save_pretrained(folder)
    features = tf.WhisperFeatureExtractor(feature_size=made.config.audio_config.num_mel_bins)
    tf.Qwen2AudioProcessor(features, tok, chat_template=HEARS).save_pretrained(folder)
    return str(folder)


def test_of_an_omni_model_the_part_that_writes_text_is_loaded(tmp_path: Path) -> None:
    omni = model("qwen2_5_omni")
    omni.save_pretrained(tmp_path)
    config = tf.AutoConfig.from_pretrained(tmp_path).thinker_config
    loaded = dict(auto_class_of(config).from_pretrained(tmp_path, config=config).named_parameters())
    expected = dict(omni.thinker.named_parameters())
    assert loaded.keys() == expected.keys() and all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_an_image_for_a_model_that_only_hears_is_refused(listener: str) -> None:
    processor = tf.AutoProcessor.from_pretrained(listener)
    # the template has no place for it, and would leave it out
    with pytest.raises(UserError, match="a Qwen2AudioProcessor takes no images"):
        media_inputs(processor, [[picture(0)]])


@pytest.mark.slow
def test_a_model_that_only_hears_is_steered_at_its_sounds(listener: str, tmp_path: Path, tone: Path) -> None:
    path = vectors(width=64).save(tmp_path / "v.safetensors")
    lm = SteeredVlm(pretrained=listener, vector=str(path), layer=1, alpha=3, tokens="audio")
    sounds = prepare_visuals([str(tone), {"array": np.zeros(48_000), "sampling_rate": 48_000}], "t")
    questions = ["how many cups ?", "left of the dog . where is the red cat ?"]
    both = lm.model_inputs(questions, [[sound] for sound in sounds])
    placeholder = lm.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    steered = record(lm.model, lambda: lm.model(**both))[1]
    lm.attachment.remove()
    plain = record(lm.model, lambda: lm.model(**both))[1]
    assert torch.equal((steered != plain).any(-1), both["input_ids"] == placeholder)
    # the encoder halves its 50 positions a second
    assert [int(row.sum()) for row in both["input_ids"] == placeholder] == [12, 25]
    for number, question in enumerate(questions):
        alone = lm.model_inputs([question], [[sounds[number]]])
        width = alone["input_ids"].shape[1]
        single = record(lm.model, lambda: lm.model(**alone))[3]  # noqa: B023
        together = record(lm.model, lambda: lm.model(**both))[3][number, -width:]
        assert torch.allclose(single[0], together, atol=1e-4)
