"""Trains the transformer and the text encoder together on cached latents, v-prediction, with the shipped schedule."""
import json
import os
import shutil
import time

import torch
from diffusers import (AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel)
from transformers import T5EncoderModel, T5Tokenizer

import measure
import world
from state import SEED, Trainer, generators, log, rate, write_json, write_whole

TEXT_LENGTH = 32
DROP_CAPTION = 0.25
PUSHED = 0.5       # the part of the examples that is seen as guidance distorts it, and by how much at most
PUSH = 8.0
PAIRED = 1 / 3     # the part of the rows that repeats an example without caption, for the error of the guided prediction;
SEEN = 0.2         # from this signal on, where the latents tell what the caption says
GUIDED = 1.0       # how much that error counts
EVALUATE_STEPS = 25
GUIDANCE = 6.0      # what cvx and diffusers take where nothing is said


class PlainAttention:
    """Joint attention in three matrix products: on a CPU in bfloat16, forward and backward take two thirds of the time
    of torch's fused kernel. Same arithmetic as diffusers' CogVideoXAttnProcessor2_0 without rotary positions."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        q, k, v = (f(x).unflatten(2, (attn.heads, -1)).transpose(1, 2) for f in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q).to(v.dtype), attn.norm_k(k).to(v.dtype)
        p = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype)
        x = attn.to_out[1](attn.to_out[0]((p @ v).transpose(1, 2).flatten(2)))
        return x[:, text:], x[:, :text]


def cache_latents(folder, recipe, device):
    """folder/latents.pt: posterior means [videos, 16, 5, 8, 12] in float16 (not yet scaled) and each one's combination.
    Sets the VAE's scaling factor to the inverse of their standard deviation."""
    path = os.path.join(folder, "latents.pt")
    if os.path.exists(path):
        value = torch.load(path, weights_only=True)
        return value["latents"], value["keys"]
    vae = AutoencoderKLCogVideoX.from_pretrained(os.path.join(folder, "vae"), torch_dtype=torch.float32).to(device)
    combinations = world.train_combinations()
    keys = torch.arange(recipe.videos) % len(combinations)
    latents, begin = [], 0
    chunk = 400
    parts = os.path.join(folder, "latents")
    os.makedirs(parts, exist_ok=True)
    while begin < recipe.videos:
        part = os.path.join(parts, f"{begin}.pt")
        if not os.path.exists(part):
            with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
                out = []
                for i in range(begin, min(begin + chunk, recipe.videos), 4):
                    x = torch.stack([world.video(combinations[keys[j]], generators(5, j)[0])
                                     for j in range(i, min(i + 4, recipe.videos))]).transpose(1, 2).to(device)
                    out.append(vae.encode(x).latent_dist.mean.half().cpu())
            write_whole(part, lambda p: torch.save(torch.cat(out), p))
            log(folder, stage="latents", videos=min(begin + chunk, recipe.videos), of=recipe.videos)
        latents.append(torch.load(part, weights_only=True))
        begin += chunk
    latents = torch.cat(latents)
    config = os.path.join(folder, "vae", "config.json")
    with open(config) as f:
        value = json.load(f)
    value["scaling_factor"] = round(1 / latents.float().std().item(), 4)
    write_json(config, value)
    write_whole(path, lambda p: torch.save(dict(latents=latents, keys=keys), p))
    shutil.rmtree(parts)
    log(folder, stage="latents", scaling_factor=value["scaling_factor"])
    return latents, keys


class Models:
    """Transformer, text encoder and what goes with them, loaded from START (a checkpoint folder)."""

    def __init__(self, start, device):
        self.tokenizer = T5Tokenizer.from_pretrained(os.path.join(start, "tokenizer"))
        self.scheduler = CogVideoXDDIMScheduler.from_pretrained(os.path.join(start, "scheduler"))
        self.text = T5EncoderModel.from_pretrained(os.path.join(start, "text_encoder"),
                                                   torch_dtype=torch.float32).to(device)
        self.transformer = CogVideoXTransformer3DModel.from_pretrained(os.path.join(start, "transformer"),
                                                                       torch_dtype=torch.float32).to(device)
        if device == "cpu":
            self.transformer.set_attn_processor(PlainAttention())

    def ids(self, captions):
        return self.tokenizer(captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True,
                              return_tensors="pt").input_ids


