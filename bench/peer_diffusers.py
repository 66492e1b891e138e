"""The other side of bench/compare-diffusers: the same work in diffusers, one process a measurement.

    peer_diffusers.py make DIR                      random-weight checkpoint at the real models' geometry
    peer_diffusers.py dit DIR H W FRAMES RUNS       one transformer call on a guidance batch of two
    peer_diffusers.py vae DIR H W FRAMES RUNS       one VAE decode
    peer_diffusers.py shapes DIR OUT STEPS          a whole run to an MP4

The three measurements print one JSON object. Threads come from OMP_NUM_THREADS, the precision from CVX_BENCH_DTYPE
(f32, the default, or bf16).
"""
import json
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch  # noqa: E402

PROMPT = "a red circle moving right on a black background"
THREADS = int(os.environ["OMP_NUM_THREADS"])
torch.set_num_threads(THREADS)
DTYPE = {"f32": torch.float32, "bf16": torch.bfloat16}[os.environ.get("CVX_BENCH_DTYPE", "f32")]


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(bench, seconds, **more):
    print(json.dumps(dict(bench=bench, threads=THREADS, runs=len(seconds), seconds_min=min(seconds),
                          seconds_median=statistics.median(seconds), seconds_max=max(seconds), **more)))


def timed(runs, call):
    """Seconds of each of `runs` calls, after one to warm up."""
    seconds = []
    with torch.inference_mode():
        for i in range(-1, runs):
            start = time.perf_counter()
            call()
            if i >= 0:
                seconds.append(time.perf_counter() - start)
    return seconds


def make(folder):
    """2b's transformer (30 heads of 64) with 2 layers, the real VAE; fp16 files, as the real ones are."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
    from transformers import T5Config

    torch.manual_seed(0)
    CogVideoXTransformer3DModel(num_attention_heads=30, attention_head_dim=64, num_layers=2, in_channels=16,
                                out_channels=16, time_embed_dim=512, text_embed_dim=4096, sample_width=90,
                                sample_height=60, sample_frames=49, max_text_seq_length=226,
                                use_rotary_positional_embeddings=False).half().save_pretrained(f"{folder}/transformer")
    AutoencoderKLCogVideoX(block_out_channels=(128, 256, 256, 512), layers_per_block=3, latent_channels=16,
                           sample_height=480, sample_width=720, temporal_compression_ratio=4,
                           scaling_factor=1.15258426).half().save_pretrained(f"{folder}/vae")
    CogVideoXDDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                           prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=3.0,
                           timestep_spacing="trailing").save_pretrained(f"{folder}/scheduler")
    # the encoder's config alone: no measurement at this geometry encodes a prompt
    T5Config(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
             feed_forward_proj="gated-gelu").save_pretrained(f"{folder}/text_encoder")
    parts = dict(transformer=["diffusers", "CogVideoXTransformer3DModel"], vae=["diffusers", "AutoencoderKLCogVideoX"],
                 scheduler=["diffusers", "CogVideoXDDIMScheduler"], text_encoder=["transformers", "T5EncoderModel"],
                 tokenizer=["transformers", "T5Tokenizer"])
    with open(f"{folder}/model_index.json", "w") as f:
        json.dump(dict(_class_name="CogVideoXPipeline", **parts), f, indent=2)


def latent_shape(height, width, frames):
    return 1 + (frames - 1) // 4, 16, height // 8, width // 8


def dit(folder, height, width, frames, runs):
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel.from_pretrained(f"{folder}/transformer", dtype=DTYPE).eval()
    x = torch.randn(2, *latent_shape(height, width, frames), dtype=DTYPE)
    text = torch.randn(2, 226, 4096, dtype=DTYPE)
    t = torch.tensor([500, 500])
    loaded = peak_bytes()
    seconds = timed(runs, lambda: model(hidden_states=x, encoder_hidden_states=text, timestep=t, return_dict=False))
    report("dit", seconds, loaded_bytes=loaded, peak_bytes=peak_bytes())


def vae(folder, height, width, frames, runs):
    from diffusers import AutoencoderKLCogVideoX

    model = AutoencoderKLCogVideoX.from_pretrained(f"{folder}/vae", dtype=DTYPE).eval()
    z = torch.randn(1, *latent_shape(height, width, frames), dtype=DTYPE).permute(0, 2, 1, 3, 4).contiguous()
    loaded = peak_bytes()
    seconds = timed(runs, lambda: model.decode(z, return_dict=False))
    report("vae", seconds, loaded_bytes=loaded, peak_bytes=peak_bytes())


def shapes(folder, out, steps):
    from diffusers import CogVideoXPipeline

    pipe = CogVideoXPipeline.from_pretrained(folder, dtype=DTYPE)
    pipe.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        positive, negative = pipe.encode_prompt(PROMPT, "", True, 1, max_sequence_length=32)
        start = time.perf_counter()
        video = pipe(prompt_embeds=positive, negative_prompt_embeds=negative, height=64, width=96, num_frames=17,
                     num_inference_steps=steps, guidance_scale=6.0, generator=torch.Generator().manual_seed(42),
                     max_sequence_length=32, output_type="np").frames[0]
        inner = time.perf_counter() - start  # denoise and decode alone
    raw = (video * 255).round().astype("uint8")
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "96x64",
                    "-r", "8", "-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", out],
                   input=raw.tobytes(), check=True)
    report("shapes", [inner], peak_bytes=peak_bytes())


def main(argv):
    if argv[:1] == ["make"] and len(argv) == 2:
        make(argv[1])
    elif argv[:1] in (["dit"], ["vae"]) and len(argv) == 6:
        {"dit": dit, "vae": vae}[argv[0]](argv[1], *map(int, argv[2:]))
    elif argv[:1] == ["shapes"] and len(argv) == 4:
        shapes(argv[1], argv[2], int(argv[3]))
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
