"""Trains the VAE: from the shipped weights, its latent first turned so that all sixteen channels matter alike."""
import os
import shutil
import time

import torch
from diffusers import AutoencoderKLCogVideoX

import world
from state import Trainer, generators, log, rate

KL_WEIGHT = 1e-3


def clips(step, count, stage=1):
    """[count, 3, frames, height, width] of random training combinations."""
    rng, _ = generators(stage, step)
    keys = world.train_combinations()
    return torch.stack([world.video(rng.choice(keys), rng) for _ in range(count)]).transpose(1, 2)


@torch.no_grad()
def latent_means(vae, x, device):
    return torch.cat([vae.encode(v[None].to(device)).latent_dist.mean.cpu() for v in x])


@torch.no_grad()
def whiten(vae, device, count):
    """Folds a linear map into the weights after which the latent channels are uncorrelated, of mean 0 and of variance 1.

    The map goes into the encoder's last convolution, its inverse into everything of the decoder that reads the latent
    (its first convolution and the spatial norms), so that decode(encode(x)) stays what it was, up to the zero padding
    at the borders, which now stands for the mean.
    """
    z = latent_means(vae, clips(0, count, stage=2), device).transpose(0, 1).flatten(1).double()
    mean = z.mean(1)
    variance, axes = torch.linalg.eigh(torch.cov(z))
    # the symmetric root: every channel stays as near as can be to what it was, so that a transformer can follow
    there = axes / variance.sqrt() @ axes.T
    back = axes * variance.sqrt() @ axes.T
    out = vae.encoder.conv_out.conv
    c = len(mean)
    weight, bias = out.weight.double().cpu(), out.bias.double().cpu()
    weight[:c] = torch.einsum("ij,j...->i...", there, weight[:c])
    bias[:c] = there @ (bias[:c] - mean)
    weight[c:], bias[c:] = 0, -4.6     # posterior of standard deviation 0.1
    out.weight.copy_(weight)
    out.bias.copy_(bias)
    readers = [vae.decoder.conv_in] + [m for n, m in vae.decoder.named_modules() if n.endswith((".conv_y", ".conv_b"))]
    for reader in readers:
        conv = reader.conv
        weight, bias = conv.weight.double().cpu(), conv.bias.double().cpu()
        bias += weight.flatten(2).sum(2) @ mean
        conv.weight.copy_(torch.einsum("oi...,ij->oj...", weight, back))
        conv.bias.copy_(bias)


def psnr(x, y):
    """Mean over videos of the peak signal-to-noise ratio, on the 8-bit frames that a user gets."""
    a, b = (((v.clamp(-1, 1) + 1) * 127.5).round() for v in (x, y))
    mse = (a - b).pow(2).flatten(1).mean(1)
    return (10 * torch.log10(255 ** 2 / mse)).mean().item()


@torch.no_grad()
def evaluate(vae, device, count, fast=True):
    """PSNR in dB of decode(posterior mean) on videos that training never draws; fast: in bfloat16."""
    x = clips(0, count, stage=3)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=fast):
        y = torch.cat([vae.decode(vae.encode(v[None].to(device)).latent_dist.mean).sample.float().cpu() for v in x])
    return psnr(x, y)


def loss_of(vae, x, noise, fixed=False):
    """Reconstruction, weighted five times near the shape, plus the KL term that keeps the latent near a unit normal;
    fixed: the encoder is not trained, and its latent gets a little more noise, for the transformer's are not exact."""
    with torch.set_grad_enabled(not fixed):
        posterior = vae.encode(x).latent_dist
        mean, deviation = posterior.mean.float(), posterior.std.float()
    y = vae.decode(mean + (deviation + (0.03 if fixed else 0)) * noise).sample.float()
    ground = x.flatten(2).median(2).values[:, :, None, None, None]
    weight = 1 + 4 * ((x - ground).abs().amax(1, keepdim=True) > 0.15).float()
    weight = torch.nn.functional.max_pool3d(weight, (1, 5, 5), 1, (0, 2, 2))
    error = y - x
    rec = (weight * (4 * error.pow(2) + 0.25 * error.abs())).mean()
    kl = 0.5 * (mean.pow(2) + deviation.pow(2) - 1 - 2 * deviation.log()).mean()
    return rec + KL_WEIGHT * kl, rec, kl