class Sampler:
    """What one training step sees, all decided by the step's number (and, for pushed latents, by the model)."""

    def __init__(self, folder, models, recipe, device):
        latents, self.keys = cache_latents(folder, recipe, device)
        with open(os.path.join(folder, "vae", "config.json")) as f:
            self.latents = latents * json.load(f)["scaling_factor"]
        self.combinations = world.train_combinations()
        self.alphas = models.scheduler.alphas_cumprod.float()
        self.sigmas = ((1 - self.alphas) / self.alphas.clamp(min=1e-12)).sqrt()
        self.models, self.device = models, device
        self.pairs = int(recipe.batch * PAIRED)
        self.batch = recipe.batch - self.pairs

    def times(self, gen):
        # evenly spread over the batch: the loss of a batch then depends less on which times it drew
        u = (torch.arange(self.batch) + torch.rand(self.batch, generator=gen)) / self.batch
        # every second one goes where outlines are decided: with more noise nothing but chance is left, with less they stand
        u = torch.where(torch.rand(self.batch, generator=gen) < 0.5, 0.35 + 0.55 * u, u)
        return (u * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)

    def pushed(self, x0, noise, t, captions, gen):
        """x0 as a guided sampler carries it in its latents at time t: with guidance_scale g each step's clean latents are
        g - 1 times the difference of the predictions with and without caption away from the right ones, and the latents
        at sigma hold those of the steps before it, the step at s with density sigma / s^2 (Euler's method on the
        probability flow). One such s is drawn. Without it outlines run away at high guidance."""
        strength = PUSH * torch.rand(self.batch, generator=gen)
        chosen = torch.rand(self.batch, generator=gen) < PUSHED
        s = self.sigmas[t] / torch.rand(self.batch, generator=gen).clamp(min=1e-6)
        # with little noise nothing is left to push, and a velocity would magnify what there is
        rows = (chosen & (self.alphas[t] < 0.9)).nonzero().flatten()
        if len(rows) == 0:
            return x0
        before = torch.searchsorted(self.sigmas, s[rows]).clamp(max=len(self.sigmas) - 1)
        a = self.alphas[before].view(-1, 1, 1, 1, 1)
        x = (a.sqrt() * x0[rows] + (1 - a).sqrt() * noise[rows]).to(self.device)
        ids = self.models.ids([captions[i] for i in rows] + [""] * len(rows)).to(self.device)
        with torch.no_grad(), torch.autocast(self.device, dtype=torch.bfloat16):
            y = self.models.transformer(hidden_states=torch.cat([x, x]), encoder_hidden_states=self.models.text(ids)[0],
                                        timestep=torch.cat([before, before]).to(self.device), return_dict=False)[0]
        with_caption, without = y.float().cpu().chunk(2)
        out = x0.clone()
        out[rows] -= strength[rows].view(-1, 1, 1, 1, 1) * (1 - a).sqrt() * (with_caption - without)
        return out

    def pair(self, t, gen):
        """Examples that come once more without caption: of those whose latents tell what it says, as many as may be."""
        order = torch.randperm(self.batch, generator=gen)
        return order[self.alphas[t[order]].sqrt() > SEEN][:self.pairs]

    def __call__(self, step):
        """Noisy latents, the velocity that leads to the clean ones, how much an error counts, times, caption tokens; and
        which examples the rows behind the batch repeat without caption, with the guidance of each."""
        rng, gen = generators(6, step)
        pick = torch.randint(len(self.latents), (self.batch,), generator=gen)
        x0 = self.latents[pick].float().transpose(1, 2)
        captions = [world.caption(self.combinations[self.keys[i]], rng) for i in pick]
        t = self.times(gen)
        again = self.pair(t, gen)
        shown = [c if i in set(again.tolist()) or rng.random() >= DROP_CAPTION else "" for i, c in enumerate(captions)]
        guidance = 1 + (PUSH - 1) * torch.rand(len(again), generator=gen)
        noise = torch.randn(x0.shape, generator=gen)
        a = self.alphas[t].view(-1, 1, 1, 1, 1)
        x = a.sqrt() * self.pushed(x0, noise, t, captions, gen) + (1 - a).sqrt() * noise
        # a squared error of the velocity is (1 - a) times as large in the clean latents: what a viewer sees of it
        rows = torch.cat([torch.arange(self.batch), again])
        value = x, (a.sqrt() * x - x0) / (1 - a).sqrt(), (1 - a).clamp(min=0.1), t
        return *(v[rows] for v in value), self.models.ids(shown + [""] * len(again)), again, guidance


