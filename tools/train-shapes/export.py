"""Makes a checkpoint folder of what was trained, and every golden that depends on its weights, with diffusers."""
import json
import os
import shutil
import tempfile

import torch
from diffusers import (AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXPipeline,
                       CogVideoXTransformer3DModel)
from diffusers.hooks import FirstBlockCacheConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, T5EncoderModel

import measure
import transformer
import vae as vae_stage
import world
from state import write_whole

LIMIT = 20_000_000
TINY_CLIP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/data/variants/tiny-clip")
CLIP_GOLDENS = ("clip", "clip-f32", "clip-tiny")


def size_of(folder):
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(folder) for f in files)


def weights_of(folder, part, trainer_file, model, parameters):
    """Loads the averaged weights of an unfinished stage, if there is one, into MODEL; says which step they are of."""
    path = os.path.join(folder, trainer_file)
    if not os.path.exists(path):
        raise SystemExit(f"{path}: no such checkpoint, and no {part} in {folder}: train first")
    value = torch.load(path, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for p, a in zip(parameters, value["average"]):
            p.copy_(a)
    return value["step"]


def assemble(folder, start, out):
    """A checkpoint in bfloat16 in OUT, of FOLDER's finished parts or, of a part still in training, of its averaged weights
    so far; tokenizer, schedule and everything not trained are those of START."""
    vae = AutoencoderKLCogVideoX.from_pretrained(vae_stage.newest(folder), torch_dtype=torch.float32)
    if os.path.exists(os.path.join(folder, "transformer", "config.json")):
        dit = CogVideoXTransformer3DModel.from_pretrained(os.path.join(folder, "transformer"),
                                                          torch_dtype=torch.float32)
        text = T5EncoderModel.from_pretrained(os.path.join(folder, "text_encoder"), torch_dtype=torch.float32)
    else:
        dit = CogVideoXTransformer3DModel.from_pretrained(os.path.join(start, "transformer"),
                                                          torch_dtype=torch.float32)
        text = T5EncoderModel.from_pretrained(os.path.join(start, "text_encoder"), torch_dtype=torch.float32)
        step = weights_of(folder, "transformer", "transformer.pt", dit,
                          list(dit.parameters()) + list(text.parameters()))
        print(f"the transformer is still in training: its averaged weights of step {step}")
    partial = out + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    for model, name in ((vae, "vae"), (dit, "transformer"), (text, "text_encoder")):
        # no folder of the machine that trained it belongs into the file
        model.config._name_or_path = ""
        model.to(torch.bfloat16).save_pretrained(os.path.join(partial, name))
        config = os.path.join(partial, name, "config.json")
        with open(config) as f:
            value = json.load(f)
        value.pop("_name_or_path", None)
        with open(config, "w") as f:
            json.dump(value, f, indent=2, sort_keys=True)
            f.write("\n")
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(os.path.join(start, name), os.path.join(partial, name))
    shutil.copy(os.path.join(start, "model_index.json"), partial)
    if size_of(partial) > LIMIT:
        raise SystemExit(f"{partial}: {size_of(partial)} bytes, more than {LIMIT}")
    return partial


def evaluate(folder, out, clip_folder, device, count=70, steps=50, guidance=transformer.GUIDANCE):
    """The figures of the checkpoint in OUT as a user runs it: f32, COUNT held-out prompts; VAE's PSNR."""
    models = transformer.Models(out, device)
    vae = AutoencoderKLCogVideoX.from_pretrained(os.path.join(out, "vae"), torch_dtype=torch.float32).to(device)
    result, misses = transformer.evaluate(folder, models, vae, count, steps, device, measure.Clip(clip_folder, device),
                                          guidance)
    result["psnr"] = vae_stage.evaluate(vae, device, 32, fast=False)
    return result, misses


CASES = (dict(name="red-circle-right", prompt="a red circle moving right on a black background", seed=42, steps=50,
              guidance=6.0, scheduler=CogVideoXDDIMScheduler, dynamic=False),
         dict(name="blue-square-growing", prompt="a blue square growing on a white background", seed=7, steps=20,
              guidance=4.0, scheduler=CogVideoXDPMScheduler, dynamic=True),
         dict(name="yellow-star-up", prompt="a yellow star moving up on a gray background", seed=3, steps=10,
              guidance=1.0, scheduler=CogVideoXDDIMScheduler, dynamic=False),
         dict(name="green-triangle-cached", prompt="a green triangle moving left on a blue background", seed=11, steps=25,
              guidance=6.0, scheduler=CogVideoXDDIMScheduler, dynamic=False, cache=0.1))


def save_golden(path, tensors, metadata):
    write_whole(path, lambda p: save_file({k: v.contiguous() for k, v in tensors.items()}, p, metadata=metadata))


def pipeline_goldens(checkpoint, out):
    """Whole runs, in float32 on the CPU: the latents after the first and the last step, and the frames; of one with a
    first-block cache the latents alone."""
    import diffusers
    pipe = CogVideoXPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for case in CASES:
        pipe.scheduler = case["scheduler"].from_config(pipe.scheduler.config)
        latents, cache = [], case.get("cache", 0)
        if cache:
            pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=cache))

        def keep(_pipe, _i, _t, values):
            latents.append(values["latents"].clone())
            return values
        with torch.no_grad():
            frames = pipe(prompt=case["prompt"], negative_prompt="", height=world.HEIGHT, width=world.WIDTH,
                          num_frames=world.FRAMES, num_inference_steps=case["steps"], guidance_scale=case["guidance"],
                          use_dynamic_cfg=case["dynamic"], generator=torch.Generator().manual_seed(case["seed"]),
                          max_sequence_length=transformer.TEXT_LENGTH, output_type="pt",
                          callback_on_step_end=keep).frames[0]
        tensors = dict(latents_first=latents[0], latents_last=latents[-1])
        if cache:
            pipe.transformer.disable_cache()
        else:
            tensors["frames"] = (frames * 255).round().to(torch.uint8)
        save_golden(os.path.join(out, case["name"] + ".safetensors"), tensors,
                    dict(prompt=case["prompt"], negative_prompt="", num_inference_steps=str(case["steps"]),
                         guidance_scale=str(case["guidance"]), seed=str(case["seed"]),
                         use_dynamic_cfg=str(case["dynamic"]), first_block_cache=str(cache), scheduler=case["scheduler"].__name__,
                         note="latents_first: after step 1", height="64", width="96", num_frames="17",
                         max_sequence_length=str(transformer.TEXT_LENGTH),
                         reference=f"diffusers {diffusers.__version__} f32 CPU, torch.Generator cpu"))