def finish(vae, done):
    partial = done + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    vae.save_pretrained(partial)
    os.rename(partial, done)


def loop(folder, stage, vae, trainer, steps, recipe, device):
    """Trains until STEPS, evaluates the averaged weights and leaves them in folder/STAGE."""
    fixed = stage == "decoder"
    smooth, began, first = None, time.monotonic(), trainer.step
    while trainer.step < steps:
        # the decoder's own stage sees other videos than the first one
        drawn = trainer.step + (1_000_000 if fixed else 0)
        x = clips(drawn, recipe.vae_batch).to(device)
        _, gen = generators(4, drawn)
        noise = torch.randn(len(x), vae.config.latent_channels, 1 + (x.shape[2] - 1) // 4, x.shape[3] // 8,
                            x.shape[4] // 8, generator=gen).to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss, rec, kl = loss_of(vae, x, noise, fixed)
        trainer.update(loss, rate(trainer.step, steps, recipe.vae_lr, 100, 0.4))
        smooth = rec.item() if smooth is None else 0.98 * smooth + 0.02 * rec.item()
        if trainer.step % recipe.log_every == 0:
            pace = (time.monotonic() - began) / (trainer.step - first)
            log(folder, stage=stage, step=trainer.step, of=steps, loss=smooth, kl=kl.item(),
                hours_left=(steps - trainer.step) * pace / 3600)
        if trainer.step % recipe.vae_evaluate_every == 0:
            with trainer.averaged():
                log(folder, stage=stage, step=trainer.step, psnr=evaluate(vae, device, recipe.vae_evaluate_videos))
        trainer.rest(recipe.save_seconds, recipe.stop_after)
    trainer.save()
    with trainer.averaged():
        log(folder, stage=stage, step=trainer.step, psnr_final=evaluate(vae, device, recipe.vae_evaluate_videos))
        finish(vae, os.path.join(folder, stage))


def train(folder, start, recipe, device):
    """Encoder and decoder until recipe.vae_steps, from the VAE in START; the result is folder/vae."""
    if os.path.exists(os.path.join(folder, "vae", "config.json")):
        return
    vae = AutoencoderKLCogVideoX.from_pretrained(start, torch_dtype=torch.float32).to(device)
    # what meets the pixels is no hidden layer
    plain = list(vae.encoder.conv_in.parameters()) + list(vae.decoder.conv_out.parameters())
    trainer = Trainer(os.path.join(folder, "vae.pt"), vae.parameters(), plain, 0.0, (0.9, 0.99), 0.995)
    if not trainer.load():
        before = evaluate(vae, device, recipe.vae_evaluate_videos)
        whiten(vae, device, 3 * recipe.vae_evaluate_videos)
        for a, p in zip(trainer.average, trainer.parameters):
            a.copy_(p.detach())
        log(folder, stage="vae", step=0, psnr_start=before,
            psnr_whitened=evaluate(vae, device, recipe.vae_evaluate_videos))
    loop(folder, "vae", vae, trainer, recipe.vae_steps, recipe, device)


def train_decoder(folder, recipe, device):
    """The decoder alone until recipe.decoder_steps, from folder/vae, whose latents stay what they are; the result, with
    the encoder, is folder/decoder."""
    if os.path.exists(os.path.join(folder, "decoder", "config.json")):
        return
    vae = AutoencoderKLCogVideoX.from_pretrained(os.path.join(folder, "vae"), torch_dtype=torch.float32).to(device)
    trainer = Trainer(os.path.join(folder, "decoder.pt"), vae.decoder.parameters(),
                      list(vae.decoder.conv_out.parameters()), 0.0, (0.9, 0.99), 0.995)
    trainer.load()
    loop(folder, "decoder", vae, trainer, recipe.decoder_steps, recipe, device)


def newest(folder):
    """The folder of the finished VAE with the better decoder."""
    for stage in ("decoder", "vae"):
        if os.path.exists(os.path.join(folder, stage, "config.json")):
            return os.path.join(folder, stage)
    raise SystemExit(f"{folder}: the VAE is still in training, and what follows needs it")