def error(y, target, weight, again, guidance):
    """Mean squared error of all rows, and of what guidance makes of the paired ones: where the latents tell what the caption
    says, the right answer is the same with it and without, and a difference would be magnified."""
    e = y - target
    n = len(e) - len(again)
    without, guided = e[n:], guidance.view(-1, 1, 1, 1, 1)
    guided = without + guided * (e[again] - without)
    return (weight * e.pow(2)).mean() + GUIDED * (weight[n:] * guided.pow(2)).sum() / e.numel()


def evaluate(folder, models, vae, count, steps, device, clip=None, guidance=GUIDANCE):
    """Videos of the first COUNT held-out prompts, each with its own seed, judged by measurement; also saves a sheet."""
    pipe = CogVideoXPipeline(tokenizer=models.tokenizer, text_encoder=models.text, vae=vae,
                             transformer=models.transformer, scheduler=models.scheduler)
    pipe.set_progress_bar_config(disable=True)
    keys = world.held_out()
    keys = [keys[(i * 27) % len(keys)] for i in range(count)]     # 27 and 70 share no factor: a mix of everything
    videos = []
    for i in range(0, count, 14):
        part = range(i, min(i + 14, count))
        with torch.no_grad():
            latents = pipe([world.caption(keys[j]) for j in part], negative_prompt=[""] * len(part),
                           height=world.HEIGHT, width=world.WIDTH, num_frames=world.FRAMES, num_inference_steps=steps,
                           guidance_scale=guidance, max_sequence_length=TEXT_LENGTH, output_type="latent",
                           generator=[torch.Generator().manual_seed(1000 + j) for j in part]).frames
            for z in latents:
                y = pipe.decode_latents(z[None])[0]
                videos.append(((y.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu())
    result, misses = measure.judge(videos, keys, clip)
    sheet(os.path.join(folder, "sheet.png"), videos[:14])
    return result, misses


def sheet(path, videos):
    """A PNG with one row of five frames a video."""
    from PIL import Image
    rows = [torch.cat([v[t] for t in (0, 4, 8, 12, 16)], 1) for v in videos]
    Image.fromarray(torch.cat(rows).numpy()).save(path)


def train(folder, start, recipe, device, clip_folder):
    """Until recipe.steps; leaves the averaged weights in folder/transformer and folder/text_encoder."""
    done = os.path.join(folder, "transformer")
    if os.path.exists(os.path.join(done, "config.json")):
        return
    models = Models(start, device)
    draw = Sampler(folder, models, recipe, device)
    vae = AutoencoderKLCogVideoX.from_pretrained(os.path.join(folder, "vae"), torch_dtype=torch.float32).to(device)
    clip = measure.Clip(clip_folder, device)
    dit = models.transformer
    parameters = list(dit.parameters()) + list(models.text.parameters())
    # what meets latents, times and tokens is no hidden layer
    plain = [p for m in (dit.patch_embed, dit.proj_out, dit.time_embedding, models.text.shared) for p in m.parameters()]
    plain += [p for n, p in models.text.named_parameters() if "relative_attention_bias" in n]
    trainer = Trainer(os.path.join(folder, "transformer.pt"), parameters, plain, 1e-3, (0.9, 0.98), recipe.ema)
    trainer.load()
    smooth, began, first = None, time.monotonic(), trainer.step
    while trainer.step < recipe.steps:
        x, target, weight, t, ids, again, guidance = (v.to(device) for v in draw(trainer.step))
        with torch.autocast(device, dtype=torch.bfloat16):
            y = models.transformer(hidden_states=x, encoder_hidden_states=models.text(ids)[0], timestep=t,
                                   return_dict=False)[0]
        loss = error(y.float(), target, weight, again, guidance)
        trainer.update(loss, rate(trainer.step, recipe.steps, recipe.lr))
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if trainer.step % recipe.log_every == 0:
            pace = (time.monotonic() - began) / (trainer.step - first)
            log(folder, stage="transformer", step=trainer.step, of=recipe.steps, loss=smooth,
                hours_left=(recipe.steps - trainer.step) * pace / 3600)
        if trainer.step % recipe.evaluate_every == 0:
            with trainer.averaged():
                result, _ = evaluate(folder, models, vae, recipe.evaluate_prompts, EVALUATE_STEPS, device, clip)
            log(folder, stage="transformer", step=trainer.step, prompts=recipe.evaluate_prompts, **result)
        trainer.rest(recipe.save_seconds, recipe.stop_after)
    trainer.save()
    with trainer.averaged():
        models.text.save_pretrained(os.path.join(folder, "text_encoder"))
        partial = done + ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        models.transformer.save_pretrained(partial)
        os.rename(partial, done)