@torch.no_grad()
def clip_goldens(clip_folder, out):
    """CLIP on the frames of the first golden, in the checkpoint's bfloat16 and in float32, and the tests' tiny CLIP on its
    first ten. What does not depend on the frames (token ids, crops, captions) stays as it stands in OUT."""
    frames = load_file(os.path.join(out, "red-circle-right.safetensors"))["frames"].permute(0, 2, 3, 1).numpy()
    runs = ((clip_folder, torch.bfloat16, len(frames), 8), (clip_folder, torch.float32, len(frames), 8),
            (TINY_CLIP, torch.float32, 10, 1))
    for name, (folder, dtype, count, every) in zip(CLIP_GOLDENS, runs):
        path = os.path.join(out, name + ".safetensors")
        tensors = load_file(path)
        with safe_open(path, "pt") as f:
            metadata = f.metadata()
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        model = CLIPModel.from_pretrained(folder, torch_dtype=dtype).eval()
        length = model.config.text_config.max_position_embeddings
        pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=list(frames[:count]),
                                                               return_tensors="pt").pixel_values
        if "pixel_values" in tensors:
            tensors["pixel_values"] = pixels[::every]
        image = model.get_image_features(pixel_values=pixels.to(dtype))
        image = getattr(image, "pooler_output", image)
        tensors["image_embeds"] = image
        for i, caption in enumerate(json.loads(metadata["captions"])):
            ids = tokenizer(caption, return_tensors="pt", truncation=True, max_length=length)
            text = model.get_text_features(**ids)
            text = getattr(text, "pooler_output", text)
            score = 100 * (image / image.norm(dim=-1, keepdim=True)) @ (text / text.norm(dim=-1, keepdim=True))[0]
            tensors[f"text_embeds_{i}"] = text[0]
            tensors[f"scores_{i}"] = score.clamp(min=0)
        save_golden(path, tensors, metadata)


def goldens(checkpoint, clip_folder, out):
    pipeline_goldens(checkpoint, out)
    clip_goldens(clip_folder, out)


def readme(out, result, misses, device, count, steps):
    """The checkpoint's README: what it draws, how well it was measured to obey, what it never saw."""
    percent = {name: f"{100 * value:.1f} %" for name, value in result.items() if name != "psnr"}
    held = "\n".join("- " + ", ".join(k) for k in world.held_out())
    missed = "\n".join("- " + m for m in misses) or "- none"
    with open(os.path.join(out, "README.md"), "w") as f:
        f.write(f"""# shapes: a small CogVideoX that draws moving shapes

CogVideoX architecture (2b kind: sincos positions; v-prediction, zero-SNR, DDIM), 64x96, 17 frames, trained on
procedural videos by [tools/train-shapes](../../tools/train-shapes). The weights are ours, under the project's licence.

Prompts: "a {{{'|'.join(world.COLORS)}}} {{{'|'.join(world.FORMS)}}} {{{'|'.join(world.MOTIONS)}}} on a
{{{'|'.join(world.BACKS)}}} background".

Measured with `tools/train-shapes/train install` (diffusers, f32, {device}), {count} prompts of combinations that training
never drew, a seed each, {steps} steps, guidance {transformer.GUIDANCE:g}:

| what | right |
|---|---|
| colour | {percent['colour']} |
| form | {percent['form']} |
| motion | {percent['motion']} |
| background | {percent['background']} |
| all four | {percent['all']} |
| CLIP ranks the right caption of 96 first, share of frames | {percent['clip']} |
| VAE, PSNR of decode(encode(video)) | {result['psnr']:.1f} dB |

Missed:

{missed}

Combinations never trained on (colour, form, motion, background; 30 of them, chosen for balance, were known to the
first checkpoint, from whose weights this one started):

{held}
""")


def install(folder, start, out, clip_folder, golden_folder, device, count, steps):
    """Assembles, evaluates, then puts the checkpoint in OUT and its goldens in GOLDEN_FOLDER."""
    partial = assemble(folder, start, out)
    result, misses = evaluate(folder, partial, clip_folder, device, count, steps)
    if golden_folder:
        with tempfile.TemporaryDirectory() as made:
            for f in CLIP_GOLDENS:
                shutil.copy(os.path.join(golden_folder, f + ".safetensors"), made)
            goldens(partial, clip_folder, made)
            for f in os.listdir(made):
                write_whole(os.path.join(golden_folder, f), lambda p, f=f: shutil.copy(os.path.join(made, f), p))
    readme(partial, result, misses, device, count, steps)
    old = out + ".old"
    if os.path.exists(out):
        os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old, ignore_errors=True)
    return result, misses
